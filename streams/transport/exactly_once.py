"""Exactly once: one transaction for each slice of an input partition (design: ``docs/adr/0002-transactions.md``).

1. On assignment: ``init_transactions`` with a transactional id that names the partition. That fences whoever held it before.
2. Restore the rows and the position from the committed changelog.
3. Skip input below the position (Kafka's own committed offset is only a hint, and may lag).
4. For each slice: begin → decide all → produce outputs, changed rows and the position row → commit → then ack.
5. When a commit fails, the memory is ahead of the log: the worker exits and starts again. Nothing is retried in place.

| crash after | the log holds | after the restart |
| --- | --- | --- |
| begin, decide, produce | nothing committed (the open transaction is aborted by 1) | the slice is decided again, with the same ids |
| commit | outputs, rows, position | the position skips the slice |
| ack | the same, and the group's offset | nothing is read twice |
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

import structlog

from schemas.reasons import Reason
from streams.changelog import InputCheck, TablePartition, encode_position, position_key, restore
from streams.dead_letters import Origin, dead_letter_headers
from streams.errors import StageFailed
from streams.metrics import POSITION, count_outcomes
from streams.processing import Batch, Record
from streams.settings import Settings
from streams.topics import DEAD_LETTERS, MAX_RECORD_BYTES
from streams.transport.partitioner import partition_of
from streams.transport.transactions import Headers, Output, TransactionalWriter
from streams.waiting import Waiting

SLICE_SECONDS = 0.1
"""Input of at most this much working time goes into one transaction, so that readers of the outputs wait no longer."""

CLOCK_EVERY = 256
"""Records between two looks at the clock."""

MAX_FAILURES_IN_A_ROW = 100
"""So many records in a row on which ``step`` raised are no poison but a broken release: the worker stops."""

CALL_SECONDS = 10.0
"""How long one call to Kafka may take before it counts as unanswered (and is tried again)."""

MAX_OUTPUT_BYTES = MAX_RECORD_BYTES - 65_536
"""Key, value and headers of the largest record a stage may produce; the rest is room for a dead letter's own headers and for
the batch round the record."""

MAX_KEPT_KEY_BYTES = 1_024
"""A dead letter whose record is too large keeps a key of at most this."""

log = structlog.get_logger(__name__)

T = TypeVar("T")


class Step(NamedTuple):
    """What a stage makes of one record: the outcome, what to produce, the row to keep. ``error`` makes it a dead letter."""

    reason: Reason
    outputs: Sequence[Output] = ()
    key: bytes | None = None
    row: bytes | None = None
    error: str | None = None


class TableStage(Protocol):
    """A stage that decides on records with a table beside it."""

    name: str

    def step(self, record: Record, rows: Mapping[bytes, bytes]) -> Step:
        """Decide on one record. Pure: the same record and rows give the same step."""


def rerouted(record: Record, rows: Mapping[bytes, bytes], partitions: int) -> Step | None:
    """Return the step that sends a record to the partition of its key, or None when it is there. A key with a row is at home."""
    key = record.key
    if key is None or key in rows:
        return None
    home = partition_of(key, partitions)
    if home == record.partition:
        return None
    # The partition is named: on a topic that was given more partitions, the producer's own choice would send it round for ever.
    return Step(Reason.REROUTED, (Output(record.topic, key, record.value, record.headers, home),))


def fitting(step: Step) -> Step:
    """Return ``step``, or the one that says that something of it is larger than Kafka takes."""
    for _, key, value, headers, _ in step.outputs:
        # Only a rerouted record has headers that are not our own, and hence of any size.
        size = _bytes_of(key, value, headers) if step.reason is Reason.REROUTED else len(value or b"")
        if size > MAX_OUTPUT_BYTES:
            return Step(Reason.TOO_LARGE, error=f"What follows from it is larger than {MAX_OUTPUT_BYTES} bytes.")
    if step.row is not None and len(step.row) > MAX_OUTPUT_BYTES:
        return Step(Reason.TOO_LARGE, error=f"The row that follows from it is larger than {MAX_OUTPUT_BYTES} bytes.")
    return step


def _bytes_of(key: bytes | None, value: bytes | None, headers: Headers) -> int:
    return len(key or b"") + len(value or b"") + sum(len(name) + len(text or b"") for name, text in headers)


class TransactionalWorker:
    """Works one partition's batches in, in transactions."""

    def __init__(self, settings: Settings, stage: TableStage, changelog: str, partition: int, restorer: "Restorer") -> None:
        self._settings = settings
        self._stage = stage
        self._changelog = changelog
        self._restorer = restorer
        self._pool = restorer.pool
        self._dead_letters = DEAD_LETTERS.full_name(settings)
        self._failures = 0
        self._writer: TransactionalWriter | None = None
        self.table = TablePartition(partition)

    async def prepare(self) -> None:
        """Fence the former owner, then restore. Tries again while Kafka is away."""
        transactional_id = f"{self._changelog}-{self.table.number}"
        self._writer = await self._in_thread(TransactionalWriter, self._settings, transactional_id)
        await self._until_answered(self._writer.take_over, CALL_SECONDS)
        await self._restorer.restore(self.table)

    async def process(self, batch: Batch) -> None:
        """Decide on the records that are not in the table yet, slice by slice; return when the last is committed."""
        position = self.table.positions[batch.topic]
        records = batch.records
        start = 0
        while start < len(records) and records[start].offset < position.next_offset:
            start += 1
        while start < len(records):
            start = await self._slice(batch, records, start)

    async def close(self) -> None:
        """Drop the producer, and its threads with it; an open transaction, if any, is aborted by whoever takes the partition over."""
        self._writer = None

    async def _slice(self, batch: Batch, records: Sequence[Record], start: int) -> int:
        writer = self._writer
        assert writer is not None
        rows, produce = self.table.rows, writer.produce
        outcomes: Counter[Reason] = Counter()
        dirty: set[bytes] = set()
        began = time.monotonic()
        end = start
        writer.begin()
        for record in records[start:]:
            step = self._step(record, rows)
            for output in step.outputs:
                produce(output)
            if step.row is not None and step.key is not None:
                rows[step.key] = step.row
                dirty.add(step.key)
            outcomes[step.reason] += 1
            end += 1
            if not end % CLOCK_EVERY and time.monotonic() - began > SLICE_SECONDS:
                break
        for key in dirty:
            produce(Output(self._changelog, key, rows[key], (), self.table.number))
        position = self.table.positions[batch.topic].advanced(records[end - 1].offset + 1, outcomes)
        produce(Output(self._changelog, position_key(batch.topic), encode_position(position), (), self.table.number))
        await self._until_answered(writer.commit, CALL_SECONDS)
        self.table.positions[batch.topic] = position
        self._restorer.slices += 1
        count_outcomes(self._stage.name, outcomes)
        POSITION.labels(self._stage.name, batch.topic, batch.partition).set(position.next_offset)
        return end

    def _step(self, record: Record, rows: Mapping[bytes, bytes]) -> Step:
        step = rerouted(record, rows, self._settings.partitions)
        if step is None:
            step = self._decided(record, rows)
        step = fitting(step)
        if step.error is None:
            return step
        return step._replace(outputs=(*step.outputs, self._dead_letter(record, step.reason, step.error)))

    def _decided(self, record: Record, rows: Mapping[bytes, bytes]) -> Step:
        try:
            step = self._stage.step(record, rows)
        except Exception as error:
            # ``step`` is pure, so a second try would fail alike: the record goes to the dead letters, whole.
            self._failures += 1
            where = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
            log.error("a record could not be decided on", **where, kind=type(error).__name__, exc_info=self._failures == 1)
            if self._failures >= MAX_FAILURES_IN_A_ROW:
                raise StageFailed(f"{self._stage.name} failed on {self._failures} records in a row; the log above says where.") from error
            return Step(Reason.HANDLER_FAILED, error=f"{type(error).__name__} in {self._stage.name}")
        self._failures = 0
        return step

    def _dead_letter(self, record: Record, reason: Reason, error: str) -> Output:
        origin = Origin(self._stage.name, record.topic, record.partition, record.offset)
        key, value, kept = record.key, record.value, record.headers
        if _bytes_of(key, value, kept) > MAX_OUTPUT_BYTES:
            error = f"{error} Its value of {len(value or b'')} bytes and its headers are left out here, for it is too large."
            key, value, kept = (key if len(key or b"") <= MAX_KEPT_KEY_BYTES else None), b"", ()
        return Output(self._dead_letters, key, value, dead_letter_headers(kept, origin, reason, error))

    async def _in_thread(self, call: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call, *arguments)

    async def _until_answered(self, call: Callable[..., T], *arguments: object) -> T:
        return await self._restorer.kafka.until_available(lambda: self._in_thread(call, *arguments))


