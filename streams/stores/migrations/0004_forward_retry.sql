-- A mail that waits on a retry topic: where and until when, how often it was put there, and its place on audit.events, which orders its
-- team's mails. Marked once the record on the retry topic is acknowledged; null again once the mail has its outcome.
alter table forwarder_sent add column if not exists waiting_topic text;
alter table forwarder_sent add column if not exists waiting_due timestamptz;
alter table forwarder_sent add column if not exists waiting_round int;
alter table forwarder_sent add column if not exists origin_partition int;
alter table forwarder_sent add column if not exists origin_offset bigint;

create index if not exists forwarder_sent_waiting on forwarder_sent (team_id)
    where waiting_topic is not null and classification = 'in_flight';
