"""The embedded broker is a real one: what it acknowledged outlives it, and it never outlives us."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic

from streams.embedded.kafka import EmbeddedKafka
from streams.embedded.kafka_jars import class_path
from streams.errors import KafkaUnavailable
from tests.processes import is_alive, parent_running
from tests.waiting import eventually

TOPIC = "things.happened"


@pytest.fixture
async def kafka(tmp_path: Path) -> AsyncIterator[EmbeddedKafka]:
    broker = EmbeddedKafka(tmp_path / "kafka")
    await broker.start()
    yield broker
    await broker.stop()


async def test_kafka_killed_comes_back_on_its_port_with_what_it_acknowledged(kafka: EmbeddedKafka) -> None:
    address, first = kafka.bootstrap_servers, kafka.pid
    await asyncio.to_thread(_create_topic, address)
    await asyncio.to_thread(_produce, address, b"before")

    kafka.kill()
    assert await kafka.wait() == -9
    assert kafka.pid is None
    await kafka.start()

    assert kafka.bootstrap_servers == address
    assert kafka.pid not in (None, first)
    await asyncio.to_thread(_produce, address, b"after")
    assert await asyncio.to_thread(_consume, address, 2) == [b"before", b"after"]


async def test_kafka_started_by_another_object_on_its_directory_serves_its_records(kafka: EmbeddedKafka) -> None:
    await asyncio.to_thread(_create_topic, kafka.bootstrap_servers)
    await asyncio.to_thread(_produce, kafka.bootstrap_servers, b"kept")
    await kafka.stop()
    again = EmbeddedKafka(kafka.data_dir)

    await again.start()

    try:
        assert await asyncio.to_thread(_consume, again.bootstrap_servers, 1) == [b"kept"]
    finally:
        await again.stop()
    assert again.pid is None


async def test_kafka_closes_segments_of_offsets_early_that_a_restart_has_little_to_read(kafka: EmbeddedKafka) -> None:
    """A coordinator that reads a long log may answer from half of it: ADR 0009."""
    await asyncio.to_thread(_create_topic, kafka.bootstrap_servers)
    await asyncio.to_thread(_produce, kafka.bootstrap_servers, b"read by a group")
    await asyncio.to_thread(_consume, kafka.bootstrap_servers, 1)

    assert await asyncio.to_thread(_segment_bytes, kafka.bootstrap_servers, "__consumer_offsets") == 1 << 20


async def test_kafka_whose_port_is_taken_says_which(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(KafkaUnavailable, match=f"another process listens on its port {port} of 127.0.0.1"):
            await EmbeddedKafka(tmp_path, port).start()


async def test_kafka_that_cannot_start_shows_the_end_of_its_log_and_leaves_no_process(kafka: EmbeddedKafka) -> None:
    await kafka.stop()
    (kafka.data_dir / "storage" / "meta.properties").write_text("version=1\nnode.id=2\ncluster.id=another\n")

    with pytest.raises(KafkaUnavailable, match=r"(?s)ended with status 1 .*kafka\.log and ends with\n.*Stored node id 2"):
        await kafka.start()

    assert kafka.pid is None


async def test_kafka_that_is_too_slow_is_killed(tmp_path: Path) -> None:
    broker = EmbeddedKafka(tmp_path)

    with pytest.raises(KafkaUnavailable, match=r"did not answer within 0\.2 s"):
        await broker.start(timeout_seconds=0.2)

    assert broker.pid is None


async def test_directory_is_formatted_as_kafkas_own_tool_does_it_and_each_has_ids_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.embedded.kafka._checkpoint", lambda: tmp_path / "kept")
    first, second = EmbeddedKafka(tmp_path / "by_tool"), EmbeddedKafka(tmp_path / "by_us")

    await first._prepare(class_path())
    await second._prepare(class_path())

    by_tool, by_us = formatted(first), formatted(second)
    assert by_us.keys() == by_tool.keys() == {"meta.properties", "bootstrap.checkpoint"}
    assert by_us["bootstrap.checkpoint"] == by_tool["bootstrap.checkpoint"]
    identity, of_tool = properties(by_us["meta.properties"]), properties(by_tool["meta.properties"])
    assert [name for name in of_tool if identity[name] == of_tool[name]] == ["node.id", "version"]
    assert {name: len(value) for name, value in identity.items()} == {name: len(value) for name, value in of_tool.items()}


def formatted(kafka: EmbeddedKafka) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (kafka.data_dir / "storage").iterdir()}


def properties(text: bytes) -> dict[str, str]:
    """The lines of a file of properties, by name."""
    lines = sorted(line for line in text.decode().splitlines() if not line.startswith("#"))
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


async def test_kafka_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = """
import asyncio, sys
from pathlib import Path
from streams.embedded.kafka import EmbeddedKafka

async def main():
    broker = EmbeddedKafka(Path(sys.argv[1]))
    await broker.start()
    print(broker.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""
    async with parent_running(script, str(tmp_path)) as (parent, (pid,)):
        assert is_alive(pid)

        parent.kill()

        await eventually(lambda: not is_alive(pid))


def _create_topic(address: str) -> None:
    admin = AdminClient({"bootstrap.servers": address})
    (created,) = admin.create_topics([NewTopic(TOPIC, 1, 1)]).values()
    created.result(15)


def _segment_bytes(address: str, topic: str) -> int:
    admin = AdminClient({"bootstrap.servers": address})
    (described,) = admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, topic)]).values()
    return int(described.result(15)["segment.bytes"].value)


def _produce(address: str, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": address, "acks": "all"})
    errors: list[object] = []
    producer.produce(TOPIC, value, on_delivery=lambda error, _: errors.append(error))
    assert producer.flush(15) == 0
    assert errors == [None]


def _consume(address: str, count: int) -> list[bytes | None]:
    consumer = Consumer({"bootstrap.servers": address, "group.id": "readers", "auto.offset.reset": "earliest"})
    consumer.subscribe([TOPIC])
    try:
        return [message.value() for message in consumer.consume(count, timeout=15)]
    finally:
        consumer.close()
