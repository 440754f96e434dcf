"""What the producer says is acknowledged is on the broker; what it can not say in time, it does not."""

import asyncio
import os
import time
from pathlib import Path

import pytest
from confluent_kafka import KafkaError
from confluent_kafka.admin import AdminClient, NewTopic

from streams.embedded.kafka import EmbeddedKafka
from streams.errors import ConfigurationError, KafkaUnavailable, RecordTooLarge
from streams.kafka import topic_admin
from streams.kafka.client import client_config
from streams.kafka.partitioner import partition_of
from streams.kafka.producer import MAX_MESSAGE_BYTES, AcknowledgedProducer, Record
from streams.kafka.topic_watch import Seen
from streams.logging import configure_logging
from streams.settings import Settings, load_settings
from streams.topics import TEAM_EVENTS
from tests.conftest import PARTITIONS
from tests.logs import logging_restored
from tests.topic_io import read_all
from tests.waiting import blocked_until

NOWHERE = Settings(kafka_bootstrap_servers="127.0.0.1:1")


async def test_sent_record_is_on_the_broker_with_its_key_headers_and_partition(kafka_settings: Settings) -> None:
    topic = TEAM_EVENTS.full_name(kafka_settings)
    async with AcknowledgedProducer(kafka_settings) as producer:
        await producer.send(topic, b"value", b"team-1", [("a", b"1"), ("b", b"\xff"), ("c", None)], timeout_seconds=5)

        (message,) = await asyncio.to_thread(read_all, kafka_settings, TEAM_EVENTS.name)

    assert (message.value(), message.key(), message.headers()) == (b"value", b"team-1", [("a", b"1"), ("b", b"\xff"), ("c", None)])
    assert message.partition() == partition_of(b"team-1", PARTITIONS)


async def test_concurrent_sends_are_all_there_once_and_in_order_for_each_key(kafka_settings: Settings) -> None:
    topic = TEAM_EVENTS.full_name(kafka_settings)

    async def send(key: bytes) -> None:
        for number in range(40):
            await producer.send(topic, b"%d" % number, key, timeout_seconds=5)

    async with AcknowledgedProducer(kafka_settings) as producer:
        await asyncio.gather(*(send(b"team-%d" % team) for team in range(25)))
        messages = await asyncio.to_thread(read_all, kafka_settings, TEAM_EVENTS.name)

    by_key: dict[bytes | str | None, list[bytes | str | None]] = {}
    for message in messages:
        by_key.setdefault(message.key(), []).append(message.value())
    assert len(by_key) == 25
    assert all(values == [b"%d" % number for number in range(40)] for values in by_key.values())


async def test_many_records_are_acknowledged_together_and_keep_their_order(kafka_settings: Settings) -> None:
    topic = TEAM_EVENTS.full_name(kafka_settings)
    async with AcknowledgedProducer(kafka_settings) as producer:
        await producer.send_many([Record(topic, b"%d" % number, b"k") for number in range(1_000)], timeout_seconds=5)
        await producer.send_many([], timeout_seconds=5)
        messages = await asyncio.to_thread(read_all, kafka_settings, TEAM_EVENTS.name)

    assert [message.value() for message in messages] == [b"%d" % number for number in range(1_000)]


async def test_record_of_the_largest_size_is_taken_and_a_larger_one_is_too_large(kafka_settings: Settings) -> None:
    topic = TEAM_EVENTS.full_name(kafka_settings)
    async with AcknowledgedProducer(kafka_settings) as producer:
        await producer.send(topic, bytes(MAX_MESSAGE_BYTES - 200), b"k", timeout_seconds=5)

        with pytest.raises(RecordTooLarge, match=f"that tierstream takes for {topic}; send less in one event"):
            await producer.send(topic, bytes(MAX_MESSAGE_BYTES + 1), b"k", timeout_seconds=5)


async def test_record_larger_than_its_topic_takes_is_too_large(kafka_settings: Settings) -> None:
    topic = kafka_settings.topic_prefix + "small"
    await asyncio.to_thread(_create, kafka_settings, NewTopic(topic, PARTITIONS, 1, config={"max.message.bytes": "1000"}))
    async with AcknowledgedProducer(kafka_settings) as producer:
        with pytest.raises(RecordTooLarge, match=r"max\.message\.bytes is less instead of 4194304; `tierstream topics apply --alter`"):
            await producer.send(topic, os.urandom(10_000), timeout_seconds=5)  # what compression can not save

        producer.note_topics(Seen(limits={topic: 1_000}), None)
        with pytest.raises(
            RecordTooLarge, match=rf"A record of 10000 bytes is larger than {topic} takes, for its max\.message\.bytes is 1000"
        ):
            await producer.send(topic, os.urandom(10_000), timeout_seconds=5)


async def test_keys_are_placed_by_the_number_of_partitions_that_is_set_whatever_the_broker_has(kafka_settings: Settings) -> None:
    topic = kafka_settings.topic_prefix + "larger"
    await asyncio.to_thread(_create, kafka_settings, NewTopic(topic, 3 * PARTITIONS, 1))
    keys = [b"team-%d" % number for number in range(100)]
    async with AcknowledgedProducer(kafka_settings) as producer:
        await producer.send_many([Record(topic, b"", key) for key in keys] + [Record(topic, b"", None)] * 20, timeout_seconds=5)
        messages = await asyncio.to_thread(read_all, kafka_settings, "larger")

    placed = {message.key(): message.partition() for message in messages if message.key() is not None}
    assert placed == {key: partition_of(key, PARTITIONS) for key in keys}
    assert {message.partition() for message in messages} <= set(range(PARTITIONS))


