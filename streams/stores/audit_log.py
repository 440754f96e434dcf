"""The table ``audit_log``: rows are inserted in batches, with a result for each row."""

import uuid
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from enum import Enum
from typing import NamedTuple

import asyncpg

from streams.errors import ConstraintRefuses, RowRejected
from streams.stores.group_commit import GroupCommit
from streams.stores.pool import Connection, PostgresPool
from streams.stores.tables import AUDIT_LOG

BATCH_ROWS = 5_000
"""Rows in one statement at most: enough for COPY's full speed, few enough for a fraction of the time-out."""


class AuditRow(NamedTuple):
    """One row, in the order of the table's columns."""

    id: uuid.UUID
    team_id: uuid.UUID | None
    user_id: uuid.UUID | None
    actor: str
    kind: str
    resource_type: str | None
    resource_id: uuid.UUID | None
    summary: str
    metadata: str
    """A JSON object, as text."""
    created_at: datetime


class RowStatus(Enum):
    """What became of a row."""

    INSERTED = "inserted"
    ALREADY_THERE = "already_there"
    """The table holds the same row."""
    CONFLICT = "conflict"
    """The table holds another row with this id, and keeps it."""
    REJECTED = "rejected"
    """PostgreSQL refuses the row itself."""
    HELD = "held"
    """A constraint that is not ours refuses the row, or one of its team before it: write it again later."""


class RowResult(NamedTuple):
    """The status of one row; ``error`` is a sentence when the status is REJECTED, ``refusal`` says by what it is HELD."""

    status: RowStatus
    error: str | None = None
    refusal: ConstraintRefuses | None = None


_COLUMNS = ", ".join(AuditRow._fields)
_ARRAYS = ", ".join(f"${number}::{AUDIT_LOG.columns[column]}[]" for number, column in enumerate(AuditRow._fields, start=1))
_SAME = " and ".join(f"stored.{column} is not distinct from incoming.{column}" for column in AuditRow._fields)
_MERGE = f"""
with incoming as materialized (
    select * from unnest({_ARRAYS}) with ordinality as t ({_COLUMNS}, number)
), inserted as (
    insert into audit_log ({_COLUMNS}) select {_COLUMNS} from incoming on conflict (id) do nothing returning id
)
select incoming.number - 1 as index, stored.id is not null as visible, {_SAME} as same
from incoming left join audit_log stored using (id)
where not exists (select from inserted where inserted.id = incoming.id)
"""
"""Returns the rows that were not inserted. One that is not ``visible`` was committed by somebody else after this statement began."""

_INSERTED = RowResult(RowStatus.INSERTED)
_ALREADY_THERE = RowResult(RowStatus.ALREADY_THERE)
_CONFLICT = RowResult(RowStatus.CONFLICT)

_Held = dict[uuid.UUID | None, RowResult]
"""The teams of which a row is held, and the result of each of their later rows."""


