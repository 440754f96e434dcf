"""Where partitions begin and end, asked again and again by a process that goes on while brokers are away.

librdkafka's administration client is no good for that: a request for a broker that refuses connections makes it connect again and again
without a pause, which takes half a core until the request's time is up. A consumer's requests wait as ``reconnect.backoff.ms`` says.
"""

from collections.abc import Collection, Iterable

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from streams.kafka.client import client_config
from streams.settings import Settings

Partition = tuple[str, int]
"""A topic's name and a partition's number."""


class LogOffsets:
    """A client that asks where partitions begin and end. Blocking: one call at a time, from any thread. It joins no group, and commits nothing."""

    def __init__(self, settings: Settings, group: str, *, committed: bool) -> None:
        """``group`` is one that this user may describe. ``committed``: an end is where the first transaction begins that is not decided."""
        self._consumer = Consumer(
            {
                **client_config(settings),
                "group.id": group,
                "enable.auto.commit": False,
                "isolation.level": "read_committed" if committed else "read_uncommitted",
                "reconnect.backoff.max.ms": 1_000,
                "log_level": 0,  # what it would log is in the sentences of those who call it
            }
        )

    def begins(self, asked: Collection[Partition], timeout_seconds: float) -> dict[Partition, int]:
        """Return the first offset of each partition. Raises KafkaException when Kafka does not say in time, or has no leader for one of them."""
        return self._find(asked, OFFSET_BEGINNING, timeout_seconds)

    def ends(self, asked: Collection[Partition], timeout_seconds: float) -> dict[Partition, int]:
        """Return the offset behind the last record of each partition. Raises KafkaException, as :meth:`begins`."""
        return self._find(asked, OFFSET_END, timeout_seconds)

    def close(self) -> None:
        """Let go of the connections."""
        self._consumer.close()

    def _find(self, asked: Collection[Partition], where: int, timeout_seconds: float) -> dict[Partition, int]:
        look_around(self._consumer, {topic for topic, _ in asked}, timeout_seconds)
        wanted = [TopicPartition(topic, number, where) for topic, number in asked]
        found = self._consumer.offsets_for_times(wanted, timeout=timeout_seconds)
        for partition in found:
            if partition.error is not None:
                raise KafkaException(partition.error)
        return {(partition.topic, partition.partition): partition.offset for partition in found}


def look_around(client: Consumer | AdminClient, topics: Iterable[str], timeout_seconds: float) -> None:
    """Have ``client`` learn which brokers there are and what they lead. Raises KafkaException where none answers in time, or a partition of
    ``topics`` has no leader that is there.

    librdkafka sends a request to the broker that led by what it last heard, and waits there in vain for one that has died since.
    """
    for topic in topics:
        found = client.list_topics(topic, timeout=timeout_seconds)
        for number, partition in found.topics[topic].partitions.items():
            if partition.leader not in found.brokers:
                raise KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE, f"{topic}, partition {number}, has no leader"))
