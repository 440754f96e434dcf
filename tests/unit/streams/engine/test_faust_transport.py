"""Batches in through Faust: what one generation reads has no holes, and only finished work is committed."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from faust.types import TP, ConsumerMessage

from streams import topics
from streams.engine.app import handler_stage
from streams.engine.faust_transport import BatchConsumer, BatchConsumerThread
from streams.kafka.records import Record
from streams.settings import Settings
from tests.processing_doubles import NeverHolds
from tests.webhooks import record

SETTINGS = Settings(kafka_bootstrap_servers="127.0.0.1:9", partitions=2)
TOPIC = topics.AUDIT_EVENTS.name
FIRST, SECOND, OTHER = TP(TOPIC, 0), TP(TOPIC, 1), TP("other", 0)
AT_ONCE = 10


class Log:
    """The consumer's thread: a log of a hundred records on each partition, positions in it, committed offsets."""

    def __init__(self, committed: Mapping[TP, int | None]) -> None:
        self.offsets = dict(committed)
        self.positions = {tp: offset or 0 for tp, offset in committed.items()}
        self.while_fetching: list[Callable[[], None]] = []
        self.failures: list[Exception] = []
        self.asked: list[set[TP]] = []
        self.commits: list[dict[TP, int]] = []

    def assignment(self) -> set[TP]:
        return set(self.offsets)

    async def seek_to_committed(self) -> Mapping[TP, int | None]:
        if self.failures:
            raise self.failures.pop()
        self.positions = {tp: offset or 0 for tp, offset in self.offsets.items()}
        return dict(self.offsets)

    async def getmany(self, active: set[TP], timeout: float) -> dict[TP, list[Record]]:
        self.asked.append(set(active))
        found: dict[TP, list[Record]] = {}
        for tp in sorted(active):
            start = self.positions[tp]
            self.positions[tp] = min(start + AT_ONCE, 100)
            found[tp] = [record(b"", b"", topic=tp.topic, partition=tp.partition, offset=at) for at in range(start, self.positions[tp])]
        while self.while_fetching:
            self.while_fetching.pop()()
        return {tp: records for tp, records in found.items() if records}

    def verify_event_path(self, _now: float, tp: TP) -> None:
        raise AssertionError(f"{tp} has no position yet")

    async def commit(self, offsets: Mapping[TP, int]) -> bool:
        self.commits.append(dict(offsets))
        self.offsets.update(offsets)
        return True


class NoHandler(NeverHolds):
    progress = 0

    async def handle(self, records: object, let_go: object) -> dict[Any, int]:
        raise AssertionError("nothing is handled here")


def consuming(log: Log) -> BatchConsumer:
    """A consumer that reads ``log``, with all of its partitions assigned, in generation 1."""
    consumer = handler_stage(SETTINGS, "audit", [topics.AUDIT_EVENTS], NoHandler()).app.consumer
    assert isinstance(consumer, BatchConsumer)
    consumer._thread = log  # type: ignore[assignment]  # the seam: nothing else of the thread is used here
    rebalanced(consumer, 1)
    return consumer


def rebalanced(consumer: BatchConsumer, generation: int) -> None:
    """What is left of a rebalance that assigns the same partitions."""
    consumer.app.consumer_generation_id = generation
    consumer._at_committed = False  # as ``on_partitions_assigned`` leaves it
    consumer.resume_partitions(consumer.assignment())
    consumer.resume_flow()


async def fetch(consumer: BatchConsumer) -> list[ConsumerMessage]:
    return [message async for _, message in consumer.getmany(timeout=0.2)]


def batches(messages: list[ConsumerMessage]) -> dict[TP, Any]:
    """The records of each partition."""
    found: dict[TP, Any] = {}
    for message in messages:
        fetched: Any = message.value
        assert {tp.topic for tp in fetched} == {message.topic}
        found |= fetched
    return found


def spans(messages: list[ConsumerMessage]) -> dict[int, tuple[int, int]]:
    """First and last offset of each partition's batch."""
    return {tp.partition: (records[0].offset, records[-1].offset) for tp, records in batches(messages).items()}


# Reading


async def test_a_generation_reads_each_partition_from_its_committed_offset() -> None:
    log = Log({FIRST: 40, SECOND: None})
    log.positions = {FIRST: 70, SECOND: 30}
    consumer = consuming(log)

    assert spans(await fetch(consumer)) == {0: (40, 49), 1: (0, 9)}
    assert spans(await fetch(consumer)) == {0: (50, 59), 1: (10, 19)}


async def test_a_partition_that_has_no_position_yet_does_not_end_the_app() -> None:
    await consuming(Log({FIRST: 40})).verify_all_partitions_active()


@pytest.mark.parametrize("committed", [None, 0, 40])
async def test_what_is_fetched_while_a_rebalance_begins_is_read_again(committed: int | None) -> None:
    log = Log({FIRST: committed})
    consumer = consuming(log)
    await fetch(consumer)
    log.while_fetching.append(consumer.stop_flow)

    assert await fetch(consumer) == []

    rebalanced(consumer, 2)
    assert spans(await fetch(consumer)) == {0: (committed or 0, (committed or 0) + 9)}


async def test_what_is_dropped_is_read_again_also_when_nothing_is_assigned_anew() -> None:
    log = Log({FIRST: None})
    consumer = consuming(log)
    log.while_fetching.append(consumer.stop_flow)
    assert await fetch(consumer) == []

    consumer.resume_flow()

    assert spans(await fetch(consumer)) == {0: (0, 9)}


