"""Exactly once: one transaction of the worker's producer for what waits on all its partitions (design: ``docs/adr/0009-one-producer.md``).

1. Once in a process: ``InitProducerId`` with the worker's own id. That aborts what a former process of this id left open.
2. On assignment: wait until the group's offsets are stable, restore rows and positions, compare the two (``takeover.py``).
3. Skip input below the position.
4. For each transaction: begin → produce the records for what has passed of each partition's coming times → decide on its records →
   produce outputs, changed rows and a position row for each → wait until the brokers have them → add the input offsets, in the name of the
   generation that read them → commit.
5. An unanswered call is asked again. A producer that Kafka has forgotten begins anew: 1, 2 for the tables that were touched, and the same
   batches again. Offsets that are refused, for the group has gone on: abort, forget the tables that were touched,
   and go on from 2 in the next generation. Anything else leaves the memory ahead of the log: the worker exits and starts again.

| crash after | the log holds | after the restart |
| --- | --- | --- |
| 1, 2, begin, produced, offsets added | nothing committed (the open transaction is aborted by 1, or by its time-out) | the input is decided on again, with the same ids |
| commit | outputs, rows, position, and the group's offset | nothing is read twice |

What happens at a time is a record as well: the owner of a row produces it once the time has passed, and decides on it as it comes back
(``docs/adr/0010-due-records.md``). And what other settings change of the rows is committed before any input is worked in.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TypeVar

import structlog

from schemas.reasons import Reason
from streams.engine.assigned_tables import AssignedTables, PartitionTable
from streams.engine.changelog import SETTINGS_KEY, Position, encode_position, position_key
from streams.engine.partitions import Batch
from streams.engine.slices import MAX_STRETCH, MIN_RECORDS, SLICE_SECONDS, slice_records
from streams.engine.table_stage import SettingsChange, TableStage
from streams.engine.takeover import CALL_SECONDS, Takeover
from streams.engine.transactions import Membership, Output, TransactionalWriter
from streams.errors import GenerationEnded, ProducerLost
from streams.kafka.records import Record
from streams.metrics import POSITION, count_outcomes
from streams.settings import Settings

PACE = 4.0
"""A transaction begins no sooner after the last one began than so many times what that took, up to ``PACE_SECONDS``, and so gathers what
comes meanwhile. A lone event waits for nothing."""

PACE_SECONDS = 0.05

JOIN_SECONDS = 0.001
"""A transaction begins once no batch has come for so long: those of one fetch come one after the other, and each that came too late would
wait for the next."""

JOIN_RECORDS = 200
"""With so many records a transaction waits for no others."""

REJOIN_SECONDS = 0.05
"""Between two looks whether a worker whose commit was refused is in the group again."""

YIELD_SECONDS = 0.005
"""So long a transaction may be filled before heartbeats, fetches and other stages go on for a moment. Longer than a small one takes: its
records then go to the broker together."""

DUE_RECORDS = 1_000
"""So many records for times that have passed go into one transaction, of all partitions together: after a downtime there may be many."""

CHANGE_RECORDS = 500
"""So many outputs of a change of settings are produced at a time, before heartbeats and other stages go on for a moment."""

log = structlog.get_logger(__name__)

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class _Work:
    """One batch. ``start`` is the index of its first record that is not committed yet; ``roused`` says that it came without records, and
    what waits in the table is not committed yet."""

    table: PartitionTable
    topic: str
    generation: int
    records: Sequence[Record]
    done: "asyncio.Future[None]"
    start: int = 0
    roused: bool = False

    def skip_committed(self) -> None:
        """Skip the records below the table's position. Nothing may be left."""
        next_offset = self.table.rows.positions[self.topic].next_offset
        while self.start < len(self.records) and self.records[self.start].offset < next_offset:
            self.start += 1

    @property
    def is_done(self) -> bool:
        """Whether all of it is committed, or nobody waits for it any more."""
        return (self.start == len(self.records) and not self.roused) or self.done.done()


@dataclass(slots=True)
class _Filled:
    """What one transaction takes of a batch: its records up to the index ``end``."""

    work: _Work
    end: int
    position: Position
    outcomes: Counter[Reason]


