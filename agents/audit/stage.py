"""The audit stage: ``audit.events`` → table ``audit_log``.

Order of the steps for one batch of one partition, and what a crash after each leaves:

1. rows committed in PostgreSQL      → the batch is read again, each row is found there already, nothing changes;
2. dead letters acknowledged         → the batch is read again, the same dead letters are written a second time;
3. the offset is committed           → done.

At-least-once delivery with an idempotent effect: one row for each audit id, whatever is repeated.

A row that a constraint of others refuses is held, and with it the later rows of its team, over all batches to come; the other teams
of the partition go on. It is tried again until it is taken. Only where a foreign key refers to a row that is not there it is given up,
as a dead letter, once it has waited for ``TIERSTREAM_CONSTRAINT_WAIT_SECONDS``; and not while nothing of anybody is taken, for then the
constraint is to blame. The offset stays in front of the first batch with a row that is held.
"""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from agents.audit.decide import decide
from agents.audit.record import DeadLetter
from schemas.reasons import Reason
from streams.engine.backlog import Backlog, Line
from streams.errors import ConstraintRefuses
from streams.kafka.dead_letters import ConsumedRecord, DeadLetters
from streams.runtime.waiting import Backoff
from streams.stores.audit_log import AuditRow, RowResult, RowStatus
from streams.stores.constraints import HELD_BACKOFF, WAIT_SECONDS, ConstraintAlarm

STAGE = "audit"

_DEAD_LETTERS_AT_ONCE = 100

_log = structlog.get_logger(__name__)


class AuditLog(Protocol):
    """Where rows go: ``PostgresAuditLog``, or a test's own."""

    async def write(self, rows: Sequence[AuditRow]) -> list[RowResult]:
        """Return one result for each row, in order, once all is committed."""

    async def write_again(self, rows: Sequence[AuditRow]) -> list[RowResult]:
        """The same for rows that were held before, and may well be again."""


@dataclass(frozen=True, slots=True)
class _Held:
    """A row that waits, since this moment of the monotonic clock."""

    record: ConsumedRecord
    row: AuditRow
    since: float


_Lane = tuple[str, int, object]
"""Topic, partition and team: what keeps its order."""