async def test_partitions_of_one_topic_come_in_one_message_and_each_topic_in_its_own() -> None:
    messages = await fetch(consuming(Log({FIRST: None, SECOND: 20, OTHER: None})))

    assert sorted((message.topic, len(batches([message]))) for message in messages) == [(TOPIC, 2), ("other", 1)]
    assert spans([message for message in messages if message.topic == TOPIC]) == {0: (0, 9), 1: (20, 29)}


async def test_the_rest_of_a_fetch_is_dropped_and_read_again_when_a_rebalance_begins_in_it() -> None:
    log = Log({FIRST: None, OTHER: None})
    consumer = consuming(log)
    fetching = consumer.getmany(timeout=0.2)
    await anext(fetching)
    consumer.stop_flow()
    assert [message async for _, message in fetching] == []
    rebalanced(consumer, 2)

    assert {tp: records[0].offset for tp, records in batches(await fetch(consumer)).items()} == {FIRST: 0, OTHER: 0}


async def test_a_batch_bears_the_generation_in_which_it_was_fetched() -> None:
    log = Log({FIRST: 0})
    consumer = consuming(log)
    log.while_fetching.append(lambda: rebalanced(consumer, 2))

    assert await fetch(consumer) == [], "fetched in 1, and 2 has begun"
    assert [message.generation_id for message in await fetch(consumer)] == [2]


async def test_a_seek_that_a_rebalance_interrupts_is_done_again_after_it() -> None:
    log = Log({FIRST: 40})
    consumer = consuming(log)
    log.positions[FIRST] = 90
    log.failures.append(RuntimeError("No partitions are currently assigned"))
    consumer.stop_flow()
    fetching = asyncio.create_task(fetch(consumer))
    await asyncio.sleep(0)
    consumer.flow_active = False
    consumer.can_resume_flow.set()

    assert await fetching == []
    rebalanced(consumer, 2)
    assert spans(await fetch(consumer)) == {0: (40, 49)}


async def test_a_seek_that_fails_without_a_rebalance_ends_the_fetching() -> None:
    log = Log({FIRST: 40})
    consumer = consuming(log)
    log.failures.append(RuntimeError("broken"))

    with pytest.raises(RuntimeError, match="broken"):
        await fetch(consumer)


async def test_seek_goes_to_the_beginning_where_nothing_is_committed() -> None:
    class Kafka:
        begun: tuple[TP, ...] = ()

        def assignment(self) -> set[TP]:
            return {FIRST, SECOND}

        async def seek_to_committed(self) -> dict[TP, int | None]:
            return {FIRST: 40, SECOND: None}

        async def seek_to_beginning(self, *partitions: TP) -> bool:
            self.begun = partitions
            return True

    kafka = Kafka()
    thread = BatchConsumerThread.__new__(BatchConsumerThread)
    thread._consumer = kafka

    assert await thread._seek_to_committed() == {FIRST: 40, SECOND: None}
    assert kafka.begun == (SECOND,)


# Holding


async def test_a_held_partition_is_fetched_no_more_until_it_is_released() -> None:
    log = Log({FIRST: None, SECOND: None})
    consumer = consuming(log)
    await fetch(consumer)

    consumer.pause(TOPIC, 0)
    assert spans(await fetch(consumer)) == {1: (10, 19)}
    consumer.resume(TOPIC, 0)
    assert spans(await fetch(consumer)) == {0: (10, 19), 1: (20, 29)}


async def test_with_all_partitions_held_nothing_is_fetched_and_a_release_ends_the_wait_at_once() -> None:
    log = Log({FIRST: None})
    consumer = consuming(log)
    await fetch(consumer)
    consumer.pause(TOPIC, 0)
    asked = len(log.asked)

    waiting = asyncio.create_task(anext(consumer.getmany(timeout=60.0), None))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not waiting.done()
    consumer.resume(TOPIC, 0)
    async with asyncio.timeout(5):
        await waiting
    assert len(log.asked) == asked
    assert spans(await fetch(consumer)) == {0: (10, 19)}


# Committing


async def test_only_what_is_done_is_committed() -> None:
    log = Log({FIRST: 40, SECOND: None})
    consumer = consuming(log)
    (message,) = await fetch(consumer)

    message.incref()
    message.ack(consumer)  # as Faust's stream does with what it skips
    await consumer.commit()
    assert log.commits == []

    consumer.done(FIRST, 49)
    await consumer.commit()
    assert log.commits == [{FIRST: 50}]


async def test_offsets_of_partitions_that_are_ours_no_more_are_not_committed() -> None:
    log = Log({FIRST: 40, SECOND: None})
    consumer = consuming(log)
    await fetch(consumer)
    consumer.done(FIRST, 49)
    consumer.done(SECOND, 9)
    del log.offsets[SECOND]
    await consumer.commit()
    assert log.commits == [{FIRST: 50}]


async def test_the_newest_of_several_batches_that_are_done_is_committed_once() -> None:
    log = Log({FIRST: None})
    consumer = consuming(log)
    for _ in range(3):
        (message,) = await fetch(consumer)
        consumer.done(message.tp, message.offset)
    await consumer.commit()
    await consumer.commit()

    assert log.commits == [{FIRST: 30}]


async def test_what_is_done_below_the_committed_offset_moves_nothing_back() -> None:
    log = Log({FIRST: 0})
    consumer = consuming(log)
    (old,) = await fetch(consumer)
    log.offsets[FIRST] = 60
    rebalanced(consumer, 2)
    await fetch(consumer)

    consumer.done(old.tp, old.offset)
    await consumer.commit()

    assert log.commits == []
