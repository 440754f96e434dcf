"""What is promised in seconds to a service that publishes, while Kafka is away. In a file of its own, beside which others may measure."""

import asyncio
import time
from pathlib import Path

import pytest

from streams.embedded.kafka import EmbeddedKafka
from streams.errors import KafkaUnavailable
from streams.kafka import topic_admin
from streams.kafka.producer import AcknowledgedProducer
from streams.kafka.topic_watch import TopicWatch
from streams.publisher import Publisher
from streams.settings import Settings
from streams.topics import topics_of
from tests.conftest import PARTITIONS
from tests.integration.test_producer import NOWHERE
from tests.integration.test_publisher import events_of, used_by_team
from tests.integration.test_publisher import in_order as published_in_order
from tests.publishing_service import publish
from tests.waiting import until

P99_SECONDS = 0.01
"""The promise is 0.001 s; the factor is for a machine that does other things beside the test."""


@pytest.mark.alone
async def test_kafka_killed_for_ten_seconds_at_200_events_a_second_costs_no_event_no_order_and_no_millisecond(tmp_path: Path) -> None:
    kafka = EmbeddedKafka(tmp_path / "kafka")
    settings = Settings(kafka_bootstrap_servers=kafka.bootstrap_servers, partitions=PARTITIONS, replication_factor=1)
    took: list[float] = []
    stop = asyncio.Event()

    async def publish_on() -> None:
        began = time.monotonic()
        while not stop.is_set():
            before = time.perf_counter()
            assert publish(publisher, len(took)) is not None
            took.append(time.perf_counter() - before)
            await asyncio.sleep(max(0.0, began + len(took) / 200 - time.monotonic()))

    try:
        await kafka.start()
        await asyncio.to_thread(topic_admin.apply, settings)
        async with Publisher(source="test", spool=tmp_path / "spool", settings=settings) as publisher:
            publishing = asyncio.create_task(publish_on())
            await until(lambda: publisher.stats().sent > 100, "events are sent")
            kafka.kill()
            await kafka.wait()
            killed, at_kill = time.monotonic(), len(took)
            await until(lambda: time.monotonic() - killed > 10, "ten seconds without Kafka")
            assert len(took) - at_kill > 1_000
            assert publisher.stats().spooled > 1_000
            await kafka.start()
            await until(lambda: publisher.stats().sent >= len(took) - 50, "what waited is sent")
            stop.set()
            await publishing
            assert await publisher.aclose(15) == 0
        stats = publisher.stats()
        assert (stats.sent, stats.dropped, stats.invalid, stats.pending) == (len(took), 0, 0, 0)
        assert used_by_team(await events_of(settings)) == published_in_order(len(took))
    finally:
        stop.set()
        await kafka.stop()
    assert sorted(took)[len(took) * 99 // 100] < P99_SECONDS


@pytest.mark.alone
async def test_kafka_away_is_unavailable_in_time_and_says_where() -> None:
    async with AcknowledgedProducer(NOWHERE) as producer:
        started = time.monotonic()
        with pytest.raises(KafkaUnavailable, match=r"Kafka at 127\.0\.0\.1:1 did not acknowledge a record of t within 0\.3 s"):
            await producer.send("t", b"value", timeout_seconds=0.3)
        assert time.monotonic() - started < 1.0
    watch, started = TopicWatch(NOWHERE, "gateway", topics_of("gateway")), time.monotonic()
    with pytest.raises(KafkaUnavailable, match=r"Kafka does not answer at 127\.0\.0\.1:1: "):
        await asyncio.to_thread(watch.look, 0.3)
    assert time.monotonic() - started < 1.0


@pytest.mark.alone
async def test_close_without_kafka_ends_in_time_and_settles_every_caller() -> None:
    producer = AcknowledgedProducer(NOWHERE)
    sending = asyncio.create_task(producer.send("t", b"value", timeout_seconds=30))
    await asyncio.sleep(0)  # lets the task hand its record over
    started = time.monotonic()

    await producer.close(0.2)

    assert time.monotonic() - started < 2
    with pytest.raises(KafkaUnavailable):
        await sending
