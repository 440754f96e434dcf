-- The places in Loops' limit, which all forwarders share. Two times, for what is left to others is not counted as ours.
create table if not exists loops_slots (
    slot int primary key,
    use bigint not null default 0, -- tells the uses apart: what is given back late changes nothing
    started_at timestamptz not null default '-infinity',
    ours_until timestamptz not null default '-infinity',
    others_until timestamptz not null default '-infinity'
) with (fillfactor = 50);
-- Which teams have been welcomed: asked for with each claim.
create index if not exists forwarder_sent_welcomes on forwarder_sent (team_id) where template_kind = 'onboarding.claimed';
