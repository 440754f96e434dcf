"""Transactions without a broker: a log in memory that takes what is committed, and nothing else."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import pytest

from schemas.reasons import Reason
from streams.engine import exactly_once
from streams.engine.changelog import SETTINGS_KEY, Position, TablePartition, encode_position, position_key
from streams.engine.exactly_once import TransactionalWorker, Transactions
from streams.engine.partitions import Batch, Processing
from streams.engine.table_stage import Effect, SettingsChange, TableStage
from streams.engine.takeover import Takeover
from streams.engine.transactions import Membership, Offsets, Output
from streams.errors import GenerationEnded, TierstreamError
from streams.kafka.partitioner import partition_of
from streams.kafka.records import Record
from streams.settings import Settings
from tests.pretended_stack import record

INPUT, CHANGELOG, CURRENT = "team.events", "changelog", "tier.current"
GENERATION = 7
T = TypeVar("T")


class Alarms(TableStage):
    """A stage whose rows are coming times. ``WAKE at`` makes the row of its key wait; ``due at`` is what it produces when that has passed,
    which ends the wait. ``settings`` stand in what it says of each row."""

    name = "classify"

    def __init__(self, settings: bytes = b"", topic: str = INPUT, current: str = CURRENT, *, refuses: bool = False) -> None:
        self.settings = settings
        self._topic = topic
        self._current = current
        self._refuses = refuses

    def effect(self, record: Record, row: bytes | None) -> Effect:
        what, _, at = (record.value or b"").partition(b" ")
        if what == b"wake":
            return Effect(Reason.RENEWAL, row=at)
        if what == b"due" and row == at:
            return Effect(Reason.CANCELED, row=b"0")
        return Effect(Reason.DUPLICATE if what == b"due" else Reason.PASSED_THROUGH)

    def pack(self, row: bytes) -> bytes:
        return row

    def unpack(self, key: bytes, packed: bytes) -> bytes:
        return packed

    def due_at(self, packed: bytes) -> int:
        return int(packed)

    def due_records(self, key: bytes, packed: bytes, now: int) -> Sequence[Output]:
        return [Output(self._topic, key, b"due " + packed)] if 0 < int(packed) <= now else []

    def settings_changed(self, former: bytes, rows: Any) -> SettingsChange:
        def outputs() -> Iterable[Output]:
            return (Output(self._current, key, self.settings) for key in sorted(rows))

        def refusal(affected: int, total: int) -> str:
            return f"{affected} of {total} rows would be {self.settings.decode()}, and were {former.decode()}."

        return SettingsChange(len(rows), outputs, refusal) if self._refuses else SettingsChange()


@dataclass
class MemoryLog:
    """What is committed, by (topic, partition), the group's offsets, and the failures that a test asks for."""

    partitions: int = 1
    generation: int = GENERATION
    records: dict[tuple[str, int], list[Output]] = field(default_factory=lambda: defaultdict(list))
    offsets: dict[tuple[str, int], int] = field(default_factory=dict)
    transactions: list[list[Output]] = field(default_factory=list)
    """What each transaction committed, in order."""
    failures: list[Exception] = field(default_factory=list)
    """Raised by the next calls of ``send_offsets``."""

    def append(self, output: Output) -> None:
        partition = output.partition if output.partition >= 0 else partition_of(output.key or b"", self.partitions)
        self.records[output.topic, partition].append(output)

    def values(self, topic: str, partition: int = 0) -> list[bytes | None]:
        return [output.value for output in self.records[topic, partition]]

    def of_last(self, topic: str) -> list[bytes | None]:
        return [output.value for output in self.transactions[-1] if output.topic == topic]


class MemoryWriter:
    """A TransactionalWriter on a MemoryLog."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self._open: list[Output] = []
        self._offsets: dict[tuple[str, int], int] = {}
        self.is_open = False

    @property
    def needs_open(self) -> bool:
        return not self.is_open

    async def open(self, timeout_seconds: float) -> None:
        await asyncio.sleep(0)  # others go on meanwhile, as with a broker
        self.is_open = True

    def begin(self) -> None:
        self._open, self._offsets = [], {}

    def produce(self, outputs: Iterable[Output], home: TablePartition | None = None) -> None:
        self._open += outputs

    async def flush(self, timeout_seconds: float) -> None: ...

    async def send_offsets(self, offsets: Offsets, membership: Membership, timeout_seconds: float) -> None:
        if self._log.failures:
            raise self._log.failures.pop(0)
        if membership.generation != self._log.generation:
            raise GenerationEnded("The group has gone on.")
        self._offsets = dict(offsets)

    async def abort(self, timeout_seconds: float) -> None:
        self._open = []

    async def commit(self, timeout_seconds: float) -> None:
        for output in self._open:
            self._log.append(output)
        self._log.offsets |= self._offsets
        self._log.transactions.append(self._open)

    async def close(self) -> None: ...


class MemoryTakeover:
    """A Takeover from a MemoryLog. ``holds`` keeps partitions from being restored until they are let through."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self.kafka = self
        self.holds: dict[int, asyncio.Event] = {}
        self.asked = self.restores = 0

    async def until_available(self, call: Callable[[], Awaitable[T]]) -> T:
        return await call()

    async def take_over(self, table: TablePartition, on_restored: Callable[[], None]) -> None:
        self.asked += 1
        if table.number in self.holds:
            await self.holds[table.number].wait()
        if table.positions:
            return
        self.restores += 1
        table.forget()
        for output in self._log.records[CHANGELOG, table.number]:
            table.apply(output.key or b"", output.value)
        table.positions.setdefault(INPUT, Position("id", 0))
        on_restored()


