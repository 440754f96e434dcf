"""A transaction that the broker gives up while it is away."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from streams.embedded.kafka import EmbeddedKafka
from streams.engine.transactions import TRANSACTION_TIMEOUT_MS, Output, TransactionalWriter
from streams.errors import Fenced, KafkaUnavailable, StageFailed
from streams.kafka import topic_admin
from streams.settings import Settings, load_settings
from tests.topic_io import read_all

TIER = "tier.current"


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[tuple[Settings, EmbeddedKafka]]:
    """A broker of the test's own, for it is stopped."""
    kafka = EmbeddedKafka(tmp_path / "kafka")
    await kafka.start()
    settings = load_settings(kafka_bootstrap_servers=kafka.bootstrap_servers, partitions=1, replication_factor=1)
    await asyncio.to_thread(topic_admin.apply, settings)
    yield settings, kafka
    await kafka.stop()


async def test_a_transaction_that_kafka_gave_up_while_it_was_away_ends_the_wait_for_its_commit(
    broker: tuple[Settings, EmbeddedKafka],
) -> None:
    """The reason that librdkafka gives is a time-out, as for a broker that is away; waiting for that one would never end."""
    settings, kafka = broker
    writer = TransactionalWriter(settings, "test")
    await asyncio.to_thread(writer.take_over, 30.0)
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
    await asyncio.to_thread(again.take_over, 30.0)
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
