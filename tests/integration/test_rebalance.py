"""Workers of one stage that come and go under load: each partition has one owner, and nothing is lost, doubled or invented."""

import asyncio
import contextlib
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import orjson
import pytest
from confluent_kafka import Consumer

from agents.classify.stage import ClassifyStage
from schemas.reasons import Reason
from streams import topics
from streams.engine.app import Stage, handler_stage
from streams.kafka.client import client_config
from streams.kafka.records import Record
from streams.settings import Settings
from tests.accounting import outcomes
from tests.conftest import with_new_topics
from tests.integration.test_exactly_once import assert_emitted_once, load, worker
from tests.processing_doubles import NeverHolds
from tests.topic_io import produce, read_all, read_json
from tests.waiting import until
from tests.workers import Run, committed, running, table

TASKS = Path("/proc/self/task")


@contextlib.asynccontextmanager
async def feeding(
    settings: Settings, topic: str, records: Sequence[tuple[bytes | None, bytes | None]], every_seconds: float = 0.0
) -> AsyncIterator[None]:
    """Produce ``records``, some at a time, all through the block, and the rest of them at its end."""
    left, ended = deque(records), asyncio.Event()

    async def feed() -> None:
        while left and not ended.is_set():
            await asyncio.to_thread(produce, settings, topic, [left.popleft() for _ in range(min(100, len(left)))])
            await asyncio.sleep(every_seconds)

    task = asyncio.create_task(feed())
    try:
        yield
    finally:
        ended.set()
        await task
        await asyncio.to_thread(produce, settings, topic, left)


async def shares(settings: Settings, *runs: Run) -> None:
    """Return once ``runs`` have all partitions between them, each some."""

    def shared() -> bool:
        owned = [run.partitions for run in runs]
        return all(owned) and sum(map(len, owned)) == settings.partitions and len(frozenset().union(*owned)) == settings.partitions

    await runs[0].until(shared, f"{len(runs)} workers with {settings.partitions} partitions between them")


async def test_classify_workers_that_come_and_go_under_load_lose_double_and_invent_nothing(kafka_settings: Settings) -> None:
    settings = kafka_settings
    records = load(events=12_000, teams=60, seed=23)
    produce(settings, "team.events", records[:3_000])

    def worker() -> contextlib.AbstractAsyncContextManager[Run]:
        return running(settings, table(settings, ClassifyStage(settings)))

    async with contextlib.AsyncExitStack() as second, worker() as third:
        async with worker() as first, feeding(settings, "team.events", records[3_000:]):
            await shares(settings, first, third)
            joined = await second.enter_async_context(worker())
            await shares(settings, first, third, joined)
        await shares(settings, third, joined)
        await third.decided(settings, "classify", len(records))
        ends = dict.fromkeys(range(settings.partitions), 0)
        ends |= {message.partition() or 0: (message.offset() or 0) + 1 for message in read_all(settings, "team.events")}
        await third.until(lambda: committed(settings, "classify", "team.events") == ends, "the group's offsets at the log's end")

    assert_emitted_once(settings, records)
    assert sum(outcomes(settings, "classify").values()) == len(records)
    tiers = {audit["subject"]: audit["data"]["tier"] for audit in read_json(settings, "tier.current")}
    assert tiers == {key.decode(): orjson.loads(value)["data"]["tier"] for key, value in records}


class Noting(NeverHolds):
    """Notes what it handles. Slow enough for a rebalance to come in between."""

    def __init__(self) -> None:
        self.handled: dict[int, set[int]] = defaultdict(set)
        self.progress = 0

    async def handle(self, records: Sequence[Record], let_go: Callable[[], object]) -> Counter[Reason]:
        await asyncio.sleep(0.01)
        self.handled[records[0].partition].update(record.offset for record in records)
        self.progress += len(records)
        return Counter({Reason.WRITTEN: len(records)})

    def all_handled(self, offsets: dict[int, int]) -> bool:
        """Whether everything below ``offsets`` is."""
        return all(self.handled[partition].issuperset(range(offset)) for partition, offset in offsets.items())