class Restorer:
    """Restores partitions that ask at about the same time with one consumer."""

    def __init__(self, settings: Settings, stage: str, changelog: str, inputs: InputCheck, pool: ThreadPoolExecutor) -> None:
        self._settings = settings
        self._stage = stage
        self._changelog = changelog
        self._inputs = inputs
        self._waiting: list[tuple[TablePartition, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None
        self.kafka = Waiting(stage, "kafka")
        self.records = 0
        """Records read by all restores so far."""
        self.slices = 0
        """Transactions committed so far, of all partitions."""
        self.pool = pool

    async def restore(self, table: TablePartition) -> None:
        """Fill ``table`` from the committed changelog and check its positions. The partition must have been fenced.

        Raises PositionError when a position can not be right. Waits while Kafka is away.
        """
        restored = asyncio.get_running_loop().create_future()
        self._waiting.append((table, restored))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        await restored

    async def _run(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            tables = [table for table, restored in group if not restored.done()]
            try:
                await self.kafka.until_available(partial(self._restore_in_thread, tables))
            except Exception as error:  # noqa: BLE001  # whoever asked is told
                _settle(group, error)
            else:
                _settle(group, None)

    async def _restore_in_thread(self, tables: list[TablePartition]) -> None:
        await asyncio.get_running_loop().run_in_executor(self.pool, self._restore, tables)

    def _count(self, records: int) -> None:
        self.records += records

    def _restore(self, tables: list[TablePartition]) -> None:
        began = time.monotonic()
        for table in tables:
            table.rows.clear()
            table.positions.clear()
        records = restore(self._settings, self._changelog, tables, on_read=self._count)
        self._inputs.check(tables)
        numbers = sorted(table.number for table in tables)
        log.info(
            "restored",
            stage=self._stage,
            partitions=numbers,
            records=records,
            rows=sum(len(table.rows) for table in tables),
            seconds=round(time.monotonic() - began, 2),
        )


def _settle(group: list[tuple[TablePartition, "asyncio.Future[None]"]], error: Exception | None) -> None:
    for _, restored in group:
        if not restored.done():
            if error is None:
                restored.set_result(None)
            else:
                restored.set_exception(error)
