"""Stages without a table on a real broker: an offset is committed only behind effects, whatever ends the worker."""

import asyncio
import contextlib
import secrets
import signal
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import orjson
import pytest

from schemas.reasons import Reason
from streams import topics
from streams.engine import app
from streams.engine.app import Stage, handler_stage
from streams.engine.partitions import Batch, Processing
from streams.engine.worker import StageFactory
from streams.errors import StageFailed
from streams.kafka.records import Record
from streams.settings import Settings
from streams.stores.pool import connect
from tests.integration.test_exactly_once import worker
from tests.processing_doubles import NeverHolds
from tests.stage_doubles import audit_event, team
from tests.topic_io import produce, read_all
from tests.waiting import until
from tests.workers import committed, land, running

NOTHING = dict.fromkeys(range(4), 0)


class Scripted(NeverHolds):
    """Handles each record as ``effect`` says."""

    def __init__(self, effect: Callable[[Record], Awaitable[None]]) -> None:
        self._effect = effect
        self.handled: dict[int, list[int]] = defaultdict(list)
        self.progress = 0

    async def handle(self, records: Sequence[Record], let_go: Callable[[], object]) -> Counter[Reason]:
        for record in records:
            await self._effect(record)
            self.handled[record.partition].append(record.offset)
            self.progress += 1
        return Counter({Reason.WRITTEN: len(records)})

    def stage(self, settings: Settings) -> StageFactory:
        @contextlib.asynccontextmanager
        async def build() -> AsyncIterator[Stage]:
            yield handler_stage(settings, "audit", [topics.AUDIT_EVENTS], self)

        return build


async def test_a_handler_that_raises_stops_the_worker_and_commits_nothing(kafka_settings: Settings) -> None:
    async def fails_in_the_middle(record: Record) -> None:
        if record.value == b"7":
            raise KeyError("owner@example.com")

    handler = Scripted(fails_in_the_middle)
    produce(kafka_settings, "audit.events", [(None, b"%d" % number) for number in range(12)], partition=2)

    async with running(kafka_settings, handler.stage(kafka_settings)) as run:
        failure = await run.failure()

    assert isinstance(failure, StageFailed)
    assert str(failure) == "Partition 2 failed with KeyError; the log above says where."
    assert handler.handled == {2: list(range(7))}
    assert committed(kafka_settings, "audit", "audit.events") == NOTHING


async def test_a_handler_that_waits_does_not_hold_up_the_end_and_its_batch_is_handled_again(kafka_settings: Settings) -> None:
    begun, never = asyncio.Event(), asyncio.Event()

    async def waits(_: Record) -> None:
        begun.set()
        await never.wait()

    async def works(_: Record) -> None:
        pass

    produce(kafka_settings, "audit.events", [(None, b"x")] * 5, partition=1)
    async with running(kafka_settings, Scripted(waits).stage(kafka_settings)):
        async with asyncio.timeout(30):
            await begun.wait()
        ending = time.monotonic()
    assert time.monotonic() - ending < 8.0, "a supervisor kills what takes longer"
    assert committed(kafka_settings, "audit", "audit.events") == NOTHING

    handler = Scripted(works)
    async with running(kafka_settings, handler.stage(kafka_settings)) as run:
        await run.until(lambda: committed(kafka_settings, "audit", "audit.events")[1] == 5, "the offset")
    assert handler.handled == {1: [0, 1, 2, 3, 4]}


async def test_one_poll_unpacks_so_many_records_and_the_rest_of_a_fetch_comes_with_the_next(
    kafka_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def works(_: Record) -> None:
        pass

    unpacked: list[int] = []
    submit = Processing.submit

    def noted(processing: Processing, batch: Batch) -> None:
        unpacked.append(len(batch.records))
        submit(processing, batch)

    monkeypatch.setattr(app, "POLL_RECORDS", 70)
    monkeypatch.setattr(Processing, "submit", noted)
    for partition in range(4):
        produce(kafka_settings, "audit.events", [(None, b"x")] * 500, partition=partition)
    handler = Scripted(works)

    async with running(kafka_settings, handler.stage(kafka_settings)) as run:
        await run.until(lambda: handler.progress >= 2_000, "all records")

    assert handler.handled == {partition: list(range(500)) for partition in range(4)}
    assert max(unpacked) == 70


async def test_a_partition_that_waits_with_much_behind_it_holds_up_no_other(kafka_settings: Settings) -> None:
    opened = asyncio.Event()

    async def waits_on_partition_0(record: Record) -> None:
        if record.partition == 0:
            await opened.wait()

    handler = Scripted(waits_on_partition_0)
    large = [(None, secrets.token_bytes(100_000), (), 0) for _ in range(160)]  # eight fetches of one partition
    land(kafka_settings, "audit.events", large)
    async with running(kafka_settings, handler.stage(kafka_settings)) as run:
        await run.until(lambda: run.partitions == frozenset(range(4)), "all partitions")
        for partition in (1, 2, 3):
            produce(kafka_settings, "audit.events", [(None, b"x")] * 5, partition=partition)
        others = {1: 5, 2: 5, 3: 5}
        await run.until(lambda: {number: len(handler.handled[number]) for number in others} == others, "the others' records", 30.0)
        assert not handler.handled[0]
        opened.set()
        await run.until(lambda: committed(kafka_settings, "audit", "audit.events") == {0: 160, 1: 5, 2: 5, 3: 5}, "the rest")

    assert handler.handled[0] == list(range(160)), "in order, each once"


# The audit stage, killed


async def test_audit_killed_at_work_leaves_no_committed_offset_without_its_row(stage_settings: Settings, tmp_path: Path) -> None:
    events = [audit_event(team=team(number % 50)) for number in range(12_000)]
    produce(stage_settings, "audit.events", [(event["subject"].encode(), orjson.dumps(event)) for event in events])
    assert stage_settings.postgres_dsn is not None
    database = await connect(stage_settings.postgres_dsn.get_secret_value(), "test")
    log = tmp_path / "worker.log"
    try:
        with worker(stage_settings, "audit", log=log) as process:
            async with asyncio.timeout(60):
                while not await database.fetchval("select exists (select from audit_log)"):
                    pass
            process.send_signal(signal.SIGKILL)
            process.wait()

        rows = {str(row["id"]) for row in await database.fetch("select id from audit_log")}
        offsets = committed(stage_settings, "audit", "audit.events")
        behind = [
            message for message in read_all(stage_settings, "audit.events") if (message.offset() or 0) < offsets[message.partition() or 0]
        ]
        assert {orjson.loads(message.value() or b"")["id"] for message in behind} <= rows

        with worker(stage_settings, "audit", log=log):
            ends = Counter(message.partition() or 0 for message in read_all(stage_settings, "audit.events"))
            await until(lambda: committed(stage_settings, "audit", "audit.events") == ends, f"the offsets; {log.read_text()[-2_000:]}")
        assert {str(row["id"]) for row in await database.fetch("select id from audit_log")} == {event["id"] for event in events}
    finally:
        await database.close()