class AuditWriter:
    """Writes the rows of batches. Several partitions may be handled at once, and several batches of one, each begun after ``let_go`` of the
    one before."""

    def __init__(
        self,
        audit_log: AuditLog,
        dead_letters: DeadLetters,
        *,
        constraint_wait_seconds: float = WAIT_SECONDS,
        backoff: Backoff = HELD_BACKOFF,
        new_backlog: Callable[[], Backlog] = Backlog,
    ) -> None:
        self._audit_log = audit_log
        self._dead_letters = dead_letters
        self._wait_seconds = constraint_wait_seconds
        self._backoff = backoff
        self._alarm = ConstraintAlarm(STAGE)
        self._last_in_lane: dict[_Lane, asyncio.Future[None]] = {}
        """Done once the last row that waits in a lane is settled."""
        self._taken_at = 0.0
        self._backlogs: defaultdict[tuple[str, int], Backlog] = defaultdict(new_backlog)
        self.progress = 0
        """Batches written so far."""

    @property
    def full(self) -> Collection[tuple[str, int]]:
        """The (topic, partition)s of which as many rows are held as may be."""
        return [part for part, backlog in self._backlogs.items() if backlog.is_full]

    def describe(self) -> str:
        """Say nothing more: the constraints that rows wait for are named like services that are away."""
        return ""

    async def handle(self, records: Sequence[ConsumedRecord], let_go: Callable[[], object] = lambda: None) -> Counter[Reason]:
        """Write the rows of one partition's ``records``, which are in offset order, and return how many ended how.

        Returns only when all is durable; waits while PostgreSQL or Kafka is away. Calls ``let_go`` once nothing is left but rows that are
        held, and not too many: the partition's next batch may be handled beside them. Each record has exactly one outcome. Raises TierstreamError only for
        what no waiting can mend.
        """
        began = time.monotonic()
        dead: list[tuple[ConsumedRecord, DeadLetter]] = []
        readable: list[ConsumedRecord] = []
        rows: list[AuditRow] = []
        lanes: dict[_Lane, list[_Held]] = {}
        refusals: dict[_Lane, ConstraintRefuses] = {}
        for record in records:
            decision = decide(record.value)
            if isinstance(decision, DeadLetter):
                dead.append((record, decision))
            elif self._last_in_lane and (lane := _lane(record, decision)) in self._last_in_lane:
                lanes.setdefault(lane, []).append(_Held(record, decision, began))
            else:
                readable.append(record)
                rows.append(decision)
        results = await self._audit_log.write(rows)
        outcomes = await self._settle(dead, readable, rows, results)
        for record, row, result in zip(readable, rows, results, strict=True):
            if result.refusal is not None:
                lane = _lane(record, row)
                refusals[lane] = result.refusal
                lanes.setdefault(lane, []).append(_Held(record, row, began))
        if lanes:
            try:
                async with asyncio.TaskGroup() as group:
                    backlog = self._backlogs[records[0].topic, records[0].partition]
                    backlog.begin(let_go)
                    settling = [self._open(group, backlog, lane, held, refusals.get(lane)) for lane, held in lanes.items()]
            except BaseExceptionGroup as failures:
                raise failures.exceptions[0] from failures
            for task in settling:
                outcomes += task.result()
        self.progress += 1
        return outcomes

    async def _settle(
        self,
        dead: list[tuple[ConsumedRecord, DeadLetter]],
        records: Sequence[ConsumedRecord],
        rows: Sequence[AuditRow],
        results: Sequence[RowResult],
    ) -> Counter[Reason]:
        """Write the dead letters, of those results too; return the outcomes of all that is not held."""
        statuses = Counter([result.status for result in results])
        if statuses[RowStatus.CONFLICT] or statuses[RowStatus.REJECTED]:
            dead = [*dead, *_unwritten(records, rows, results)]
        for start in range(0, len(dead), _DEAD_LETTERS_AT_ONCE):
            some = dead[start : start + _DEAD_LETTERS_AT_ONCE]
            await asyncio.gather(*(self._dead_letters.write(record, dead_letter.reason, dead_letter.error) for record, dead_letter in some))
        outcomes = Counter([dead_letter.reason for _, dead_letter in dead])
        for status, reason in ((RowStatus.INSERTED, Reason.WRITTEN), (RowStatus.ALREADY_THERE, Reason.ALREADY_WRITTEN)):
            if statuses[status]:
                outcomes[reason] = statuses[status]
        if statuses[RowStatus.INSERTED]:
            self._taken_at = time.monotonic()
        return outcomes

    def _open(
        self, group: asyncio.TaskGroup, backlog: Backlog, lane: _Lane, held: list[_Held], refusal: ConstraintRefuses | None
    ) -> asyncio.Task[Counter[Reason]]:
        line = backlog.open(len(held))
        task = group.create_task(self._settle_lane(lane, held, refusal, line))
        task.add_done_callback(lambda _: line.close())
        return task

    async def _settle_lane(self, lane: _Lane, waiting: list[_Held], refusal: ConstraintRefuses | None, line: Line) -> Counter[Reason]:
        """Settle rows of one team in their order, behind those that wait there already. ``refusal`` is what the first of them has met."""
        before, mine = self._last_in_lane.get(lane), asyncio.get_running_loop().create_future()
        self._last_in_lane[lane] = mine
        line.waits()  # now that it has its place in its lane
        outcomes: Counter[Reason] = Counter()
        tries, gave_up = 0, False
        try:
            if before is not None:
                await asyncio.wait({before})
            while left := len(waiting):
                if refusal is None:
                    tries = 0
                elif not gave_up:
                    self._alarm.hold(lane, refusal)
                    await asyncio.sleep(self._backoff.delay(tries))
                    tries += 1
                # While several teams wait and nothing of anybody was taken, the fault is no row's. What is known before the row is tried
                # counts: what is taken after it may be the first behind a mend.
                may_give_up = self._taken_at >= waiting[0].since or self._alarm.holds_alone(lane)
                # While the first is refused it alone is tried, and then all that are left.
                some = waiting if refusal is None else waiting[:1]
                results = await self._audit_log.write_again([held.row for held in some])
                outcomes += await self._settle([], [held.record for held in some], [held.row for held in some], results)
                first = results[0].refusal
                gave_up = may_give_up and first is not None and self._is_over(waiting[0], first)
                refusal = next((result.refusal for result in results if result.refusal is not None), None)
                waiting = [held for held, result in zip(some, results, strict=True) if result.refusal is not None] + waiting[len(some) :]
                if gave_up:
                    given_up = DeadLetter(Reason.REJECTED, f"{first} It was tried for {self._wait_seconds:g} s.")
                    outcomes += await self._settle([(waiting.pop(0).record, given_up)], [], [], [])
                line.settled(left - len(waiting))
        finally:
            mine.set_result(None)
            if self._last_in_lane.get(lane) is mine:
                del self._last_in_lane[lane]
                self._alarm.release(lane)
        return outcomes

    def _is_over(self, held: _Held, refusal: ConstraintRefuses) -> bool:
        """Whether a row has waited long enough for the one that it refers to."""
        return refusal.is_missing_reference and time.monotonic() - held.since >= self._wait_seconds


def _lane(record: ConsumedRecord, row: AuditRow) -> _Lane:
    return record.topic, record.partition, row.team_id


def _unwritten(
    records: Sequence[ConsumedRecord], rows: Sequence[AuditRow], results: Sequence[RowResult]
) -> Iterator[tuple[ConsumedRecord, DeadLetter]]:
    for record, row, (status, error, _) in zip(records, rows, results, strict=True):
        if status is RowStatus.CONFLICT:
            _log.critical(
                "audit_id_conflict",
                audit_id=str(row.id),
                kind=row.kind,
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
            )
            yield (
                record,
                DeadLetter(Reason.ID_CONFLICT, f"audit_log holds other content under the id {row.id}; find out who gave it out twice."),
            )
        elif status is RowStatus.REJECTED:
            yield record, DeadLetter(Reason.REJECTED, error or "PostgreSQL refuses the row.")
