"""One task for each partition: batches in order, each acked only when all of it is durable.

A failure is never swallowed and never acked: it ends the process (``Processing.failure``), which the supervisor starts again.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog

from streams.errors import GenerationEnded, StageFailed, TierstreamError
from streams.kafka.records import Record

QUEUED_BATCHES = 2
"""From so many batches on that wait for a partition's task, no more are fetched. Few: each is a whole fetch, or as many small ones
as make one."""

BATCH_RECORDS = 1_000
"""A waiting batch of fewer records takes in what is fetched after it: a transaction, or a statement, costs the same for one record
as for many."""

BATCH_BYTES = 1_048_576
"""The same in bytes of values, so that large records do not wait in memory by the thousand."""

PACE = 4.0
"""A partition's next batch begins no sooner after the last one began than so many times what that took, up to ``PACE_SECONDS``. So a
slow machine, or a busy one, makes larger batches by itself; a lone event waits for nothing, nor does one behind a long batch."""

PACE_SECONDS = 0.1

UNDONE_RECORDS = 10_000
"""With so many records in batches that are not done, a partition begins no further batch: what is read again after a crash, and what is
in memory, stays bounded."""

FINISH_SECONDS = 3.0
"""How long a batch under way may take to its end when its partition is given up. Less than a stop's grace: a batch of mails, or
one that waits for Kafka, may take minutes, and what is not acked is done again by the partition's next owner."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Batch:
    """One partition's fetch: its records in offset order, the group's generation that they were read in, and what to call
    when all of them are durable. One without records is for what waits in its worker, and not on a topic."""

    topic: str
    partition: int
    generation: int
    records: Sequence[Record]
    ack: Callable[[], Any]
    may_go_on: asyncio.Event = field(default_factory=asyncio.Event, compare=False)
    """Set by a worker when what is left of the batch waits for something of its own, so that the partition's next batch can begin."""

    @property
    def value_bytes(self) -> int:
        """The size of all values together."""
        return sum(len(record.value or b"") for record in self.records)

    def continues(self, other: "Batch") -> bool:
        """Whether this is what the same generation read of the same partition after ``other``, and nothing of it again."""
        same = (self.topic, self.partition, self.generation) == (other.topic, other.partition, other.generation)
        return same and self.records[0].offset > other.records[-1].offset

    def joined(self, later: "Batch") -> "Batch":
        """Both as one, which is done when all of it is durable: the later one's ack covers this one's records."""
        return Batch(self.topic, self.partition, self.generation, [*self.records, *later.records], later.ack)


class PartitionWorker(Protocol):
    """What a stage does with one partition."""

    async def prepare(self) -> None:
        """Get ready; batches wait until it returns."""

    async def process(self, batch: Batch) -> None:
        """Work a batch in; return when all of it is durable. Raises GenerationEnded when it can not be any more: the partition is then
        prepared anew, and the batch is neither acked nor tried again, for a later generation reads it again. The next batch begins then,
        or once ``batch.may_go_on`` is set; it is acked after this one in any case. A batch that is not done when its generation ends is
        cancelled, and read again."""

    async def close(self) -> None:
        """Let go of the partition. No batch is under way any more."""


class Flow(Protocol):
    """Where batches come from."""

    def pause(self, topic: str, partition: int) -> None:
        """Bring no more batches of this partition, but for those under way."""

    def resume(self, topic: str, partition: int) -> None:
        """Bring them again."""


