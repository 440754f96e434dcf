-- What Loops reports about mails: who a row was for (as a hash), what the forwarder said before any feedback, what operators decided.
alter table forwarder_sent add column if not exists address_hash bytea;
alter table forwarder_sent add column if not exists forwarded_as text; -- classification before feedback; null: none came
alter table forwarder_sent add column if not exists resolution jsonb; -- an operator's latest decision
alter table forwarder_sent add column if not exists resolution_open boolean not null default false; -- not yet on audit.events
alter table forwarder_sent add column if not exists resends int not null default 0; -- how often an operator had it sent again

create index if not exists forwarder_sent_address on forwarder_sent (address_hash, first_attempt_at) where address_hash is not null;
create index if not exists forwarder_sent_resolution_open on forwarder_sent (audit_id) where resolution_open;
create index if not exists forwarder_sent_recorded_at on forwarder_sent (recorded_at);

-- One row for each mail that Loops has reported on; the earliest time of each event, so that repeating and reordering change nothing.
create table if not exists loops_mails (
    email_id text primary key,
    address_hash bytea not null,
    kind text, -- of the workflow that sent it, where its name says so
    sent_at timestamptz,
    delivered_at timestamptz,
    bounced_soft_at timestamptz,
    bounced_hard_at timestamptz,
    complaint_at timestamptz,
    unsubscribed_at timestamptz,
    matched_by jsonb, -- what audit_id was found by: it is looked for again when that changes
    audit_id uuid
);

create index if not exists loops_mails_audit_id on loops_mails (audit_id);

-- What is known of addresses, which are kept as hashes only; reason says why mail to one is suppressed, null that it is not.
create table if not exists address_feedback (
    address_hash bytea primary key,
    bounced_hard_at timestamptz,
    complaint_at timestamptz,
    unsubscribed_at timestamptz,
    resubscribed_at timestamptz,
    reason text generated always as (
        case when complaint_at is not null then 'complaint'
            when bounced_hard_at is not null then 'bounced_hard'
            when unsubscribed_at > resubscribed_at or (unsubscribed_at is not null and resubscribed_at is null) then 'unsubscribed'
        end
    ) stored
);
