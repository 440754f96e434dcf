"""One task for each partition, or for each topic's part of it: batches in order, each acked only when all of it, and of those before it,
is durable.

A failure is never swallowed and never acked: it ends the process (``Processing.failure``), which the supervisor starts again.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import structlog

from streams.engine.unfinished import Rest, Unfinished
from streams.errors import GenerationEnded, StageFailed, TierstreamError
from streams.kafka.records import Record

T = TypeVar("T")

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

    async def process(self, batch: Batch) -> Rest | None:
        """Work a batch in; return when all of it is durable, or, with a task for the rest, when only that is left which need not hold up
        the next batch. Raises GenerationEnded when it can not be durable any more: the partition is then prepared anew, and the batch is
        neither acked nor tried again, for a later generation reads it again."""

    async def close(self) -> None:
        """Let go of the partition, and end the rests of batches. No batch is under way any more."""


class Flow(Protocol):
    """Where batches come from."""

    def pause(self, topic: str, partition: int) -> None:
        """Bring no more batches of this partition, but for those under way."""

    def resume(self, topic: str, partition: int) -> None:
        """Bring them again."""


_Part = tuple[str | None, int]
"""What has a task: a partition, of one topic or of all (None)."""


class _PartitionQueue:
    """One part: the batches that wait for it, and the task that works them in."""

    __slots__ = ("_waits", "batches", "full", "idle", "may_begin_at", "paused", "task", "under_way", "unfinished")

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        self.unfinished = Unfinished(failed)
        self.under_way: Batch | None = None
        self.idle = asyncio.Event()
        self.idle.set()
        self.batches: deque[Batch] = deque()
        self.paused: set[str] = set()
        self.full = asyncio.Event()
        self._waits = asyncio.Event()
        self.may_begin_at = 0.0
        self.task: asyncio.Task[None] | None = None

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
        topics: Sequence[str] = (),
        finish_seconds: float = FINISH_SECONDS,
        batch_records: int = BATCH_RECORDS,
        pace: float = PACE,
        pace_seconds: float = PACE_SECONDS,
    ) -> None:
        """``generation`` is asked for the group's present generation; ``finish_seconds`` is what a batch under way gets to end.

        With ``topics`` each of them has a task of its own for each partition: one that has enough does not hold up the others. Without,
        a partition's batches are worked in one after the other, whatever topics they are of.

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
        self._topics = tuple(topics)
        self._queues: dict[_Part, _PartitionQueue] = {}
        self._may_begin = asyncio.Event()
        self._may_begin.set()
        self._preparing: set[_Part] = set()
        self._assigned_in = -1
        self.assigned = False
        """Whether there has been an assignment; an empty one counts, for a spare worker is ready too."""
        self.failure: asyncio.Future[TierstreamError] = asyncio.get_running_loop().create_future()

    @property
    def partitions(self) -> frozenset[int]:
        """The partitions that have a task."""
        return frozenset(number for _, number in self._queues)

    @property
    def working(self) -> frozenset[tuple[str, int]]:
        """The (topic, partition)s that have a batch under way."""
        return frozenset((batch.topic, batch.partition) for queue in self._queues.values() if (batch := queue.under_way) is not None)

    @property
    def preparing(self) -> frozenset[int]:
        """The partitions that are being restored."""
        return frozenset(number for _, number in self._preparing)

    def assign(self, partitions: Iterable[int], generation: int = -1) -> None:
        """Make ``partitions`` the ones that are ours: start a task for each new one, end those of the others.

        ``generation`` is the one that they were assigned in; without it ``rouse`` does nothing.
        """
        wanted = frozenset(partitions)
        self._assigned_in = generation
        self.assigned = True
        self._may_begin.set()
        given_up, new = self.partitions - wanted, sorted(wanted - self.partitions)
        for part in [part for part in self._queues if part[1] in given_up]:
            _cancel(self._queues.pop(part))
        for part in [(topic, number) for number in new for topic in self._topics or (None,)]:
            queue = self._queues[part] = _PartitionQueue(partial(self._rest_failed, part[1]))
            queue.task = asyncio.create_task(self._run(part, queue), name=f"partition-{part[1]}" + (f"-{part[0]}" if part[0] else ""))

    def submit(self, batch: Batch) -> None:
        """Queue a batch. A batch of a partition that is not ours is dropped: its owner reads it."""
        queue = self._queues.get(self._part(batch.topic, batch.partition))
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
        queue = self._queues.get(self._part(topic, number))
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

    def _part(self, topic: str, number: int) -> _Part:
        return (topic if self._topics else None), number

    async def _run(self, part: _Part, queue: _PartitionQueue) -> None:
        number = part[1]
        worker = self._new_worker(number)
        try:
            while True:
                self._preparing.add(part)
                await worker.prepare()
                self._preparing.discard(part)
                with contextlib.suppress(GenerationEnded):
                    await self._work(number, queue, worker)
        except asyncio.CancelledError:
            raise
        except TierstreamError as error:
            self._fail(error)
        except Exception as error:
            log.exception("a partition's task failed", partition=number)
            self._fail(_stage_failed(number, error))
        finally:
            self._preparing.discard(part)
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
                if batch.generation == self._generation():
                    await queue.unfinished.enter(batch.generation)
                    queue.begin(batch)
                    began = time.monotonic()
                    rest = await _finish(worker.process(batch), self._finish_seconds)
                    queue.may_begin_at = began + min(self._pace_seconds, self._pace * (time.monotonic() - began))
                    queue.end()
                    queue.unfinished.add(batch.ack, rest)
        finally:
            queue.end()
            queue.unfinished.abandon()

    def _rest_failed(self, number: int, error: BaseException) -> None:
        if isinstance(error, TierstreamError):
            self._fail(error)
        else:
            log.error("the rest of a batch failed", partition=number, exc_info=error)
            self._fail(_stage_failed(number, error))

    def _fail(self, error: TierstreamError) -> None:
        if not self.failure.done():
            self.failure.set_result(error)


def _stage_failed(number: int, error: BaseException) -> StageFailed:
    return StageFailed(f"Partition {number} failed with {type(error).__name__}; the log above says where.")


def _no_ack() -> None:
    """Ack nothing: there was no record."""


def _cancel(queue: _PartitionQueue) -> asyncio.Task[None] | None:
    queue.unfinished.abandon()
    if queue.task is not None:
        queue.task.cancel()
    return queue.task


async def _finish(work: Awaitable[T], seconds: float) -> T:
    """Await ``work``. When cancelled, let it go on to its end, which saves doing it again, but for no longer than ``seconds``."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task}, timeout=seconds)
        if task.cancel():
            log.warning("a batch was left unfinished, for its partition was given up", after_seconds=seconds)
            await asyncio.wait({task})
        elif not task.cancelled() and task.exception() is not None:
            log.warning("a batch failed while its partition was given up", error=repr(task.exception()))
        raise
