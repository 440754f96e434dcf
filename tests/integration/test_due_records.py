"""Coming times and other settings on a real broker: crashes, rebalances, a worker that is late."""

import asyncio
from collections import Counter
from typing import Any

import pytest
import structlog

from streams.engine import transactions
from streams.engine.changelog import SETTINGS_KEY
from streams.engine.transactions import TransactionalWriter
from streams.errors import SettingsRefused
from streams.kafka.records import Record
from streams.settings import Settings
from tests.accounting import CHANGELOGS, outcomes
from tests.integration.test_rebalance import shares
from tests.topic_io import produce, read_all
from tests.transaction_doubles import CURRENT, INPUT, Alarms
from tests.workers import Run, committed, running, table

AT = 1_000
KEYS = [b"team %d" % number for number in range(40)]
"""Some on each partition."""


class Clock:
    """The clock of the workers of a test."""

    def __init__(self, now: float = 0) -> None:
        self.now = now
        self.asked = 0

    def __call__(self) -> float:
        self.asked += 1
        return self.now

    async def asked_again(self, run: Run) -> None:
        """Return once the worker has looked at the time more than once more."""
        before = self.asked
        await run.until(lambda: self.asked > before + 4, "another look at the clock")


def alarms(settings: Settings, stamp: bytes = b"", *, refuses: bool = False) -> Alarms:
    return Alarms(stamp, settings.topic_prefix + INPUT, settings.topic_prefix + CURRENT, refuses=refuses)


def as_member(settings: Settings, name: str) -> Settings:
    return settings.model_copy(update={"instance_id": name})


def wake(settings: Settings) -> None:
    produce(settings, INPUT, [(key, b"wake %d" % AT) for key in KEYS])


def due(settings: Settings) -> Counter[bytes]:
    """How many due records the input topic holds of each key."""
    return Counter(message.key() or b"" for message in read_all(settings, INPUT) if message.value() == b"due %d" % AT)


def at_end(settings: Settings) -> bool:
    """Whether the group has read all that there is."""
    ends = dict.fromkeys(range(settings.partitions), 0)
    ends |= {message.partition() or 0: (message.offset() or 0) + 1 for message in read_all(settings, INPUT)}
    return committed(settings, "classify", INPUT) == ends


async def test_due_records_are_produced_once_when_the_clock_has_moved_and_are_decided(kafka_settings: Settings) -> None:
    settings, clock = kafka_settings, Clock(AT - 0.1)
    wake(settings)
    async with running(settings, table(settings, alarms(settings), clock=clock)) as run:
        await run.decided(settings, "classify", len(KEYS))
        await clock.asked_again(run)
        assert not due(settings)
        clock.now = AT
        await run.decided(settings, "classify", 2 * len(KEYS))
        await clock.asked_again(run)

    assert due(settings) == dict.fromkeys(KEYS, 1)
    assert outcomes(settings, "classify") == {"renewal": len(KEYS), "canceled": len(KEYS)}


class Crash(BaseException):
    """What no handler takes for a failure of a record: the worker stands still, with its transaction open."""


class CrashesOnDue(Alarms):
    """With a process that dies before a due record is decided."""

    def effect(self, record: Record, row: Any) -> Any:
        if (record.value or b"").startswith(b"due "):
            raise Crash
        return super().effect(record, row)


async def test_due_records_of_a_worker_that_dies_before_it_decides_on_them_come_again_and_count_once(kafka_settings: Settings) -> None:
    settings, clock = as_member(kafka_settings, "0"), Clock()
    wake(settings)
    async with running(settings, table(settings, CrashesOnDue(topic=settings.topic_prefix + INPUT), clock=clock)) as run:
        await run.decided(settings, "classify", len(KEYS))
        clock.now = AT
        await run.until(lambda: bool(due(settings)), "a due record")
    before = due(settings)

    async with running(settings, table(settings, alarms(settings), clock=clock)) as run:
        await run.until(lambda: outcomes(settings, "classify")["canceled"] == len(KEYS) and at_end(settings), "all are decided")

    after = due(settings)
    assert all(after[key] == before[key] + 1 for key in KEYS)
    assert outcomes(settings, "classify") == {"renewal": len(KEYS), "canceled": len(KEYS), "duplicate": before.total()}


