"""A worker's producer on a real broker: a transaction that is given up, a producer that is forgotten."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import structlog

from agents.classify.stage import ClassifyStage
from streams.embedded.kafka import EmbeddedKafka
from streams.engine import transactions
from streams.engine.transactions import Output, TransactionalWriter
from streams.errors import Fenced, KafkaUnavailable
from streams.kafka import topic_admin
from streams.settings import Settings, load_settings
from tests.integration.test_exactly_once import assert_emitted_once, load
from tests.topic_io import produce, read_all
from tests.workers import running, table

TIER = "tier.current"


@contextlib.asynccontextmanager
async def broker_in(
    directory: Path, partitions: int, properties: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[Settings, EmbeddedKafka]]:
    """A broker of the test's own while the block runs, with all topics, and the settings of a worker on it."""
    kafka = EmbeddedKafka(directory / "kafka", properties=properties)
    await kafka.start()
    try:
        servers = kafka.bootstrap_servers
        settings = load_settings(
            kafka_bootstrap_servers=servers, partitions=partitions, replication_factor=1, admin_port=0, instance_id="0"
        )
        await asyncio.to_thread(topic_admin.apply, settings)
        yield settings, kafka
    finally:
        await kafka.stop()


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[tuple[Settings, EmbeddedKafka]]:
    """A broker of the test's own, for it is stopped."""
    async with broker_in(tmp_path, partitions=1) as made:
        yield made


async def test_a_transaction_that_kafka_gave_up_is_fenced_and_leaves_nothing(
    kafka_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "TRANSACTION_TIMEOUT_MS", 1_000)
    async with opened(kafka_settings) as writer:
        await committed(writer, kafka_settings, b"first")
        writer.begin()
        writer.produce([output(kafka_settings, b"lost")])
        await writer.flush(30.0)
        with pytest.raises(Fenced, match="Kafka has ended this worker's transaction"):
            await until_refused(writer, kafka_settings)

        await writer.open(30.0)
        await committed(writer, kafka_settings, b"kept")
    assert [message.value() for message in read_all(kafka_settings, TIER)] == [b"first", b"kept"]


async def until_refused(writer: TransactionalWriter, settings: Settings) -> None:
    """Go on with the open transaction until Kafka has given it up, which it looks for every ten seconds."""
    async with asyncio.timeout(40):
        while True:
            writer.produce([output(settings, b"lost as well")])
            await writer.flush(30.0)
            await asyncio.sleep(0.1)


async def test_what_kafka_did_not_answer_is_sent_again_and_counts_once(broker: tuple[Settings, EmbeddedKafka]) -> None:
    settings, kafka = broker
    async with opened(settings) as writer:
        writer.begin()
        writer.produce([output(settings, b"first")])
        with standing_still(kafka), pytest.raises(KafkaUnavailable, match="could not produce in a transaction of test"):
            await writer.flush(0.5)
        await writer.flush(30.0)
        with standing_still(kafka), pytest.raises(KafkaUnavailable, match="could not commit in a transaction of test"):
            await writer.commit(0.5)
        await writer.commit(30.0)
        assert writer.needs_open, "the requests that were not answered may reach the broker yet"

        await writer.open(30.0)
        await committed(writer, settings, b"second")
        assert not writer.needs_open
    assert [message.value() for message in read_all(settings, TIER)] == [b"first", b"second"]


@contextlib.contextmanager
def standing_still(kafka: EmbeddedKafka) -> Iterator[None]:
    pid = kafka.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_large_transaction_over_many_batches_arrives_whole_and_in_order(kafka_settings: Settings) -> None:
    values = [number.to_bytes(4, "big") + os.urandom(100_000) for number in range(60)]  # which compression can not make smaller
    async with opened(kafka_settings) as writer:
        writer.begin()
        for value in values:
            writer.produce([output(kafka_settings, value)])
        await writer.flush(30.0)
        await writer.commit(30.0)
    assert [message.value() for message in read_all(kafka_settings, TIER)] == values


