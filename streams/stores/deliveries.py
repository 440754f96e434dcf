"""The ledger as an operator reads it, and what an operator decides about rows of it.

A decision is one statement, and says beside the row that it is not yet on ``audit.events`` (``resolution_open``). Whoever comes next publishes it,
so that a command that is killed anywhere is finished by the same command.
"""

import uuid
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

import orjson

from streams.stores.classification import RESOLVABLE
from streams.stores.pool import PostgresPool


class Resolution(StrEnum):
    """What an operator may say of a mail."""

    SENT = "sent"
    """It has arrived, or is not to be sent: whoever decides knows so."""
    SUPPRESSED = "suppressed"
    RETRY = "retry"


class Filters(NamedTuple):
    """Which rows. None and an empty tuple leave a field out; times are those at which a row was first written."""

    classifications: Sequence[str] = ()
    team_id: uuid.UUID | None = None
    since: datetime | None = None
    until: datetime | None = None
    audit_ids: Sequence[uuid.UUID] = ()


class Delivery(NamedTuple):
    """A row of the ledger. ``recipient`` is masked; ``resolution`` is what an operator decided last."""

    audit_id: uuid.UUID
    team_id: uuid.UUID | None
    kind: str
    classification: str
    recipient: str | None
    attempts: int
    recorded_at: datetime
    first_attempt_at: datetime | None
    sent_at: datetime | None
    delivered_at: datetime | None
    provider_id: str | None
    last_error: str | None
    resends: int
    resolution: dict[str, Any] | None


class Feedback(NamedTuple):
    """One mail of Loops that was matched with a row, and when what was reported of it."""

    email_id: str
    sent_at: datetime | None
    delivered_at: datetime | None
    bounced_soft_at: datetime | None
    bounced_hard_at: datetime | None
    complaint_at: datetime | None
    unsubscribed_at: datetime | None


class Decision(NamedTuple):
    """What an operator decides: why, in the name of ``by``, at ``at``."""

    resolution: Resolution
    because: str
    by: str
    at: datetime


_COLUMNS = """audit_id, team_id, template_kind, classification, recipient, attempts, recorded_at, first_attempt_at, sent_at, delivered_at,
    provider_id, last_error, resends, resolution"""
_WHERE = """
where (cardinality($1::text[]) = 0 or classification = any($1)) and ($2::uuid is null or team_id = $2)
    and ($3::timestamptz is null or recorded_at >= $3) and ($4::timestamptz is null or recorded_at < $4)
    and (cardinality($5::uuid[]) = 0 or audit_id = any($5))
"""
_COUNTS = f"select classification, count(*) from forwarder_sent {_WHERE} group by classification order by 2 desc, 1"
_ROWS = f"select {_COLUMNS} from forwarder_sent {_WHERE} order by recorded_at desc, audit_id limit $6"
_FEEDBACK = f"select {', '.join(Feedback._fields)} from loops_mails where audit_id = $1 order by coalesce(sent_at, delivered_at), email_id"
_SUPPRESSION = "select reason from address_feedback join forwarder_sent using (address_hash) where audit_id = $1"
_OPEN = f"select {_COLUMNS} from forwarder_sent where resolution_open order by audit_id"
_RESOLVE = """
update forwarder_sent set
    classification = case $2 when 'retry' then 'in_flight' else $2 end,
    first_attempt_at = case $2 when 'retry' then null else first_attempt_at end,
    waiting_topic = null,
    waiting_due = null,
    waiting_round = null, -- what still stands on a retry topic counts as taken over by the record that is published
    resends = resends + case $2 when 'retry' then 1 else 0 end,
    forwarded_as = null,
    resolution = jsonb_build_object('as', $2::text, 'from', classification, 'because', $3::text, 'by', $4::text,
        'at', extract(epoch from $5::timestamptz)),
    resolution_open = true
where audit_id = any($1::uuid[]) and classification = any($6::text[]) and not resolution_open
"""
_PUBLISHED = "update forwarder_sent set resolution_open = false where audit_id = any($1::uuid[])"


class StoredDeliveries:
    """The ledger for a command. Raises PostgresUnavailable and DatabaseUnfit, and waits for nothing."""

    def __init__(self, pool: PostgresPool) -> None:
        """``pool`` is open."""
        self._pool = pool

    async def counts(self, filters: Filters) -> dict[str, int]:
        """Return how many rows there are of each classification, the most first."""
        found = await self._pool.attempt(lambda connection: connection.fetch(_COUNTS, *filters))
        return {row["classification"]: row["count"] for row in found}

    async def rows(self, filters: Filters, limit: int) -> list[Delivery]:
        """Return the newest rows."""
        found = await self._pool.attempt(lambda connection: connection.fetch(_ROWS, *filters, limit))
        return [_delivery(*row.values()) for row in found]

    async def feedback(self, audit_id: uuid.UUID) -> tuple[list[Feedback], str | None]:
        """Return what Loops reported of a row's mails, and why mail to its address is suppressed now."""
        found = await self._pool.attempt(lambda connection: connection.fetch(_FEEDBACK, audit_id))
        reason = await self._pool.attempt(lambda connection: connection.fetchval(_SUPPRESSION, audit_id))
        return [Feedback(*row.values()) for row in found], reason

    async def resolve(self, audit_ids: Sequence[uuid.UUID], decision: Decision) -> None:
        """Write a decision down for those of the rows that may be decided about. It is open until ``published``."""
        resolution, because, by, at = decision
        resolvable = [one.value for one in RESOLVABLE]
        await self._pool.attempt(
            lambda connection: connection.execute(_RESOLVE, list(audit_ids), resolution.value, because, by, at, resolvable)
        )

    async def open_resolutions(self) -> list[Delivery]:
        """Return the rows whose decision is not known to be on ``audit.events``."""
        return [_delivery(*row.values()) for row in await self._pool.attempt(lambda connection: connection.fetch(_OPEN))]

    async def published(self, audit_ids: Sequence[uuid.UUID]) -> None:
        """Note that the decisions about these rows are on ``audit.events``."""
        await self._pool.attempt(lambda connection: connection.execute(_PUBLISHED, list(audit_ids)))


def _delivery(*values: Any) -> Delivery:
    return Delivery._make((*values[:-1], None if values[-1] is None else orjson.loads(values[-1])))
