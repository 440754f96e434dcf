"""One task for each partition: batches in order, each acked only when all of it is durable.

A failure is never swallowed and never acked: it ends the process (``Processing.failure``), which the supervisor starts again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
from aiokafka import ConsumerRecord

from streams.errors import StageFailed, TierstreamError

Record = ConsumerRecord[bytes | None, bytes | None]

QUEUED_BATCHES = 2
"""Batches that wait for a partition's task. Few: each is a whole fetch, and Faust buffers before it."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Batch:
    """One partition's fetch: its records in offset order, the group's generation that they were read in, and what to call
    when all of them are durable."""

    topic: str
    partition: int
    generation: int
    records: Sequence[Record]
    ack: Callable[[], Any]


class PartitionWorker(Protocol):
    """What a stage does with one partition."""

    async def prepare(self) -> None:
        """Get ready; batches wait until it returns."""

    async def process(self, batch: Batch) -> None:
        """Work a batch in; return when all of it is durable."""

    async def close(self) -> None:
        """Let go of the partition. No batch is under way any more."""


class Processing:
    """Runs a PartitionWorker for each assigned partition. Use it from one event loop.

    Batches of an earlier generation are not begun: after a rebalance the consumer reads on from the committed offset, and a
    batch from before would be acked ahead of those that were dropped before it.
    """

    def __init__(self, new_worker: Callable[[int], PartitionWorker], generation: Callable[[], int]) -> None:
        self._new_worker = new_worker
        self._generation = generation
        self._queues: dict[int, asyncio.Queue[Batch]] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._preparing: set[int] = set()
        self.assigned = False
        """Whether there has been an assignment; an empty one counts, for a spare worker is ready too."""
        self.failure: asyncio.Future[TierstreamError] = asyncio.get_running_loop().create_future()

    @property
    def partitions(self) -> frozenset[int]:
        """The partitions that have a task."""
        return frozenset(self._tasks)

    @property
    def preparing(self) -> frozenset[int]:
        """The partitions that are being restored."""
        return frozenset(self._preparing)

    def assign(self, partitions: Iterable[int]) -> None:
        """Make ``partitions`` the ones that are ours: start a task for each new one, end those of the others."""
        wanted = frozenset(partitions)
        self.assigned = True
        for number in self.partitions - wanted:
            self._tasks.pop(number).cancel()
            self._queues.pop(number)
        for number in sorted(wanted - self.partitions):
            self._queues[number] = asyncio.Queue(QUEUED_BATCHES)
            self._tasks[number] = asyncio.create_task(self._run(number, self._queues[number]), name=f"partition-{number}")

    async def submit(self, batch: Batch) -> None:
        """Queue a batch; waits while its partition has enough. A batch of a partition that is not ours is dropped: its owner
        reads it."""
        queue = self._queues.get(batch.partition)
        if queue is not None:
            await queue.put(batch)

    async def close(self) -> None:
        """End every task, each after the batch that it is at."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        self._queues.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, number: int, queue: asyncio.Queue[Batch]) -> None:
        worker = self._new_worker(number)
        try:
            self._preparing.add(number)
            await worker.prepare()
            self._preparing.discard(number)
            while True:
                batch = await queue.get()
                if batch.generation != self._generation():
                    continue
                # A cancelled batch goes on to its end: half a batch is what nobody can resume.
                await _finish(worker.process(batch))
                batch.ack()
        except asyncio.CancelledError:
            raise
        except TierstreamError as error:
            self._fail(error)
        except Exception as error:
            log.exception("a partition's task failed", partition=number)
            self._fail(StageFailed(f"Partition {number} failed with {type(error).__name__}; the log above says where."))
        finally:
            self._preparing.discard(number)
            await asyncio.shield(worker.close())

    def _fail(self, error: TierstreamError) -> None:
        if not self.failure.done():
            self.failure.set_result(error)


async def _finish(work: Awaitable[None]) -> None:
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            await asyncio.wait({task})
        if not task.cancelled() and task.exception() is not None:
            log.warning("a batch failed while its partition was given up", error=repr(task.exception()))
        raise
