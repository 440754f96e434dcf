"""Every producer of ours places a key on the same partition: a team has one owner."""

import random

import pytest
from aiokafka.partitioner import DefaultPartitioner
from confluent_kafka import Message, Producer

from streams.kafka.client import PARTITIONER
from streams.kafka.partitioner import partition_for, partition_of


def keys(count: int) -> list[bytes]:
    chance = random.Random(20_250_615)
    return [chance.randbytes(chance.randrange(1, 60)) for _ in range(count)]


@pytest.mark.parametrize("partitions", [1, 4, 8, 32])
def test_partition_of_agrees_with_aiokafkas_default(partitions: int) -> None:
    numbers = list(range(partitions))
    theirs = DefaultPartitioner()
    assert [partition_of(key, partitions) for key in keys(1_000)] == [theirs(key, numbers, numbers) for key in keys(1_000)]


def test_partition_for_a_record_without_a_key_is_any_of_those_that_are_set() -> None:
    assert {partition_for(None, 3) for _ in range(200)} == {0, 1, 2}
    assert {partition_for(b"key", 3) for _ in range(20)} == {partition_of(b"key", 3)}


def test_partition_of_agrees_with_our_librdkafka_producers() -> None:
    partitions = 4  # what librdkafka's broker in memory gives a topic
    placed: dict[bytes, int | None] = {}

    def delivered(error: object, message: Message) -> None:
        assert error is None
        placed[message.key() or b""] = message.partition()

    producer = Producer({"test.mock.num.brokers": 1, "partitioner": PARTITIONER, "log_level": 2})
    for key in keys(1_000):
        producer.produce("team.events", value=b"", key=key, on_delivery=delivered)
    assert producer.flush(30) == 0

    assert len(placed) == 1_000
    assert set(placed.values()) == set(range(partitions))
    assert placed == {key: partition_of(key, partitions) for key in placed}
