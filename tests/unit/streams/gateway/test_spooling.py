"""The gateway's producer with a spool: what it accepts is safe, in order, and quick once Kafka is known to be away."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from streams.errors import ConfigurationError, KafkaUnavailable, RecordTooLarge
from streams.gateway import spooling
from streams.gateway.spooling import SpoolingProducer
from streams.kafka.producer import Record
from streams.kafka.topic_watch import Seen
from streams.publisher.entries import Limits
from streams.settings import Settings
from tests.publisher_doubles import FakeKafka
from tests.waiting import eventually

HEADERS = [("a", b"1"), ("b", None)]


@pytest.fixture
def kafka() -> FakeKafka:
    return FakeKafka()


@asynccontextmanager
async def producing(kafka: FakeKafka, spool: Path, **changes: Any) -> AsyncIterator[SpoolingProducer]:
    settings = Settings(kafka_bootstrap_servers="127.0.0.1:1", gateway_spool=spool, **changes)
    producer = SpoolingProducer(settings, new_transport=kafka)
    try:
        yield producer
    finally:
        await producer.close(0)


async def send(producer: SpoolingProducer, *numbers: int) -> None:
    await producer.send_many([Record("t", b"%d" % number, b"k", HEADERS) for number in numbers], timeout_seconds=1.7)


async def test_record_is_taken_as_it_is_once_kafka_has_acknowledged_it(kafka: FakeKafka, tmp_path: Path) -> None:
    async with producing(kafka, tmp_path) as producer:
        await producer.send("t", b"\xff", None, HEADERS, timeout_seconds=1.7)
        await producer.send_many([], timeout_seconds=1.7)

        assert kafka.taken == [Record("t", b"\xff", None, HEADERS)]
        assert producer.state() == (True, "0 records wait for Kafka")


async def test_kafka_away_the_first_waits_a_second_the_next_do_not_and_all_arrive_in_order(kafka: FakeKafka, tmp_path: Path) -> None:
    kafka.away = True
    async with producing(kafka, tmp_path) as producer:
        started = time.monotonic()
        await asyncio.gather(*(send(producer, number) for number in range(20)))
        assert 0.9 < time.monotonic() - started < 1.6

        started = time.monotonic()
        for number in range(20, 40):
            await send(producer, number)
        await send(producer, *range(40, 60))
        assert time.monotonic() - started < 1.0
        assert producer.state() == (True, "60 records wait for Kafka")

        kafka.away = False
        await send(producer, 60)
        await asyncio.to_thread(producer._delivery.close, 5)
    assert [record.value for record in kafka.taken] == [b"%d" % number for number in range(61)]
    assert {(record.key, tuple(record.headers)) for record in kafka.taken} == {(b"k", tuple(HEADERS))}


async def test_what_was_accepted_is_sent_by_the_next_start(kafka: FakeKafka, tmp_path: Path) -> None:
    kafka.away = True
    async with producing(kafka, tmp_path) as producer:
        await send(producer, *range(10))

    kafka.away = False
    async with producing(kafka, tmp_path) as producer:
        await send(producer, 10)
        await asyncio.to_thread(producer._delivery.close, 5)
    assert [record.value for record in kafka.taken] == [b"%d" % number for number in range(11)]


async def test_spool_at_its_limit_is_unavailable_in_time_and_reported(kafka: FakeKafka, tmp_path: Path) -> None:
    kafka.away = True
    async with producing(kafka, tmp_path, gateway_spool_max_bytes=1_048_576) as producer:
        large = [Record("t", bytes(400_000), b"k") for _ in range(3)]
        await producer.send_many(large[:2], timeout_seconds=1.7)

        with pytest.raises(KafkaUnavailable, match="the spool has reached its limit of 1048576 bytes; try again later"):
            await producer.send_many(large[2:], timeout_seconds=0.3)
        started = time.monotonic()
        with pytest.raises(KafkaUnavailable, match="the spool has reached its limit"):
            await send(producer, 1)
        assert time.monotonic() - started < 0.2
        assert producer.state() == (False, "the spool has reached its limit of 1048576 bytes")


async def test_record_that_is_too_large_for_kafka_is_said_to_be(kafka: FakeKafka, tmp_path: Path) -> None:
    kafka.max_bytes = 0
    async with producing(kafka, tmp_path) as producer:
        producer.note_topics(Seen(limits={"t": 1_000}), None)
        with pytest.raises(
            RecordTooLarge, match=r"larger than t takes, for its max\.message\.bytes is 1000 instead of 4194304; `tierstream"
        ):
            await send(producer, 1)

        kafka.max_bytes = None
        await send(producer, 2)
        assert [record.value for record in kafka.taken] == [b"2"]
        assert producer.state() == (True, "0 records wait for Kafka")


async def test_refusal_keeps_all_that_comes_in_the_spool_until_it_is_taken_back(kafka: FakeKafka, tmp_path: Path) -> None:
    async with producing(kafka, tmp_path) as producer:
        producer.note_topics(Seen(), "t is compacted.")
        started = time.monotonic()
        for number in range(5):
            await send(producer, number)
        assert time.monotonic() - started < 1.0
        assert kafka.taken == []
        assert producer.state() == (True, "5 records wait for Kafka")

        producer.note_topics(Seen(), None)
        await eventually(lambda: [record.value for record in kafka.taken] == [b"0", b"1", b"2", b"3", b"4"])


async def test_accepted_record_that_has_become_too_large_waits_aside_and_is_sent_once_its_topic_takes_it(
    kafka: FakeKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spooling, "LIMITS", Limits(spill_after_seconds=0.02, aside_seconds=0.05))
    kafka.away = True
    async with producing(kafka, tmp_path) as producer:
        await producer.send_many([Record("t", value, b"k", HEADERS) for value in (b"1", bytes(500), b"3")], timeout_seconds=1.7)
    async with producing(kafka, tmp_path) as producer:
        kafka.max_bytes = 100
        kafka.away = False
        await eventually(lambda: [record.value for record in kafka.taken] == [b"1", b"3"])
        await send(producer, 4)
        said = "1 records wait for Kafka, 1 of them because they are larger than their topic takes (`tierstream topics apply --alter`)"
        await eventually(lambda: producer.state() == (True, said))

    async with producing(kafka, tmp_path) as producer:
        kafka.max_bytes = None
        await eventually(lambda: [record.value for record in kafka.taken] == [b"1", b"3", b"4", bytes(500)])
        await eventually(lambda: producer.state() == (True, "0 records wait for Kafka"))
    assert not list(tmp_path.rglob("*.spool"))


async def test_directory_that_can_not_be_used_stops_the_start_naming_the_setting(kafka: FakeKafka, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"TIERSTREAM_GATEWAY_SPOOL: .*file/spool can not be used"):
        SpoolingProducer(Settings(kafka_bootstrap_servers="127.0.0.1:1", gateway_spool=tmp_path / "file" / "spool"))

    async with producing(kafka, tmp_path / "spool"):
        with pytest.raises(ConfigurationError, match="TIERSTREAM_GATEWAY_SPOOL: another process uses"):
            SpoolingProducer(Settings(kafka_bootstrap_servers="127.0.0.1:1", gateway_spool=tmp_path / "spool"))
