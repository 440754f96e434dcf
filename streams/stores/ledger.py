"""The table ``forwarder_sent``: what became of each mail, written before the call and again after it."""

import asyncio
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

import asyncpg

from streams.errors import ConstraintRefuses, RowRejected
from streams.runtime.waiting import Backoff
from streams.stores.classification import Classification as Classification
from streams.stores.constraints import HELD_BACKOFF, WAIT_SECONDS, ConstraintAlarm
from streams.stores.group_commit import GroupCommit
from streams.stores.pool import Connection, PostgresPool

BATCH_ROWS = 5_000
"""Rows in one statement at most."""


class Entry(NamedTuple):
    """What is to be written of one mail. ``recipient`` is masked already, and ``error`` holds no address.

    ``address_hash`` is what feedback is matched by, and what suppression is asked for.
    """

    audit_id: uuid.UUID
    team_id: uuid.UUID | None
    kind: str
    recipient: str | None
    classification: Classification
    at: datetime
    error: str | None = None
    address_hash: bytes | None = None


class LedgerRow(NamedTuple):
    """What the ledger holds of one mail."""

    audit_id: uuid.UUID
    classification: str
    attempts: int
    first_attempt_at: datetime | None
    resends: int = 0
    """How often an operator has had it sent again."""

    @property
    def idempotency_key(self) -> str:
        """What Loops knows the mail by: the audit id, and another one each time that an operator has it sent again, for Loops may remember
        the one before although it refused the event."""
        return f"{self.audit_id}.{self.resends}" if self.resends else str(self.audit_id)


class Ledger(Protocol):
    """Where the forwarder keeps what it did."""

    async def rows(self, audit_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, LedgerRow]:
        """Return what is held of these mails; those that were never written are absent."""

    async def put(self, entry: Entry) -> LedgerRow | None:
        """Write ``entry`` and return the row once it is committed, or None when the row was final or in doubt, and so is unchanged.

        IN_FLIGHT counts one more attempt and keeps the time of the first; a second IN_FLIGHT is a retry. A first one becomes SUPPRESSED
        where mail to its address is suppressed: no call may be made then. Raises RowRejected when PostgreSQL refuses this very row.
        """


_PUT = """
insert into forwarder_sent as held
    (audit_id, provider, team_id, template_kind, recipient, classification, attempts, first_attempt_at, sent_at, last_error, address_hash)
select entry.audit_id, 'loops', entry.team_id, kind, entry.recipient, became,
    case when became = 'in_flight' then 1 else 0 end,
    case when became = 'in_flight' then at end,
    case when became = 'sent' then at end,
    case when became = 'suppressed' then coalesce('Mail to this address is suppressed: ' || refusal.reason || '.', error) else error end,
    entry.address_hash
from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::text[], $8::bytea[])
    as entry (audit_id, team_id, kind, recipient, classification, at, error, address_hash)
left join address_feedback as refusal
    on refusal.address_hash = entry.address_hash and refusal.reason is not null and entry.classification = 'in_flight'
    and not exists (select from forwarder_sent called where called.audit_id = entry.audit_id and called.first_attempt_at is not null)
cross join lateral (select case when refusal.reason is null then entry.classification else 'suppressed' end) as outcome (became)
on conflict (audit_id) do update set
    classification = excluded.classification,
    attempts = held.attempts + excluded.attempts,
    first_attempt_at = coalesce(held.first_attempt_at, excluded.first_attempt_at),
    sent_at = excluded.sent_at,
    last_error = coalesce(excluded.last_error, held.last_error),
    address_hash = coalesce(excluded.address_hash, held.address_hash)
where held.classification = 'in_flight'
returning audit_id, classification, attempts, first_attempt_at, resends
"""
_ROWS = "select audit_id, classification, attempts, first_attempt_at, resends from forwarder_sent where audit_id = any($1::uuid[])"


_Written = LedgerRow | RowRejected | ConstraintRefuses | None


