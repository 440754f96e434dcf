"""Exactly once: one transaction for each slice of an input partition (design: ``docs/adr/0002-transactions.md``).

1. On assignment: ``init_transactions`` with a transactional id that names the partition. That fences whoever held it before.
2. Restore the rows and the position from the committed changelog.
3. Skip input below the position (Kafka's own committed offset is only a hint, and may lag).
4. For each slice: begin → decide all → produce outputs, changed rows and the position row → commit → then ack.
5. An unanswered commit is asked again. A refused one leaves the memory ahead of the log: the worker exits and starts again.

| crash after | the log holds | after the restart |
| --- | --- | --- |
| begin, decide, produce | nothing committed (the open transaction is aborted by 1) | the slice is decided again, with the same ids |
| commit | outputs, rows, position | the position skips the slice |
| ack | the same, and the group's offset | nothing is read twice |
"""

import asyncio
import contextlib
import ctypes
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import structlog

from streams.engine.changelog import InputCheck, TablePartition, encode_position, position_key, restore
from streams.engine.partitions import Batch
from streams.engine.slices import Slices
from streams.engine.table_stage import TableStage
from streams.engine.transactions import Output, TransactionalWriter
from streams.kafka.records import Record
from streams.metrics import POSITION, count_outcomes
from streams.runtime.waiting import Waiting
from streams.settings import Settings

CALL_SECONDS = 10.0
"""How long one call to Kafka may take before it counts as unanswered (and is tried again)."""

log = structlog.get_logger(__name__)

T = TypeVar("T")


class TransactionalWorker:
    """Works one partition's batches in, in transactions."""

    def __init__(self, settings: Settings, stage: TableStage, changelog: str, partition: int, restorer: "Restorer") -> None:
        self._settings = settings
        self._stage = stage
        self._changelog = changelog
        self._restorer = restorer
        self._pool = restorer.pool
        self._writer: TransactionalWriter | None = None
        self.table = TablePartition(partition)
        self._slices = Slices(settings, stage, changelog, self.table)

    async def prepare(self) -> None:
        """Fence the former owner, then restore. Tries again while Kafka is away."""
        transactional_id = f"{self._changelog}-{self.table.number}"
        self._writer = await self._in_thread(TransactionalWriter, self._settings, transactional_id)
        await self._until_answered(self._writer.take_over, CALL_SECONDS)
        self._slices.forget()
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
        writer.begin()
        end, outcomes = self._slices.fill(records, start, writer.produce)
        position = self.table.positions[batch.topic].advanced(records[end - 1].offset + 1, outcomes)
        writer.produce((Output(self._changelog, position_key(batch.topic), encode_position(position), partition=self.table.number),))
        await self._until_answered(writer.commit, CALL_SECONDS)
        self.table.positions[batch.topic] = position
        self._restorer.slices[self.table.number] += 1
        count_outcomes(self._stage.name, outcomes)
        POSITION.labels(self._stage.name, batch.topic, batch.partition).set(position.next_offset)
        return end

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
        self.slices: Counter[int] = Counter()
        """Transactions committed so far, by partition."""
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
            except Exception as error:  # noqa: BLE001  # the caller gets it
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
        _give_back_memory()
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


def _give_back_memory() -> None:
    """Give back to the system what a restore took beside the rows, a tenth of it all: glibc keeps it, for it lies between them."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # another C library than glibc
            ctypes.CDLL(None).malloc_trim(0)


def _settle(group: list[tuple[TablePartition, "asyncio.Future[None]"]], error: Exception | None) -> None:
    for _, restored in group:
        if not restored.done():
            if error is None:
                restored.set_result(None)
            else:
                restored.set_exception(error)