class Transactions:
    """Commits the batches of all partitions, one transaction at a time. Use it from one event loop."""

    def __init__(
        self,
        settings: Settings,
        stage: TableStage,
        changelog: str,
        transactional_id: str,
        membership: Callable[[], Membership | None],
        takeover: Takeover,
        rouse: Callable[[int], None] = lambda _: None,
        *,
        accepts_changes: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``membership`` is asked for the worker's place in the group's present generation. ``rouse`` has a batch without records worked
        in for a partition; ``clock`` says what has passed; ``accepts_changes``, whether other settings may change what rows say."""
        self._settings = settings
        self._stage = stage
        self._changelog = changelog
        self.tables = AssignedTables(settings, stage, changelog, accepts_changes=accepts_changes)
        self._transactional_id = transactional_id
        self._membership = membership
        self._takeover = takeover
        self._rouse = rouse
        self._clock = clock
        self._writer: TransactionalWriter | None = None
        self._opening = asyncio.Lock()
        self._waiting: list[_Work] = []
        self._task: asyncio.Task[None] | None = None
        self._may_begin_at = 0.0
        self._slice_records = MIN_RECORDS
        self._ended: Membership | None = None
        """The last place in the group in which a commit was refused: whatever was read in it has to be read again, without a hole."""
        self.slices: Counter[int] = Counter()
        """Transactions committed so far, by partition."""

    def rouse(self) -> None:
        """Have the partitions begin in which something waits that needs no record: a time has passed, or settings have changed."""
        membership, now = self._membership(), int(self._clock())
        if membership is not None and membership != self._ended:
            for number in self.tables.waiting(now):
                self._rouse(number)

    async def take_over(self, table: PartitionTable) -> int:
        """Have ``table`` hold what is committed, and return the generation for which that is sure. Tries again while Kafka is away.

        Raises SettingsRefused where rows were decided with other settings, and may not change.
        """
        async with self._opening:
            if self._writer is None:
                self._writer = TransactionalWriter(self._settings, self._transactional_id)
            if not self._writer.is_open:
                await self._until_answered(self._writer.open, CALL_SECONDS)
        membership = await self._present_membership()
        await self._restore(table)
        return -1 if membership is None else membership.generation

    async def _present_membership(self) -> Membership | None:
        """Return the worker's place in the group, as soon as it is not one of a generation in which a commit was refused.

        Until then nobody knows here which partitions are still ours, and their owner may go on committing while they are read.
        """
        while True:
            membership = self._membership()
            if membership is None or membership != self._ended:
                return membership
            await asyncio.sleep(REJOIN_SECONDS)

    async def _restore(self, table: PartitionTable) -> None:
        table.restored = False
        await self._takeover.take_over(table.rows, table.on_restored)
        await self.tables.settle(table)

    async def work_in(self, table: PartitionTable, batch: Batch) -> None:
        """Decide on the records of ``batch`` that are not below the table's position; return when the last is committed. One without
        records has what waits in the table committed, as far as one transaction takes it.

        Raises GenerationEnded when the batch is of a generation that is over: what is not committed is read again, after a take-over.
        """
        work = _Work(table, batch.topic, batch.generation, batch.records, asyncio.get_running_loop().create_future())
        work.skip_committed()
        work.roused = not batch.records and table.waits(int(self._clock()))
        if work.is_done:
            return
        self._waiting.append(work)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        await work.done

    async def close(self) -> None:
        """Let go of the producer; an open transaction, if any, is aborted by the worker's next start."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._writer is not None:
            await self._writer.close()
            self._writer = None

    async def _run(self) -> None:
        while self._waiting:
            wait_seconds = self._may_begin_at - time.monotonic()
            if wait_seconds > 0:
                await asyncio.sleep(wait_seconds)
            await self._joined()
            waiting, self._waiting = [work for work in self._waiting if not work.is_done], []
            began = time.monotonic()
            try:
                self._waiting[:0] = await self._transaction(waiting)
            except Exception as error:  # noqa: BLE001  # whoever waits gets it
                for work in waiting:
                    if not work.done.done():
                        work.done.set_exception(error)
            self._may_begin_at = began + min(PACE_SECONDS, PACE * (time.monotonic() - began))

    async def _joined(self) -> None:
        """Return once no batch has come for a moment, or there is enough for a transaction."""
        known = 0
        while (count := len(self._waiting)) > known:
            if sum(len(work.records) - work.start for work in self._waiting) >= JOIN_RECORDS:
                return
            known = count
            await asyncio.sleep(JOIN_SECONDS)

    async def _transaction(self, waiting: list[_Work]) -> list[_Work]:
        """Commit what one transaction may take of ``waiting``, and return what is left to be done."""
        membership = self._membership()
        generation = -1 if membership is None or membership == self._ended else membership.generation
        current = [work for work in waiting if work.generation == generation]
        for work in waiting:
            if work.generation != generation:
                work.done.set_exception(GenerationEnded("The group has gone on to another generation."))
        if membership is None or not current:
            return []
        try:
            filled = await self._commit(current, membership)
        except ProducerLost as error:
            await self._begin_anew(current, error)
        except BaseException:
            for work in current:
                work.table.forget()
            raise
        else:
            for each in filled:
                self._committed(each)
        for work in current:
            if work.is_done and not work.done.done():
                work.done.set_result(None)
        return [work for work in current if not work.is_done]

    async def _commit(self, current: list[_Work], membership: Membership) -> list[_Filled]:
        writer = self._writer
        assert writer is not None
        if writer.needs_open:
            await self._open(writer)
        writer.begin()
        filled = await self._fill(writer, current)
        offsets = {(each.work.topic, each.work.table.rows.number): each.position.next_offset for each in filled}
        try:
            await self._until_answered(writer.flush, CALL_SECONDS)
            await self._until_answered(writer.send_offsets, offsets, membership, CALL_SECONDS)
        except GenerationEnded:
            self._ended = membership
            await self._until_answered(writer.abort, CALL_SECONDS)
            log.info("a transaction was aborted, for the group has gone on; its input is read again", stage=self._stage.name)
            raise
        await self._until_answered(writer.commit, CALL_SECONDS)
        return filled

    async def _fill(self, writer: TransactionalWriter, current: list[_Work]) -> list[_Filled]:
        """Produce what follows from a slice of each batch, as far as one transaction's time allows."""
        filled: list[_Filled] = []
        allowed = left = self._slice_records
        due_left, now = DUE_RECORDS, int(self._clock())
        began, worked = time.monotonic(), 0.0
        yielded = began
        until = began + SLICE_SECONDS * MAX_STRETCH
        for work in current:  # in the order in which they came, so that nobody is passed over for long
            if left <= 0 or time.monotonic() > until:
                break
            if due_left <= 0 and work.roused and work.table.change is None:
                continue  # its turn comes in the next one
            begun = time.thread_time()
            table, number, end = work.table, work.table.rows.number, work.start
            produce = partial(writer.produce, home=table.rows)
            position = table.rows.positions[work.topic]
            outcomes: Counter[Reason] = Counter()
            if table.change is not None:
                await self._produce_change(writer, table.change)  # and no input, which may take its time
            else:
                due_left -= table.slices.fill_due(now, due_left, produce)
                if end < len(work.records):
                    end, outcomes = table.slices.fill(work.records, end, left, until, produce)
                    position = position.advanced(work.records[end - 1].offset + 1, outcomes)
            if table.needs_settings:
                writer.produce((Output(self._changelog, SETTINGS_KEY, self._stage.settings, partition=number),))
            # Also where it has not moved: whoever finds the group's offset without it could not go on.
            writer.produce((Output(self._changelog, position_key(work.topic), encode_position(position), partition=number),))
            worked += time.thread_time() - begun
            left -= end - work.start
            filled.append(_Filled(work, end, position, outcomes))
            if time.monotonic() - yielded > YIELD_SECONDS:
                await asyncio.sleep(0)  # heartbeats, fetches and other stages go on meanwhile
                yielded = time.monotonic()
        if left < allowed:
            self._slice_records = slice_records(allowed, allowed - left, max(worked, (time.monotonic() - began) / MAX_STRETCH))
        return filled

    async def _produce_change(self, writer: TransactionalWriter, change: SettingsChange) -> None:
        """Produce what other settings change for the readers of a partition's rows, all in one transaction."""
        outputs = iter(change.outputs())
        while some := list(islice(outputs, CHANGE_RECORDS)):
            writer.produce(some)
            await asyncio.sleep(0)

    def _committed(self, filled: _Filled) -> None:
        work, table, number = filled.work, filled.work.table, filled.work.table.rows.number
        table.rows.positions[work.topic] = filled.position
        table.committed()
        work.start, work.roused = filled.end, False
        self.slices[number] += 1
        count_outcomes(self._stage.name, filled.outcomes)
        POSITION.labels(self._stage.name, work.topic, number).set(filled.position.next_offset)
        if table.waits(int(self._clock())):
            self._rouse(number)

    async def _begin_anew(self, current: list[_Work], error: ProducerLost) -> None:
        """Open the producer anew where it can not go on, and have the touched tables hold what is committed.

        From then on nothing of the former transaction can be committed any more.
        """
        log.info("a new producer replaces one that can not go on", stage=self._stage.name, reason=str(error))
        assert self._writer is not None
        await self._open(self._writer)
        for work in current:
            work.table.forget()
        await asyncio.gather(*(self._restore(work.table) for work in current))
        for work in current:
            work.skip_committed()

    async def _open(self, writer: TransactionalWriter) -> None:
        async with self._opening:
            await self._until_answered(writer.open, CALL_SECONDS)

    async def _until_answered(self, call: Callable[..., Awaitable[None]], *arguments: object) -> None:
        await self._takeover.kafka.until_available(lambda: call(*arguments))


class TransactionalWorker:
    """Works one partition's batches in, in the transactions of its process."""

    def __init__(self, transactions: Transactions, number: int) -> None:
        self._transactions = transactions
        self._generation = -1
        self.table = transactions.tables.new(number)

    async def prepare(self) -> None:
        """Take the partition over, or make sure that it is still as it is in memory."""
        self._generation = await self._transactions.take_over(self.table)

    async def process(self, batch: Batch) -> None:
        """Decide on the records that are not in the table yet; return when the last is committed. Raises GenerationEnded."""
        if batch.generation != self._generation:
            await self.prepare()  # another worker may have had the partition since
        await self._transactions.work_in(self.table, batch)

    async def close(self) -> None:
        """Let go of the table; the producer is the process's."""
        self._transactions.tables.let_go(self.table)
