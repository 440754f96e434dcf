"""A worker's producer on a real broker: a transaction that is given up, a producer that is forgotten."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import structlog

from agents.classify.stage import ClassifyStage
from streams.embedded.kafka import EmbeddedKafka
from streams.engine.transactions import TRANSACTION_TIMEOUT_MS, Output, TransactionalWriter
from streams.errors import Fenced, KafkaUnavailable, StageFailed
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


async def test_a_transaction_that_kafka_gave_up_while_it_was_away_ends_the_wait_for_its_commit(
    broker: tuple[Settings, EmbeddedKafka],
) -> None:
    """The reason that librdkafka gives is a time-out, as for a broker that is away; waiting for that one would never end."""
    settings, kafka = broker
    writer = TransactionalWriter(settings, "test")
    await asyncio.to_thread(writer.open, 30.0)
    write(writer, b"first")
    await asyncio.to_thread(writer.commit, 30.0)
    write(writer, b"lost")
    pid = kafka.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises((StageFailed, Fenced)):
            await asyncio.to_thread(commit_until_answered, writer)
    finally:
        os.kill(pid, signal.SIGCONT)

    again = TransactionalWriter(settings, "test")
    await asyncio.to_thread(again.open, 30.0)
    write(again, b"kept")
    await asyncio.to_thread(again.commit, 30.0)
    assert [message.value() for message in read_all(settings, TIER)] == [b"first", b"kept"]


def write(writer: TransactionalWriter, value: bytes) -> None:
    writer.begin()
    writer.produce([Output(TIER, b"team", value, partition=0)])


def commit_until_answered(writer: TransactionalWriter) -> None:
    """Commit as a worker does: again and again for as long as Kafka counts as away."""
    deadline = time.monotonic() + TRANSACTION_TIMEOUT_MS / 1000 + 10
    while time.monotonic() < deadline:
        try:
            writer.commit(2.0)
        except KafkaUnavailable:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("The transaction has timed out, and its commit still waits for Kafka.")


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


async def test_a_broker_killed_while_offsets_are_added_costs_a_producer_and_no_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """librdkafka may wait for ever once the group's coordinator has gone and come back in that call, whatever the time-out."""
    send_offsets, killed = TransactionalWriter.send_offsets, asyncio.Event()
    loop = asyncio.get_running_loop()

    async with broker_in(tmp_path, 2) as (settings, kafka):

        def kill_first(writer: TransactionalWriter, *call: Any) -> None:
            if not killed.is_set():
                kafka.kill()
                loop.call_soon_threadsafe(killed.set)
            send_offsets(writer, *call)

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