async def test_due_records_of_partitions_that_changed_hands_are_produced_by_their_new_owner(kafka_settings: Settings) -> None:
    settings, clock = kafka_settings, Clock()
    wake(settings)
    async with running(settings, table(settings, alarms(settings), clock=clock)) as first:
        await first.decided(settings, "classify", len(KEYS))
        async with running(settings, table(settings, alarms(settings), clock=clock)) as second:
            await shares(settings, first, second)
            clock.now = AT
            await second.decided(settings, "classify", 2 * len(KEYS))

    assert due(settings) == dict.fromkeys(KEYS, 1)
    assert outcomes(settings, "classify") == {"renewal": len(KEYS), "canceled": len(KEYS)}


async def test_due_records_of_a_worker_that_is_late_are_refused_where_another_has_its_partitions(
    kafka_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, clock = kafka_settings, Clock()
    first_settings = as_member(settings, "first")
    reached, released = asyncio.Event(), asyncio.Event()
    flush = TransactionalWriter.flush

    async def late(writer: TransactionalWriter, *call: Any) -> None:
        # Before the log knows of the transaction: who takes a partition over has to wait for one that it knows of.
        if clock.now and writer.transactional_id.endswith("first") and not reached.is_set():
            reached.set()
            async with asyncio.timeout(30):
                await released.wait()
        await flush(writer, *call)

    monkeypatch.setattr(TransactionalWriter, "flush", late)
    monkeypatch.setattr(transactions, "TRANSACTION_TIMEOUT_MS", 60_000)
    wake(settings)
    with structlog.testing.capture_logs() as logs:
        async with running(first_settings, table(first_settings, alarms(settings), clock=clock)) as first:
            await first.decided(settings, "classify", len(KEYS))
            clock.now = AT
            await first.until(reached.is_set, "a transaction with due records")
            monkeypatch.undo()
            assert not due(settings)
            async with running(settings, table(settings, alarms(settings), clock=clock)) as second:
                await second.until(lambda: bool(second.partitions), "the second has partitions")
                await second.until(lambda: bool(due(settings)), "and produces their due records")
                released.set()
                await first.decided(settings, "classify", 2 * len(KEYS))

                await first.until(lambda: at_end(settings), "the group's offsets at the log's end")

    assert [line for line in logs if line["event"].startswith("a transaction was aborted, for the group has gone on")]
    assert due(settings) == dict.fromkeys(KEYS, 1)
    assert outcomes(settings, "classify") == {"renewal": len(KEYS), "canceled": len(KEYS)}


async def test_other_settings_are_refused_with_all_that_would_change_and_emitted_for_all_once_they_are_accepted(
    kafka_settings: Settings,
) -> None:
    settings = kafka_settings
    produce(settings, INPUT, [(key, b"wake 0") for key in KEYS])
    async with running(settings, table(settings, alarms(settings, b"free", refuses=True))) as run:
        await run.decided(settings, "classify", len(KEYS))

    async with running(settings, table(settings, alarms(settings, b"hobby", refuses=True))) as run:
        failure = await run.failure()
    assert isinstance(failure, SettingsRefused)
    assert str(failure) == f"{len(KEYS)} of {len(KEYS)} rows would be hobby, and were free."
    assert not read_all(settings, CURRENT)

    async with running(settings, table(settings, alarms(settings, b"hobby", refuses=True), accepts_changes=True)) as run:
        await run.until(lambda: stamps(settings)[b"hobby"] == settings.partitions, "the settings of every partition")
    assert {message.key(): message.value() for message in read_all(settings, CURRENT)} == dict.fromkeys(KEYS, b"hobby")

    async with running(settings, table(settings, alarms(settings, b"hobby", refuses=True))) as run:
        produce(settings, INPUT, [(key, b"anything") for key in KEYS])
        await run.decided(settings, "classify", 2 * len(KEYS))
    assert stamps(settings) == {b"free": settings.partitions, b"hobby": settings.partitions}


def stamps(settings: Settings) -> Counter[bytes]:
    """How many settings rows the changelog holds of each value."""
    return Counter(message.value() or b"" for message in read_all(settings, CHANGELOGS["classify"]) if message.key() == SETTINGS_KEY)