class PostgresAuditLog:
    """``audit_log`` in PostgreSQL. Callers that come at once share a statement (``streams.stores.group_commit``)."""

    def __init__(self, pool: PostgresPool) -> None:
        self._pool = pool
        self._written = GroupCommit(self._write_batch, BATCH_ROWS)
        self._written_again = GroupCommit(self._merge_batch, BATCH_ROWS, at_once=1)

    async def write(self, rows: Sequence[AuditRow]) -> list[RowResult]:
        """Write ``rows`` and return one result for each, in their order, once all that can be written is committed.

        Waits while PostgreSQL is away. Writing the same rows again changes nothing. A row that PostgreSQL refuses does not keep
        the others out; one that is held keeps out those of its team which come after it, and no others. Of several rows with one id
        the first is written, and the others are compared with it.
        """
        return await self._write(rows, self._written)

    async def write_again(self, rows: Sequence[AuditRow]) -> list[RowResult]:
        """The same for rows that were held before. In statements of their own: those that are held again hold up nobody else's."""
        return await self._write(rows, self._written_again)

    async def _write(self, rows: Sequence[AuditRow], write: GroupCommit[AuditRow, RowResult]) -> list[RowResult]:
        results: list[RowResult] = []
        held: _Held = {}
        for start in range(0, len(rows), BATCH_ROWS):
            some = rows[start : start + BATCH_ROWS]
            results += await _around_held(some, held, write)
            held.update((row.team_id, result) for row, result in zip(some, results[start:], strict=True) if result.refusal is not None)
        return results

    async def _write_batch(self, rows: Sequence[AuditRow]) -> list[RowResult]:
        # COPY is twice as fast as any insert, and after it nearly all batches are done: only what was written before, by a
        # worker that died ahead of its commit, an id given twice or a row that is refused makes it fail, whole.
        try:
            await self._pool.run(lambda connection: _copy(connection, rows))
        except (RowRejected, ConstraintRefuses):
            return await self._merge_batch(rows)
        return [_INSERTED] * len(rows)

    async def _merge_batch(self, rows: Sequence[AuditRow]) -> list[RowResult]:
        results = [_INSERTED] * len(rows)
        left = list(range(len(rows)))
        held: _Held = {}
        while left:
            left = await self._write_first_of_each_id(rows, left, results, held)
        return results

    async def _write_first_of_each_id(
        self, rows: Sequence[AuditRow], indexes: list[int], results: list[RowResult], held: _Held
    ) -> list[int]:
        """Settle the first row of each id and its exact copies; return the indexes of the rows that differ from it."""
        firsts: dict[uuid.UUID, int] = {}
        repeated = [index for index in indexes if firsts.setdefault(rows[index].id, index) != index]
        for index, result in zip(firsts.values(), await self._merge([rows[index] for index in firsts.values()], held), strict=True):
            results[index] = result
        differing: list[int] = []
        for index in repeated:
            first = firsts[rows[index].id]
            if rows[index] == rows[first]:
                results[index] = _ALREADY_THERE if results[first] is _INSERTED else results[first]
            else:
                differing.append(index)
        return differing

    async def _merge(self, rows: list[AuditRow], held: _Held) -> list[RowResult]:
        """Write ``rows`` but those of teams that are ``held``, which grows. In their order, so that a team's rows are."""
        return await _around_held(rows, held, lambda free: self._merge_free(free, held))

    async def _merge_free(self, rows: list[AuditRow], held: _Held) -> list[RowResult]:
        try:
            left = await self._pool.run(lambda connection: _insert(connection, rows))
        except (RowRejected, ConstraintRefuses) as error:
            if len(rows) > 1:
                middle = len(rows) // 2
                return await self._merge(rows[:middle], held) + await self._merge(rows[middle:], held)
            if isinstance(error, ConstraintRefuses):
                result = held[rows[0].team_id] = RowResult(RowStatus.HELD, refusal=error)
                return [result]
            if await self._pool.takes(_insert_plain):
                return [RowResult(RowStatus.REJECTED, str(error))]
            return await self._merge_free(rows, held)
        results = [_INSERTED] * len(rows)
        unseen: list[int] = []
        for row in left:
            if row["visible"]:
                results[row["index"]] = _ALREADY_THERE if row["same"] else _CONFLICT
            else:
                unseen.append(row["index"])
        if unseen:
            for index, result in zip(unseen, await self._merge([rows[index] for index in unseen], held), strict=True):
                results[index] = result
        return results


async def _around_held(
    rows: Sequence[AuditRow], held: _Held, write: Callable[[list[AuditRow]], Awaitable[Sequence[RowResult]]]
) -> list[RowResult]:
    """``write`` the rows of all teams but those that are held; return a result for each row."""
    if not held:
        return list(await write(list(rows)))
    results = [held.get(row.team_id, _INSERTED) for row in rows]
    free = [index for index, row in enumerate(rows) if row.team_id not in held]
    for index, result in zip(free, await write([rows[index] for index in free]) if free else (), strict=True):
        results[index] = result
    return results


async def _copy(connection: Connection, rows: Sequence[AuditRow]) -> None:
    await connection.copy_records_to_table("audit_log", records=rows, columns=AuditRow._fields)


async def _insert(connection: Connection, rows: list[AuditRow]) -> list[asyncpg.Record]:
    return await connection.fetch(_MERGE, *(list(column) for column in zip(*rows, strict=True)))


async def _insert_plain(connection: Connection) -> None:
    await _insert(connection, [AuditRow(uuid.uuid4(), None, None, "agent", "probe", None, None, "", "{}", datetime.now(UTC))])