class _PartitionQueue:
    """One partition: the batches that wait for it, and the task that works them in."""

    __slots__ = ("_waits", "batches", "full", "idle", "may_begin_at", "paused", "task", "under_way", "undone")

    def __init__(self) -> None:
        self.under_way: Batch | None = None
        self.idle = asyncio.Event()
        self.idle.set()
        self.batches: deque[Batch] = deque()
        self.paused: set[str] = set()
        self.full = asyncio.Event()
        self._waits = asyncio.Event()
        self.may_begin_at = 0.0
        self.task: asyncio.Task[None] | None = None
        self.undone: deque[tuple[Batch, asyncio.Task[None]]] = deque()

    def put(self, batch: Batch, batch_records: int) -> None:
        """Queue a batch, or make it part of the last one that waits."""
        last = self.batches[-1] if self.batches else None
        if last is not None and not last.records:
            self.batches[-1] = batch  # which takes along whatever that one was for
        elif last is not None and len(last.records) < batch_records and last.value_bytes < BATCH_BYTES and batch.continues(last):
            self.batches[-1] = last.joined(batch)
        else:
            self.batches.append(batch)
            self._waits.set()

    async def get(self) -> Batch:
        """Return the next batch, once there is one and its time has come, or the queue is full."""
        await self._waits.wait()
        wait_seconds = self.may_begin_at - time.monotonic()
        if wait_seconds > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_seconds):
                    await self.full.wait()
        batch = self.batches.popleft()
        if not self.batches:
            self._waits.clear()
        return batch

    def begin(self, batch: Batch) -> None:
        self.under_way = batch
        self.idle.clear()

    def end(self) -> None:
        self.under_way = None
        self.idle.set()

    def ack_done(self) -> None:
        """Ack the batches that are done, in their order and none behind one that is not done or has failed. Raises what that one raised."""
        while self.undone and self.undone[0][1].done():
            batch, work = self.undone[0]
            work.result()
            self.undone.popleft()
            batch.ack()

    async def forget_undone(self) -> None:
        """Cancel what is left of batches that are not done, and wait for its end. They are not acked."""
        left = [work for _, work in self.undone]
        self.undone.clear()
        for work in left:
            work.cancel()
        if left:
            await asyncio.wait(left)


