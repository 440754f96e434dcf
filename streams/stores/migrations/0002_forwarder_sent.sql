-- The forwarder's ledger: one row for each audit event that has a mail, written before the call.
-- classification is open on purpose (no check): feedback adds values of its own, and an older worker must not refuse them.
create table if not exists forwarder_sent (
    audit_id uuid primary key,
    provider text not null default 'loops',
    provider_id text,
    recipient text, -- masked
    template_kind text not null,
    classification text not null,
    attempts int not null default 0,
    first_attempt_at timestamptz,
    sent_at timestamptz,
    delivered_at timestamptz,
    last_error text,
    team_id uuid,
    recorded_at timestamptz not null default now()
);
