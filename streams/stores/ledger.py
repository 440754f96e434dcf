"""The table ``forwarder_sent``: what became of each mail, written before the call and again after it."""

import asyncio
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple, Protocol

import asyncpg

from streams.errors import ConstraintRefuses, RowRejected
from streams.runtime.waiting import Backoff
from streams.stores.constraints import HELD_BACKOFF, WAIT_SECONDS, ConstraintAlarm
from streams.stores.group_commit import GroupCommit
from streams.stores.pool import Connection, PostgresPool

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


class Wait(NamedTuple):
    """That a mail stands on a retry topic. ``round`` says how often it was put on one; ``partition`` and ``offset`` are its place on
    ``audit.events``, which orders the mails of a team."""

    topic: str
    due: datetime
    round: int
    partition: int
    offset: int

    @property
    def place(self) -> tuple[int, int]:
        """What orders the mails of a team."""
        return self.partition, self.offset


class Entry(NamedTuple):
    """What is to be written of one mail. ``recipient`` is masked already, and ``error`` holds no address. With ``wait`` it is IN_FLIGHT, and no
    attempt."""

    audit_id: uuid.UUID
    team_id: uuid.UUID | None
    kind: str
    recipient: str | None
    classification: Classification
    at: datetime
    error: str | None = None
    wait: Wait | None = None


class LedgerRow(NamedTuple):
    """What the ledger holds of one mail. ``wait`` is None unless it stands on a retry topic."""

    audit_id: uuid.UUID
    classification: str
    attempts: int
    first_attempt_at: datetime | None
    team_id: uuid.UUID | None = None
    wait: Wait | None = None


class Asked(NamedTuple):
    """A mail that is asked for."""

    audit_id: uuid.UUID
    team_id: uuid.UUID | None


class Ledger(Protocol):
    """Where the forwarder keeps what it did."""

    async def rows(self, mails: Sequence[Asked]) -> dict[uuid.UUID, LedgerRow]:
        """Return what is held of these mails, and of all mails of their teams that wait; those that were never written are absent."""

    async def put(self, entry: Entry) -> LedgerRow | None:
        """Write ``entry`` and return the row once it is committed, or None when the row was final or in doubt, and so is unchanged.

        IN_FLIGHT counts one more attempt and keeps the time of the first; a second IN_FLIGHT is a retry. A ``wait`` is no attempt, and
        leaves a row unchanged that has come as far already; it stands until the row is final. Raises RowRejected when PostgreSQL refuses
        this very row.
        """


_WAIT = "waiting_topic, waiting_due, waiting_round, origin_partition, origin_offset"
_COLUMNS = f"audit_id, classification, attempts, first_attempt_at, team_id, {_WAIT}"
_PUT = f"""
insert into forwarder_sent as held
    (audit_id, provider, team_id, template_kind, recipient, classification, attempts, first_attempt_at, sent_at, last_error, {_WAIT})
select audit_id, 'loops', team_id, kind, recipient, classification,
    case when classification = 'in_flight' and waiting_topic is null then 1 else 0 end,
    case when classification = 'in_flight' and waiting_topic is null then at end,
    case when classification = 'sent' then at end,
    error, {_WAIT}
from unnest(
    $1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::text[],
    $8::text[], $9::timestamptz[], $10::int[], $11::int[], $12::bigint[]
) as entry (audit_id, team_id, kind, recipient, classification, at, error, {_WAIT})
on conflict (audit_id) do update set
    classification = excluded.classification,
    attempts = held.attempts + excluded.attempts,
    first_attempt_at = coalesce(held.first_attempt_at, excluded.first_attempt_at),
    sent_at = excluded.sent_at,
    last_error = coalesce(excluded.last_error, held.last_error),
    waiting_topic = case when excluded.classification = 'in_flight' then coalesce(excluded.waiting_topic, held.waiting_topic) end,
    waiting_due = case when excluded.classification = 'in_flight' then coalesce(excluded.waiting_due, held.waiting_due) end,
    waiting_round = coalesce(excluded.waiting_round, held.waiting_round),
    origin_partition = coalesce(excluded.origin_partition, held.origin_partition),
    origin_offset = coalesce(excluded.origin_offset, held.origin_offset)
where held.classification = 'in_flight'
    and (excluded.waiting_round is null or held.waiting_round is null or excluded.waiting_round > held.waiting_round)
returning {_COLUMNS}
"""
_ROWS = f"""
select {_COLUMNS} from forwarder_sent where audit_id = any($1::uuid[])
union
select {_COLUMNS} from forwarder_sent
where team_id = any($2::uuid[]) and waiting_topic is not null and classification = 'in_flight'
"""

_NO_WAIT = (None,) * len(Wait._fields)

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

    async def rows(self, mails: Sequence[Asked]) -> dict[uuid.UUID, LedgerRow]:
        """Return what is held of these mails and of those of their teams that wait; see ``Ledger.rows``."""
        return {row.audit_id: row for rows in await self._read(mails) for row in rows}

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

    async def _rows(self, mails: Sequence[Asked]) -> list[list[LedgerRow]]:
        ids = [mail.audit_id for mail in mails]
        teams = list({mail.team_id for mail in mails if mail.team_id is not None})
        found = list(map(_row, await self._pool.run(lambda connection: connection.fetch(_ROWS, ids, teams))))
        by_id = {row.audit_id: row for row in found}
        waiting: dict[uuid.UUID | None, list[LedgerRow]] = {}
        for row in found:
            if row.wait is not None:
                waiting.setdefault(row.team_id, []).append(row)
        return [[*([by_id[mail.audit_id]] if mail.audit_id in by_id else ()), *waiting.get(mail.team_id, ())] for mail in mails]

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
        rows = {row.audit_id: row for row in map(_row, found)}
        return [rows.get(entry.audit_id) for entry in entries]


async def _write(connection: Connection, entries: Sequence[Entry]) -> list[asyncpg.Record]:
    rows = [(*entry[:-1], *(entry.wait or _NO_WAIT)) for entry in entries]
    return await connection.fetch(_PUT, *(list(column) for column in zip(*rows, strict=True)))


async def _write_plain(connection: Connection) -> None:
    await _write(connection, [Entry(uuid.uuid4(), None, "probe", None, Classification.SUPPRESSED, datetime.now(UTC))])


def _row(record: asyncpg.Record) -> LedgerRow:
    audit_id, classification, attempts, first_attempt_at, team_id, *wait = record.values()
    waits = wait[0] is not None and classification == Classification.IN_FLIGHT
    return LedgerRow(audit_id, classification, attempts, first_attempt_at, team_id, Wait(*wait) if waits else None)


def _storable(entry: Entry) -> Entry:
    """PostgreSQL's text can hold neither NUL nor half a surrogate pair, and a mail must not fail for a character of its recipient."""
    return entry._replace(recipient=entry.recipient and _text(entry.recipient), error=entry.error and _text(entry.error))


def _text(text: str) -> str:
    return text.replace("\0", "").encode("utf-8", "replace").decode()
