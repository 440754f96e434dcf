-- One row for each thing that happened to a team; the id is derived from what caused it, so writing again changes nothing.
create table if not exists audit_log (
    id uuid primary key,
    team_id uuid, -- null only for billing.charge_undeliverable of an unknown team
    user_id uuid,
    actor text not null default 'agent',
    kind text not null,
    resource_type text,
    resource_id uuid,
    summary text not null,
    metadata jsonb not null,
    created_at timestamptz not null -- the time of the fact
);

create index if not exists audit_log_team_id_created_at on audit_log (team_id, created_at desc);
