"""On the real broker: a stage that gets nothing done is ended with one sentence; one that rests behind transaction markers is not."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
from confluent_kafka import Producer

from agents.classify.stage import ClassifyStage
from schemas.reasons import Reason
from streams import topics
from streams.engine.app import Stage, handler_stage
from streams.engine.worker import run_stages
from streams.errors import PositionError, StageFailed
from streams.kafka.client import producer_config
from streams.kafka.records import Record
from streams.settings import Settings
from tests.integration.test_exactly_once import load
from tests.integration.test_table_recovery import delete_topic
from tests.processing_doubles import NeverHolds
from tests.topic_io import produce
from tests.waiting import until
from tests.workers import committed, running, table


class Handler(NeverHolds):
    """Handles records, or hangs on the first."""

    def __init__(self, *, hangs: bool) -> None:
        self.hangs = hangs
        self.progress = 0
        self.handled = asyncio.Event()

    async def handle(self, records: Sequence[Record], let_go: Callable[[], object]) -> Counter[Reason]:
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
        yield handler_stage(settings, "audit", [topics.AUDIT_EVENTS], handler)

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
        while time.monotonic() < rested and not at_work.done():
            await asyncio.wait((at_work,), timeout=0.1)
        stop.set()

    at_work = asyncio.create_task(run(impatient, handler, stop))
    await rest()
    await at_work


async def test_an_input_topic_that_is_made_anew_under_a_live_table_stage_ends_it_with_the_sentence_of_the_position_checks(
    impatient: Settings,
) -> None:
    async with running(impatient, table(impatient, ClassifyStage(impatient))) as classify:
        await asyncio.to_thread(produce, impatient, "team.events", load(events=40, teams=4, seed=2))
        await classify.decided(impatient, "classify", 40)
        delete_topic(impatient, "team.events")
        failure = await classify.failure()

    assert isinstance(failure, PositionError)
    assert f"{impatient.topic_prefix}team.events, was deleted and made anew: the table's positions are not of this topic." in str(failure)
    assert f"delete the changelog and the consumer group {topics.group_id(impatient, 'classify')}" in str(failure)


async def test_an_input_topic_that_is_made_anew_under_a_live_handler_ends_it_to_be_read_from_its_beginning(impatient: Settings) -> None:
    handler = Handler(hangs=False)
    produce(impatient, "audit.events", [(b"key", b"value")])
    at_work = asyncio.create_task(run(impatient, handler, asyncio.Event()))
    await handler.handled.wait()
    await until(lambda: 1 in committed(impatient, "audit", "audit.events").values(), "its offset is committed")
    delete_topic(impatient, "audit.events")
    with pytest.raises(StageFailed, match=r"audit\.events was deleted and made anew; audit stops, to be started again"):
        await at_work

    again, stop = Handler(hangs=False), asyncio.Event()
    produce(impatient, "audit.events", [(b"key", b"of the new topic")])
    at_work = asyncio.create_task(run(impatient, again, stop))
    await asyncio.wait({at_work, asyncio.create_task(again.handled.wait())}, return_when=asyncio.FIRST_COMPLETED)
    assert again.handled.is_set()
    stop.set()
    await at_work