class PostgresLedger:
    """The ledger in PostgreSQL. Waits while PostgreSQL is away. Callers that come at once share a statement (``streams.stores.group_commit``).

    An entry that PostgreSQL refuses is refused alone. One that a constraint of others refuses is tried again until it is taken; where that is
    a foreign key, it counts as refused after ``constraint_wait_seconds``, provided that others were taken meanwhile.
    """

    def __init__(self, pool: PostgresPool, *, constraint_wait_seconds: float = WAIT_SECONDS, backoff: Backoff = HELD_BACKOFF) -> None:
        self._pool = pool
        self._wait_seconds = constraint_wait_seconds
        self._backoff = backoff
        self._alarm = ConstraintAlarm(pool.stage)
        self._taken_at = 0.0
        self._read = GroupCommit(self._rows, BATCH_ROWS)
        # One statement can not change a row twice, and two must not race for one.
        self._written = GroupCommit(self._put, BATCH_ROWS, key=lambda entry: entry.audit_id, at_once=1)

    async def rows(self, audit_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, LedgerRow]:
        """Return what is held of these mails; those that were never written are absent."""
        return {row.audit_id: row for row in await self._read(audit_ids) if row is not None}

    async def put(self, entry: Entry) -> LedgerRow | None:
        """Write ``entry``; see ``Ledger.put``."""
        entry, since, tries = _storable(entry), time.monotonic(), 0
        try:
            while True:
                others_were_taken = self._taken_at >= since  # ahead of this try: what is taken after it may be the first behind a mend
                (written,) = await self._written([entry])
                if isinstance(written, RowRejected):
                    raise written
                if not isinstance(written, ConstraintRefuses):
                    self._taken_at = time.monotonic()
                    return written
                self._alarm.hold(entry.audit_id, written)
                if written.is_missing_reference and others_were_taken and time.monotonic() - since >= self._wait_seconds:
                    raise RowRejected(f"{written} It was tried for {self._wait_seconds:g} s.") from written
                await asyncio.sleep(self._backoff.delay(tries))
                tries += 1
        finally:
            self._alarm.release(entry.audit_id)

    async def _rows(self, audit_ids: Sequence[uuid.UUID]) -> list[LedgerRow | None]:
        found = await self._pool.run(lambda connection: connection.fetch(_ROWS, list(audit_ids)))
        return _in_order(audit_ids, found)

    async def _put(self, entries: Sequence[Entry]) -> list[_Written]:
        try:
            found = await self._pool.run(lambda connection: _write(connection, entries))
        except (RowRejected, ConstraintRefuses) as error:
            if len(entries) > 1:
                middle = len(entries) // 2
                return await self._put(entries[:middle]) + await self._put(entries[middle:])
            if isinstance(error, RowRejected) and not await self._pool.takes(_write_plain):
                return await self._put(entries)
            return [error]
        return list(_in_order([entry.audit_id for entry in entries], found))


async def _write(connection: Connection, entries: Sequence[Entry]) -> list[asyncpg.Record]:
    return await connection.fetch(_PUT, *(list(column) for column in zip(*entries, strict=True)))


async def _write_plain(connection: Connection) -> None:
    await _write(connection, [Entry(uuid.uuid4(), None, "probe", None, Classification.SUPPRESSED, datetime.now(UTC))])


def _in_order(audit_ids: Sequence[uuid.UUID], found: Sequence[asyncpg.Record]) -> list[LedgerRow | None]:
    rows = {record["audit_id"]: LedgerRow(*record.values()) for record in found}
    return [rows.get(audit_id) for audit_id in audit_ids]


def _storable(entry: Entry) -> Entry:
    """PostgreSQL's text can hold neither NUL nor half a surrogate pair, and a mail must not fail for a character of its recipient."""
    return entry._replace(recipient=entry.recipient and _text(entry.recipient), error=entry.error and _text(entry.error))


def _text(text: str) -> str:
    return text.replace("\0", "").encode("utf-8", "replace").decode()
