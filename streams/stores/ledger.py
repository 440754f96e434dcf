"""The table ``forwarder_sent``: what became of each mail, written before the call and again after it."""

import uuid
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, Protocol

import asyncpg

from streams.stores.group_commit import GroupCommit
from streams.stores.pool import PostgresPool

BATCH_ROWS = 5_000
"""Rows in one statement at most."""


class Classification(StrEnum):
    """What the ledger says of a mail. Feedback adds values of its own later: whatever is not IN_FLIGHT or IN_DOUBT is final."""

    IN_FLIGHT = "in_flight"
    """A call is under way, or a worker died in it."""
    SENT = "sent"
    ALREADY_SENT = "already_sent"
    REFUSED = "refused"
    NO_RECIPIENT = "no_recipient"
    PLACEHOLDER_RECIPIENT = "placeholder_recipient"
    EXPIRED = "expired"
    SUPPRESSED = "suppressed"
    IN_DOUBT = "in_doubt"
    """A call may have been accepted, and Loops has forgotten its key by now: an operator decides, nobody sends."""


class Entry(NamedTuple):
    """What is to be written of one mail. ``recipient`` is masked already, and ``error`` holds no address."""

    audit_id: uuid.UUID
    team_id: uuid.UUID | None
    kind: str
    recipient: str | None
    classification: Classification
    at: datetime
    error: str | None = None


class LedgerRow(NamedTuple):
    """What the ledger holds of one mail."""

    audit_id: uuid.UUID
    classification: str
    attempts: int
    first_attempt_at: datetime | None


class Ledger(Protocol):
    """Where the forwarder keeps what it did."""

    async def rows(self, audit_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, LedgerRow]:
        """Return what is held of these mails; those that were never written are absent."""

    async def put(self, entry: Entry) -> LedgerRow | None:
        """Write ``entry`` and return the row once it is committed, or None when the row was final or in doubt, and so is unchanged.

        IN_FLIGHT counts one more attempt and keeps the time of the first; a second IN_FLIGHT is a retry.
        """


_PUT = """
insert into forwarder_sent as held
    (audit_id, provider, team_id, template_kind, recipient, classification, attempts, first_attempt_at, sent_at, last_error)
select audit_id, 'loops', team_id, kind, recipient, classification,
    case when classification = 'in_flight' then 1 else 0 end,
    case when classification = 'in_flight' then at end,
    case when classification = 'sent' then at end,
    error
from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::text[])
    as entry (audit_id, team_id, kind, recipient, classification, at, error)
on conflict (audit_id) do update set
    classification = excluded.classification,
    attempts = held.attempts + excluded.attempts,
    first_attempt_at = coalesce(held.first_attempt_at, excluded.first_attempt_at),
    sent_at = excluded.sent_at,
    last_error = coalesce(excluded.last_error, held.last_error)
where held.classification = 'in_flight'
returning audit_id, classification, attempts, first_attempt_at
"""
_ROWS = "select audit_id, classification, attempts, first_attempt_at from forwarder_sent where audit_id = any($1::uuid[])"


class PostgresLedger:
    """The ledger in PostgreSQL. Waits while PostgreSQL is away. Callers that come at once share a statement (``streams.stores.group_commit``)."""

    def __init__(self, pool: PostgresPool) -> None:
        self._pool = pool
        self._read = GroupCommit(self._rows, BATCH_ROWS)
        # One statement can not change a row twice, and two must not race for one.
        self._written = GroupCommit(self._put, BATCH_ROWS, key=lambda entry: entry.audit_id, at_once=1)

    async def rows(self, audit_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, LedgerRow]:
        """Return what is held of these mails; those that were never written are absent."""
        return {row.audit_id: row for row in await self._read(audit_ids) if row is not None}

    async def put(self, entry: Entry) -> LedgerRow | None:
        """Write ``entry``; see ``Ledger.put``."""
        (row,) = await self._written([_without_nul(entry)])
        return row

    async def _rows(self, audit_ids: Sequence[uuid.UUID]) -> list[LedgerRow | None]:
        found = await self._pool.run(lambda connection: connection.fetch(_ROWS, list(audit_ids)))
        return _in_order(audit_ids, found)

    async def _put(self, entries: Sequence[Entry]) -> list[LedgerRow | None]:
        columns = [list(column) for column in zip(*entries, strict=True)]
        found = await self._pool.run(lambda connection: connection.fetch(_PUT, *columns))
        return _in_order([entry.audit_id for entry in entries], found)


def _in_order(audit_ids: Sequence[uuid.UUID], found: Sequence[asyncpg.Record]) -> list[LedgerRow | None]:
    rows = {record["audit_id"]: LedgerRow(*record.values()) for record in found}
    return [rows.get(audit_id) for audit_id in audit_ids]


def _without_nul(entry: Entry) -> Entry:
    """PostgreSQL's text can not hold NUL, and a mail must not fail for a character of its recipient."""
    return entry._replace(
        recipient=entry.recipient and entry.recipient.replace("\0", ""), error=entry.error and entry.error.replace("\0", "")
    )
