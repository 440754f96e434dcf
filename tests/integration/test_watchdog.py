"""On the real broker: a stage that gets nothing done is ended with one sentence; one that rests behind transaction markers is not."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence

import pytest
from confluent_kafka import Producer

from schemas.reasons import Reason
from streams import topics
from streams.engine.app import Stage, handler_stage
from streams.engine.worker import run_stages
from streams.errors import StageFailed
from streams.kafka.client import producer_config
from streams.kafka.records import Record
from streams.settings import Settings
from tests.topic_io import produce


class Handler:
    """Handles records, or hangs on the first."""

    def __init__(self, *, hangs: bool) -> None:
        self.hangs = hangs
        self.progress = 0
        self.handled = asyncio.Event()

    async def handle(self, records: Sequence[Record]) -> Counter[Reason]:
        self.handled.set()
        if self.hangs:
            await asyncio.Event().wait()
        return Counter({Reason.WRITTEN: len(records)})


@pytest.fixture
def impatient(kafka_settings: Settings) -> Settings:
    return kafka_settings.model_copy(update={"stall_seconds": 2.0})


async def run(settings: Settings, handler: Handler, stop: asyncio.Event) -> None:
    @contextlib.asynccontextmanager
    async def build() -> AsyncIterator[Stage]:
        yield handler_stage(settings, "audit", topics.AUDIT_EVENTS, handler)

    async with asyncio.timeout(40):
        await run_stages(settings, [build], stop)


async def test_a_handler_that_never_returns_ends_the_worker_with_a_sentence_that_names_the_partition(impatient: Settings) -> None:
    produce(impatient, "audit.events", [(b"key", b"value")])

    with pytest.raises(StageFailed, match=r"audit stalls: .*audit\.events, partition \d+, does not get past offset 0 for \d+ s"):
        await run(impatient, Handler(hangs=True), asyncio.Event())


async def test_a_stage_that_has_read_all_and_rests_behind_a_transaction_marker_is_left_alone(impatient: Settings) -> None:
    producer = Producer({**producer_config(impatient), "transactional.id": f"{impatient.topic_prefix}test"})
    producer.init_transactions(10)
    producer.begin_transaction()
    producer.produce(f"{impatient.topic_prefix}audit.events", b"value", key=b"key")
    producer.commit_transaction(10)
    handler, stop = Handler(hangs=False), asyncio.Event()

    async def rest() -> None:
        await handler.handled.wait()
        rested = time.monotonic() + 3 * impatient.stall_seconds
        while time.monotonic() < rested and not running.done():
            await asyncio.wait((running,), timeout=0.1)
        stop.set()

    running = asyncio.create_task(run(impatient, handler, stop))
    await rest()
    await running