async def test_topic_with_fewer_partitions_than_are_set_is_unavailable_and_gets_nothing(kafka_settings: Settings) -> None:
    topic = kafka_settings.topic_prefix + "smaller"
    await asyncio.to_thread(_create, kafka_settings, NewTopic(topic, 1, 1))
    key = next(b"%d" % number for number in range(100) if partition_of(b"%d" % number, PARTITIONS) > 0)
    async with AcknowledgedProducer(kafka_settings) as producer:
        with pytest.raises(KafkaUnavailable, match=f"has no topic {topic} with {PARTITIONS} partitions; run `tierstream topics check`"):
            await producer.send(topic, b"value", key, timeout_seconds=5)


async def test_what_is_known_of_the_topics_refuses_at_once(kafka_settings: Settings) -> None:
    topic = TEAM_EVENTS.full_name(kafka_settings)
    async with AcknowledgedProducer(kafka_settings) as producer:
        producer.note_topics(Seen(), "The topic is compacted.")
        with pytest.raises(KafkaUnavailable, match=r"The topic is compacted\."):
            await producer.send(topic, b"value", timeout_seconds=5)
        producer.note_topics(Seen(missing=(topic,)), None)
        with pytest.raises(KafkaUnavailable, match=f"has no topic {topic}; run `tierstream topics apply`"):
            await producer.send(topic, b"value", timeout_seconds=5)
        producer.note_topics(Seen(), None)
        await producer.send(topic, b"value", timeout_seconds=5)


async def test_topic_that_is_absent_is_unavailable_and_named(kafka_settings: Settings) -> None:
    topic = kafka_settings.topic_prefix + "absent"
    async with AcknowledgedProducer(kafka_settings) as producer:
        with pytest.raises(KafkaUnavailable, match=f"has no topic {topic}; run `tierstream topics apply`"):
            await producer.send(topic, b"value", timeout_seconds=10)


async def test_kafka_away_is_logged_a_few_times_and_not_at_every_try(capfd: pytest.CaptureFixture[str]) -> None:
    with logging_restored():
        configure_logging(Settings(log_format="json"))
        async with AcknowledgedProducer(NOWHERE) as producer:
            with pytest.raises(KafkaUnavailable):
                await producer.send("t", b"value", timeout_seconds=1.0)  # a dozen refused connections

    written = capfd.readouterr()
    assert written.out == ""
    assert 1 <= len(written.err.splitlines()) <= 4


async def test_kafka_away_fails_a_record_for_good_before_it_could_arrive_late() -> None:
    async with AcknowledgedProducer(NOWHERE) as producer:
        started = time.monotonic()
        with pytest.raises(KafkaUnavailable, match=r"did not take a record of t|has no topic t"):
            await producer.send("t", b"value", timeout_seconds=30)

        assert time.monotonic() - started < 5


async def test_producer_that_was_idle_until_kafka_forgot_it_sends_on_with_nothing_lost_or_doubled(tmp_path: Path) -> None:
    """Brokers forget an idempotent producer after a day; here after half a second of silence, which it has three times."""
    forgetful = {"producer.id.expiration.ms": "500", "producer.id.expiration.check.interval.ms": "50"}
    kafka = EmbeddedKafka(tmp_path / "kafka", properties=forgetful)
    await kafka.start()
    try:
        settings = load_settings(kafka_bootstrap_servers=kafka.bootstrap_servers, partitions=1, replication_factor=1)
        await asyncio.to_thread(topic_admin.apply, settings)
        async with AcknowledgedProducer(settings) as producer:
            for number in range(8):
                if number % 2 == 0:
                    await asyncio.sleep(1.0)  # the silence itself: nothing shows that the broker has forgotten
                await producer.send(TEAM_EVENTS.full_name(settings), b"%d" % number, b"key", timeout_seconds=5)
            assert not producer.failed.is_set()
        messages = await asyncio.to_thread(read_all, settings, TEAM_EVENTS.name)
    finally:
        await kafka.stop()

    assert [message.value() for message in messages] == [b"%d" % number for number in range(8)]


async def test_close_waits_for_what_was_sent_and_settles_every_caller(kafka_settings: Settings) -> None:
    topic = TEAM_EVENTS.full_name(kafka_settings)
    producer = AcknowledgedProducer(kafka_settings, linger_ms=200)
    sending = [asyncio.create_task(producer.send(topic, b"%d" % number, timeout_seconds=5)) for number in range(10)]
    await asyncio.sleep(0)  # lets each task hand its record over

    await producer.close()
    await producer.close()

    await asyncio.gather(*sending)
    assert len(await asyncio.to_thread(read_all, kafka_settings, TEAM_EVENTS.name)) == 10


async def test_producer_that_fails_for_good_says_so() -> None:
    async with AcknowledgedProducer(NOWHERE) as producer:
        producer._on_error(KafkaError(KafkaError._FATAL, "out of order sequence", fatal=True))

        async with asyncio.timeout(5):
            await producer.failed.wait()


async def test_settings_that_no_producer_can_be_made_of_are_an_error_without_a_traceback(tmp_path: Path) -> None:
    settings = Settings(kafka_bootstrap_servers="127.0.0.1:1", kafka_security_protocol="SSL", kafka_ssl_cafile=tmp_path / "absent.pem")

    with pytest.raises(ConfigurationError, match="TIERSTREAM_KAFKA_"):
        AcknowledgedProducer(settings)


def _create(settings: Settings, topic: NewTopic) -> None:
    admin = AdminClient(client_config(settings))
    for future in admin.create_topics([topic]).values():
        future.result(10)
    blocked_until(lambda: topic.topic in admin.list_topics(timeout=10).topics)