async def test_handler_workers_that_come_and_go_under_load_handle_all_and_commit_nothing_that_is_not_handled(
    kafka_settings: Settings,
) -> None:
    settings, noting = kafka_settings, Noting()
    records = [(b"key %d" % number, b"x" * 200) for number in range(12_000)]
    produce(settings, "audit.events", records[:3_000])

    @contextlib.asynccontextmanager
    async def stage() -> AsyncIterator[Stage]:
        yield handler_stage(settings, "audit", [topics.AUDIT_EVENTS], noting)

    async def sampling() -> None:
        while True:
            assert noting.all_handled(await asyncio.to_thread(committed, settings, "audit", "audit.events")), "an offset ahead of its work"

    sampler = asyncio.create_task(sampling())
    async with contextlib.AsyncExitStack() as second, running(settings, stage) as third:
        async with running(settings, stage) as first, feeding(settings, "audit.events", records[3_000:]):
            await shares(settings, first, third)
            joined = await second.enter_async_context(running(settings, stage))
            await shares(settings, first, third, joined)
        await shares(settings, third, joined)
        ends = Counter(message.partition() or 0 for message in read_all(settings, "audit.events"))
        await third.until(lambda: committed(settings, "audit", "audit.events") == ends, "the group's offsets at the log's end")
    assert not sampler.done(), sampler.exception()
    sampler.cancel()

    assert noting.all_handled(ends)
    assert sum(ends.values()) == len(records)


async def test_two_workers_through_twenty_rebalances_under_load_lose_double_and_invent_nothing(servers: tuple[str, str]) -> None:
    settings = with_new_topics(servers[0], 32)
    records = load(events=24_000, teams=300, seed=29)
    produce(settings, "team.events", records[:2_000])
    rebalances = 0
    async with (
        running(settings, table(settings, ClassifyStage(settings))) as first,
        running(settings, table(settings, ClassifyStage(settings))) as second,
    ):
        await shares(settings, first, second)
        async with feeding(settings, "team.events", records[2_000:], every_seconds=0.1):
            while rebalances < 20:
                async with visiting(settings):
                    await first.until(lambda: len(first.partitions | second.partitions) < 32, "a third member has its share")
                    rebalances += 1
                await shares(settings, first, second)
                rebalances += 1
        await first.decided(settings, "classify", len(records))

    assert_emitted_once(settings, records)
    assert sum(outcomes(settings, "classify").values()) == len(records)


@contextlib.asynccontextmanager
async def visiting(settings: Settings) -> AsyncIterator[None]:
    """Have one more member in classify's group, which works nothing in."""
    group = topics.group_id(settings, "classify")
    config = {**client_config(settings), "group.id": group, "partition.assignment.strategy": "range", "enable.auto.commit": False}
    consumer = Consumer(config)
    consumer.subscribe([topics.TEAM_EVENTS.full_name(settings)])
    ended = asyncio.Event()

    async def poll() -> None:
        while not ended.is_set():
            await asyncio.to_thread(consumer.poll, 0.1)

    polling = asyncio.create_task(poll())
    try:
        yield
    finally:
        ended.set()
        await polling
        await asyncio.to_thread(consumer.close)


@pytest.mark.skipif(not TASKS.is_dir(), reason="counts the threads in /proc")
async def test_a_worker_needs_as_many_threads_whatever_the_number_of_partitions(servers: tuple[str, str], tmp_path: Path) -> None:
    settings = with_new_topics(servers[0], 32)
    records = load(events=2_000, teams=200, seed=31)
    produce(settings, "team.events", records)
    with worker(settings, "classify", log=tmp_path / "worker.log") as process:
        await until(lambda: sum(outcomes(settings, "classify").values()) == len(records), "all is decided")
        threads = len(list(Path(f"/proc/{process.pid}/task").iterdir()))

    assert threads <= 25
