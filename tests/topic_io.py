"""Producing to and reading back from the test's own topics."""

import time
from collections.abc import Iterable
from typing import Any

import orjson
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from streams.kafka.client import client_config, producer_config
from streams.settings import Settings
from tests.waiting import blocked_until

Json = dict[str, Any]


def produce(settings: Settings, topic: str, records: Iterable[tuple[bytes | None, bytes | None]], partition: int = -1) -> None:
    """Produce (key, value) records in their order and wait for all acknowledgements."""
    producer = Producer({**producer_config(settings), "linger.ms": 5})
    for key, value in records:
        producer.produce(settings.topic_prefix + topic, value=value, key=key, partition=partition)
        producer.poll(0)
    assert producer.flush(30) == 0


def read_all(settings: Settings, topic: str) -> list[Message]:
    """Return every committed record that the topic holds now, by partition and offset."""
    name = settings.topic_prefix + topic
    consumer = Consumer(
        {
            **client_config(settings),
            "group.id": "read-all",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 20,
        }
    )
    try:
        partitions = list(consumer.list_topics(name, timeout=60).topics[name].partitions)  # a broker may just be starting again
        consumer.assign([TopicPartition(name, number, OFFSET_BEGINNING) for number in partitions])
        left, found = set(partitions), list[Message]()
        deadline = time.monotonic() + 30
        while left:
            assert time.monotonic() < deadline, f"{name} could not be read to its end"
            for message in consumer.consume(5_000, 0.02):
                error = message.error()
                if error is None:
                    found.append(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    left.discard(message.partition() or 0)
                else:
                    raise KafkaException(error)
        return sorted(found, key=lambda message: (message.partition(), message.offset()))
    finally:
        consumer.close()


def read_json(settings: Settings, topic: str) -> list[Json]:
    """Return the value of every record of the topic that holds a JSON object."""
    return [value for message in read_all(settings, topic) if (value := as_json(message)) is not None]


def as_json(message: Message) -> Json | None:
    """Return a record's value as JSON, or None for a tombstone and for poison."""
    try:
        return orjson.loads(message.value() or b"")  # type: ignore[no-any-return]
    except orjson.JSONDecodeError:
        return None


COMPACTED_AT_ONCE = {"segment.ms": "50", "min.cleanable.dirty.ratio": "0.0001", "max.compaction.lag.ms": "50", "delete.retention.ms": "1"}
"""For ``alter_topic``: a segment is compacted as soon as the next has begun."""


def alter_topic(settings: Settings, topic: str, properties: dict[str, str]) -> None:
    """Change a topic's configuration on the broker, and return once it shows it."""
    entries = [ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in properties.items()]
    resource = ConfigResource(ConfigResource.Type.TOPIC, settings.topic_prefix + topic, incremental_configs=entries)
    admin = AdminClient(client_config(settings))
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(30)
    blocked_until(lambda: all(_shows(admin, resource.name, name, value) for name, value in properties.items()), seconds=30)


def _shows(admin: AdminClient, topic: str, name: str, value: str) -> bool:
    (described,) = admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, topic)]).values()
    shown = described.result(30)[name].value
    return shown == value or (shown is not None and "." in value and float(shown) == float(value))  # 0.0001 is shown as 1.0E-4
