"""Processing with workers that do as a test's script says: gates, failures, and a note of all that was begun, done and acked."""

import asyncio
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from streams.engine.partitions import FINISH_SECONDS, PACE_SECONDS, Batch, Processing
from tests.pretended_stack import record

TOPIC = "team.events"

DEADLINE_SECONDS = 20.0
"""What a test waits for comes at once; one that waits for longer than this has failed."""


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(200):
        await asyncio.sleep(0)


@dataclass
class Gate:
    """A place where work stops until it is let through."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    async def pass_through(self) -> None:
        self.reached.set()
        await self.opened.wait()


@dataclass
class ScriptedWorker:
    """Notes what it is asked for. A batch's number is its first offset, 0 without records: ``gates`` holds one back, ``failures`` makes it fail."""

    script: "Script"
    number: int
    prepared: bool = False
    closed: bool = False

    async def prepare(self) -> None:
        self.script.preparations_begun.append(self.number)
        if self.number in self.script.preparations:
            await self.script.preparations[self.number].pass_through()
        if self.number in self.script.preparation_failures:
            raise self.script.preparation_failures[self.number]
        self.prepared = True

    async def process(self, batch: Batch) -> None:
        assert self.prepared
        assert not self.closed
        number = batch.records[0].offset if batch.records else 0
        self.script.begun.append(number)
        self.script.batches.append([record.offset for record in batch.records])
        self.script.times.append(time.monotonic())
        if number in self.script.gates:
            await self.script.gates[number].pass_through()
        await asyncio.sleep(self.script.work_seconds)
        if number in self.script.failures:
            raise self.script.failures[number]
        self.script.finished.append(number)

    async def close(self) -> None:
        self.closed = True


@dataclass
class Script:
    """What the workers of one test do and did, and the flow that they hold and release."""

    gates: dict[int, Gate] = field(default_factory=dict)
    failures: dict[int, Exception] = field(default_factory=dict)
    preparations: dict[int, Gate] = field(default_factory=dict)
    preparation_failures: dict[int, Exception] = field(default_factory=dict)
    preparations_begun: list[int] = field(default_factory=list)
    work_seconds: float = 0
    begun: list[int] = field(default_factory=list)
    batches: list[list[int]] = field(default_factory=list)
    """All offsets of what was begun."""
    times: list[float] = field(default_factory=list)
    """When each was begun, in seconds of the monotonic clock."""
    finished: list[int] = field(default_factory=list)
    acked: list[int] = field(default_factory=list)
    workers: list[ScriptedWorker] = field(default_factory=list)
    paused: set[tuple[str, int]] = field(default_factory=set)
    generation: int = 1

    def worker(self, number: int) -> ScriptedWorker:
        self.workers.append(ScriptedWorker(self, number))
        return self.workers[-1]

    def pause(self, topic: str, partition: int) -> None:
        self.paused.add((topic, partition))

    def resume(self, topic: str, partition: int) -> None:
        self.paused.discard((topic, partition))

    def batch(self, *offsets: int, partition: int = 0, topic: str = TOPIC, value: bytes = b"") -> Batch:
        """Return a batch of the present generation. Its ack notes its last offset."""
        records = [record(topic, None, value, partition=partition, offset=offset) for offset in offsets]
        return Batch(topic, partition, self.generation, records, lambda: self.acked.append(offsets[-1]))


@asynccontextmanager
async def running(
    script: Script,
    *partitions: int,
    finish_seconds: float = FINISH_SECONDS,
    batch_records: int = 1,
    pace: float = 0,
    pace_seconds: float = PACE_SECONDS,
) -> AsyncIterator[Processing]:
    """Run ``script``'s workers: each batch as it is submitted, and at once, unless it is said otherwise. Ends with all gates open."""
    work = Processing(
        script.worker,
        lambda: script.generation,
        script,
        finish_seconds=finish_seconds,
        batch_records=batch_records,
        pace=pace,
        pace_seconds=pace_seconds,
    )
    work.assign(partitions)
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            yield work
    finally:
        for gate in (*script.gates.values(), *script.preparations.values()):
            gate.opened.set()
        await work.close()


class NeverHolds:
    """The part of a BatchHandler that is about records that wait, for one in which none does."""

    full: Collection[tuple[str, int]] = ()

    def describe(self) -> str:
        return ""