async def test_what_is_aborted_is_not_read_and_the_next_transaction_is(kafka_settings: Settings) -> None:
    async with opened(kafka_settings) as writer:
        for value, keeps in ((b"aborted", False), (b"kept", True), (b"aborted too", False), (b"kept too", True)):
            writer.begin()
            writer.produce([output(kafka_settings, value)])
            await writer.flush(30.0)
            await (writer.commit if keeps else writer.abort)(30.0)
    assert [message.value() for message in read_all(kafka_settings, TIER)] == [b"kept", b"kept too"]


async def test_second_writer_of_an_id_fences_the_first(kafka_settings: Settings) -> None:
    async with opened(kafka_settings) as first:
        first.begin()
        first.produce([output(kafka_settings, b"lost")])
        await first.flush(30.0)
        async with opened(kafka_settings) as second:
            with pytest.raises(Fenced, match="another process has its name"):
                await first.commit(30.0)
            await committed(second, kafka_settings, b"kept")
    assert [message.value() for message in read_all(kafka_settings, TIER)] == [b"kept"]


@contextlib.asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[TransactionalWriter]:
    writer = TransactionalWriter(settings, f"{settings.topic_prefix}test")
    try:
        await writer.open(30.0)
        yield writer
    finally:
        await writer.close()


def output(settings: Settings, value: bytes) -> Output:
    return Output(settings.topic_prefix + TIER, b"team", value, partition=0)


async def committed(writer: TransactionalWriter, settings: Settings, value: bytes) -> None:
    writer.begin()
    writer.produce([output(settings, value)])
    await writer.flush(30.0)
    await writer.commit(30.0)


async def test_a_worker_that_was_idle_until_kafka_forgot_its_producer_goes_on_with_another(tmp_path: Path) -> None:
    """Brokers forget a transactional id after a week. Here it is two seconds, as with a team that gets its first webhook in months."""
    forgetful = {"transactional.id.expiration.ms": "2000", "transaction.remove.expired.transaction.cleanup.interval.ms": "200"}
    async with broker_in(tmp_path, 2, forgetful) as (settings, _):
        records = load(events=60, teams=6, seed=5)
        with structlog.testing.capture_logs() as logs:
            async with running(settings, table(settings, ClassifyStage(settings))) as run:
                await asyncio.to_thread(produce, settings, "team.events", records[:30])
                await run.decided(settings, "classify", 30)
                await run.until(lambda: forgotten(settings, "tierstream.classify-0"), "Kafka has forgotten the producer")
                await asyncio.to_thread(produce, settings, "team.events", records[30:])
                await run.decided(settings, "classify", 60)
        assert_emitted_once(settings, records)

    assert {line["log_level"] for line in logs if "a new producer replaces one" in line["event"]} == {"info"}


def forgotten(settings: Settings, transactional_id: str) -> bool:
    """Whether the broker's own log of transactions ends with a tombstone for the id."""
    newest: dict[bytes, bytes | None] = {}
    for message in read_all(settings.model_copy(update={"topic_prefix": ""}), "__transaction_state"):
        key, value = message.key(), message.value()
        newest[key or b""] = value
    (of_worker,) = [value for key, value in newest.items() if key.endswith(transactional_id.encode())]
    return of_worker is None


async def test_a_broker_killed_while_offsets_are_added_costs_no_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    send_offsets, killed = TransactionalWriter.send_offsets, asyncio.Event()

    async with broker_in(tmp_path, 2) as (settings, kafka):

        async def kill_first(writer: TransactionalWriter, *call: Any) -> None:
            if not killed.is_set():
                kafka.kill()
                killed.set()
            await send_offsets(writer, *call)

        records = load(events=90, teams=6, seed=6)
        async with running(settings, table(settings, ClassifyStage(settings))) as run:
            await asyncio.to_thread(produce, settings, "team.events", records[:30])
            await run.decided(settings, "classify", 30)
            monkeypatch.setattr(TransactionalWriter, "send_offsets", kill_first)
            producing = asyncio.create_task(asyncio.to_thread(produce, settings, "team.events", records[30:60]))
            await killed.wait()
            await kafka.wait()
            await kafka.start()
            await producing  # the broker may have gone before it had taken all of them
            await asyncio.to_thread(produce, settings, "team.events", records[60:])
            await run.decided(settings, "classify", 90, seconds=90)
        assert_emitted_once(settings, records)