class Processing:
    """Runs a PartitionWorker for each assigned partition. Use it from one event loop.

    Partitions do not wait for each other: one that has enough is held, and the others go on.

    Batches of an earlier generation are not begun: after a rebalance the consumer reads on from the committed offset, and a
    batch from before would be acked ahead of those that were dropped before it.
    """

    def __init__(
        self,
        new_worker: Callable[[int], PartitionWorker],
        generation: Callable[[], int],
        flow: Flow,
        *,
        finish_seconds: float = FINISH_SECONDS,
        batch_records: int = BATCH_RECORDS,
        pace: float = PACE,
        pace_seconds: float = PACE_SECONDS,
    ) -> None:
        """``generation`` is asked for the group's present generation; ``finish_seconds`` is what a batch under way gets to end.

        A batch that waits with fewer than ``batch_records`` takes in what follows it (1: none does). A batch begins at least
        ``pace`` times as long after the one before as that one took, but for no longer than ``pace_seconds``, and a full queue waits
        for nothing (0: none waits).
        """
        self._finish_seconds = finish_seconds
        self._batch_records = batch_records
        self._pace = pace
        self._pace_seconds = pace_seconds
        self._new_worker = new_worker
        self._generation = generation
        self._flow = flow
        self._queues: dict[int, _PartitionQueue] = {}
        self._may_begin = asyncio.Event()
        self._may_begin.set()
        self._preparing: set[int] = set()
        self._assigned_in = -1
        self.assigned = False
        """Whether there has been an assignment; an empty one counts, for a spare worker is ready too."""
        self.failure: asyncio.Future[TierstreamError] = asyncio.get_running_loop().create_future()

    @property
    def partitions(self) -> frozenset[int]:
        """The partitions that have a task."""
        return frozenset(self._queues)

    @property
    def working(self) -> frozenset[tuple[str, int]]:
        """The (topic, partition)s that have a batch under way."""
        return frozenset((batch.topic, batch.partition) for queue in self._queues.values() if (batch := queue.under_way) is not None)

    @property
    def preparing(self) -> frozenset[int]:
        """The partitions that are being restored."""
        return frozenset(self._preparing)

    def assign(self, partitions: Iterable[int], generation: int = -1) -> None:
        """Make ``partitions`` the ones that are ours: start a task for each new one, end those of the others.

        ``generation`` is the one that they were assigned in; without it ``rouse`` does nothing.
        """
        wanted = frozenset(partitions)
        self._assigned_in = generation
        self.assigned = True
        self._may_begin.set()
        for number in self.partitions - wanted:
            _cancel(self._queues.pop(number))
        for number in sorted(wanted - self.partitions):
            queue = self._queues[number] = _PartitionQueue()
            queue.task = asyncio.create_task(self._run(number, queue), name=f"partition-{number}")

    def submit(self, batch: Batch) -> None:
        """Queue a batch. A batch of a partition that is not ours is dropped: its owner reads it."""
        queue = self._queues.get(batch.partition)
        if queue is None:
            return
        queue.put(batch, self._batch_records)
        if len(queue.batches) >= QUEUED_BATCHES:
            queue.paused.add(batch.topic)
            queue.full.set()
            self._flow.pause(batch.topic, batch.partition)

    def rouse(self, topic: str, number: int) -> None:
        """Have a partition's worker process a batch without records, in the generation that assigned the partition. Does nothing where a
        batch waits, or where the partition is not ours."""
        queue = self._queues.get(number)
        if queue is not None and not queue.batches:
            queue.put(Batch(topic, number, self._assigned_in, (), _no_ack), self._batch_records)

    async def pause(self) -> None:
        """Begin no batch until the next ``assign``, and return when those under way are done, or after ``finish_seconds``.

        For the beginning of a rebalance: what is under way then still counts, and need not be done again by the partition's next owner.
        """
        self._may_begin.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._finish_seconds):
                for queue in list(self._queues.values()):
                    await queue.idle.wait()

    async def close(self) -> None:
        """End every task, each after the batch that it is at, or after ``finish_seconds``."""
        queues = list(self._queues.values())
        self._queues.clear()
        tasks = [task for task in map(_cancel, queues) if task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, number: int, queue: _PartitionQueue) -> None:
        worker = self._new_worker(number)
        try:
            with self._failing(number):
                while True:
                    self._preparing.add(number)
                    await worker.prepare()
                    self._preparing.discard(number)
                    with contextlib.suppress(GenerationEnded):
                        await self._work(number, queue, worker)
        finally:
            self._preparing.discard(number)
            await queue.forget_undone()
            await asyncio.shield(worker.close())

    async def _work(self, number: int, queue: _PartitionQueue, worker: PartitionWorker) -> None:
        """Work batches in for ever. Raises what the worker raises."""
        try:
            while True:
                batch = await queue.get()
                if queue.paused and len(queue.batches) < QUEUED_BATCHES:
                    for topic in queue.paused:
                        self._flow.resume(topic, number)
                    queue.paused.clear()
                    queue.full.clear()
                await self._may_begin.wait()
                if queue.undone and queue.undone[0][0].generation != self._generation():
                    await queue.forget_undone()  # it is read again, from the committed offset on
                if batch.generation == self._generation():
                    queue.begin(batch)
                    began = time.monotonic()
                    work = asyncio.create_task(worker.process(batch))
                    await _finish(work, batch.may_go_on, self._finish_seconds)
                    queue.may_begin_at = began + min(self._pace_seconds, self._pace * (time.monotonic() - began))
                    queue.end()
                    queue.undone.append((batch, work))
                    queue.ack_done()
                    if not work.done():
                        work.add_done_callback(lambda _: self._ack_done(number, queue))
                    while sum(len(undone.records) for undone, _ in queue.undone) > UNDONE_RECORDS:
                        await asyncio.wait({queue.undone[0][1]})
                        queue.ack_done()
        finally:
            queue.end()

    def _ack_done(self, number: int, queue: _PartitionQueue) -> None:
        with self._failing(number):
            queue.ack_done()

    @contextlib.contextmanager
    def _failing(self, number: int) -> Iterator[None]:
        """End the process for whatever is raised in the block."""
        try:
            yield
        except TierstreamError as error:
            self._fail(error)
        except Exception as error:
            log.exception("a partition's task failed", partition=number)
            self._fail(StageFailed(f"Partition {number} failed with {type(error).__name__}; the log above says where."))

    def _fail(self, error: TierstreamError) -> None:
        if not self.failure.done():
            self.failure.set_result(error)


def _no_ack() -> None:
    """Ack nothing: there was no record."""


def _cancel(queue: _PartitionQueue) -> asyncio.Task[None] | None:
    if queue.task is not None:
        queue.task.cancel()
    return queue.task


async def _finish(work: asyncio.Task[None], may_go_on: asyncio.Event, seconds: float) -> None:
    """Return when ``work`` is done, or lets others go on. When cancelled, let it go on to its end, which saves doing it again, but for no
    longer than ``seconds``. Raises what ``work`` raises."""
    going_on = asyncio.create_task(may_go_on.wait())
    try:
        await asyncio.wait((work, going_on), return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
    except asyncio.CancelledError:
        await asyncio.wait({work}, timeout=seconds)
        if work.cancel():
            log.warning("a batch was left unfinished, for its partition was given up", after_seconds=seconds)
            await asyncio.wait({work})
        elif not work.cancelled() and work.exception() is not None:
            log.warning("a batch failed while its partition was given up", error=repr(work.exception()))
        raise
    finally:
        going_on.cancel()