@dataclass
class Bench:
    """A worker on a MemoryLog, with a clock of its own."""

    log: MemoryLog
    transactions: Transactions
    processing: Processing
    takeover: MemoryTakeover
    now: list[float]
    read: dict[int, int] = field(default_factory=lambda: defaultdict(int))

    def put(self, key: bytes, value: bytes, partition: int = 0) -> None:
        """Have a record on the input topic."""
        self.log.append(Output(INPUT, key, value, partition=partition))

    def fetch(self, partition: int = 0) -> None:
        """Hand over what the input topic holds and was not handed over yet."""
        held = self.log.records[INPUT, partition]
        start, self.read[partition] = self.read[partition], len(held)
        records = [
            record(INPUT, output.key, output.value, partition=partition, offset=offset)
            for offset, output in enumerate(held[start:], start=start)
        ]
        if records:
            self.processing.submit(Batch(INPUT, partition, self.log.generation, records, lambda: None))

    def reached(self, partition: int = 0) -> bool:
        """Whether all of the input is worked in."""
        return self.log.offsets.get((INPUT, partition), 0) == len(self.log.records[INPUT, partition])

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            if self.processing.failure.done():
                raise self.processing.failure.result()
            await asyncio.sleep(0.001)

    async def roused_until(self, condition: Callable[[], bool]) -> None:
        """Rouse what waits, as a worker does twice a second, until ``condition`` holds."""

        def roused() -> bool:
            self.transactions.rouse()
            return condition()

        await self.until(roused)

    async def work(self, partition: int = 0) -> None:
        """Have all of the input worked in, what it leads to as well."""
        while not self.reached(partition):
            self.fetch(partition)
            await self.until(lambda: self.log.offsets.get((INPUT, partition), 0) == self.read[partition])

    async def failure(self) -> TierstreamError:
        return await self.processing.failure


@asynccontextmanager
async def working(
    monkeypatch: pytest.MonkeyPatch,
    log: MemoryLog,
    stage: TableStage,
    *partitions: int,
    now: float = 0,
    holds: Sequence[int] = (),
    accepts_changes: bool = False,
) -> AsyncIterator[Bench]:
    """Run a worker of ``stage`` with ``partitions`` (0 unless any are named) until the end of the block."""
    settings = Settings(partitions=log.partitions)
    monkeypatch.setattr(exactly_once, "TransactionalWriter", lambda *_: MemoryWriter(log))
    monkeypatch.setattr(exactly_once, "PACE_SECONDS", 0.0)
    monkeypatch.setattr(exactly_once, "JOIN_SECONDS", 0.0)
    takeover = MemoryTakeover(log)
    takeover.holds = {number: asyncio.Event() for number in holds}
    clock = [now]
    transactions = Transactions(
        settings,
        stage,
        CHANGELOG,
        "worker",
        lambda: Membership("group", log.generation, "member"),
        cast(Takeover, takeover),
        lambda number: processing.rouse(INPUT, number),
        accepts_changes=accepts_changes,
        clock=lambda: clock[0],
    )

    class Flow:
        def pause(self, topic: str, partition: int) -> None: ...

        def resume(self, topic: str, partition: int) -> None: ...

    def new_worker(number: int) -> TransactionalWorker:
        return TransactionalWorker(transactions, number)

    processing = Processing(new_worker, lambda: log.generation, Flow(), pace=0)
    processing.assign(partitions or [0], log.generation)
    try:
        async with asyncio.timeout(20):
            yield Bench(log, transactions, processing, takeover, clock)
    finally:
        await processing.close()
        await transactions.close()


def with_rows(*ats: int, settings: bytes | None = None, partition: int = 0, log: MemoryLog | None = None) -> MemoryLog:
    """A log whose changelog holds a row for each coming time, and a position."""
    log = log or MemoryLog()
    for number, at in enumerate(ats):
        log.append(Output(CHANGELOG, b"team %d" % number, b"%d" % at, partition=partition))
    log.append(Output(CHANGELOG, position_key(INPUT), encode_position(Position("id", 0)), partition=partition))
    if settings is not None:
        log.append(Output(CHANGELOG, SETTINGS_KEY, settings, partition=partition))
    return log
