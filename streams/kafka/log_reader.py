"""Reading topics as they stand, committed records only, as a member of no group: for replays, accounts, explanations."""

import logging
import time
from collections.abc import Sequence
from typing import Literal

import confluent_kafka as kafka
from aiokafka import ConsumerRecord
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from streams.errors import KafkaUnavailable
from streams.kafka.client import client_config
from streams.kafka.records import Record
from streams.settings import Settings
from streams.topics import reader_group

_AT_ONCE = 1_000
_COORDINATOR_SECONDS = 0.1
"""Between two questions for a group's coordinator."""

_NO_COORDINATOR_YET = frozenset({KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.COORDINATOR_LOAD_IN_PROGRESS})
"""What a broker says of a group whose offsets it has just begun to keep. librdkafka does not call all of them retriable."""

_READ_AHEAD = {
    "queued.min.messages": 10_000,
    "queued.max.messages.kbytes": 4_096,  # of each partition; what was fetched ahead takes memory that is hardly given back
    # librdkafka asks for more only so long after its queue was full: with its default of a second, reading a log is mostly waiting.
    "fetch.queue.backoff.ms": 2,
}

_librdkafka = logging.getLogger("librdkafka")


class LogReader:
    """Reads ``topics`` (full names) from their beginning. Blocking: one call at a time, from any thread; ``close`` it at the end.

    Commits nothing and joins nothing, so no stage notices. Records of one partition come in offset order.
    """

    def __init__(self, settings: Settings, topics: Sequence[str], timeout_seconds: float = 10.0) -> None:
        """Raises KafkaUnavailable when the brokers do not answer in time, or do not know a topic."""
        self._timeout_seconds = timeout_seconds
        self._consumer = committed_reader(settings, reader_group(settings))
        try:
            partitions = [TopicPartition(topic, number, kafka.OFFSET_BEGINNING) for topic in topics for number in self._partitions(topic)]
            self._consumer.assign(partitions)
        except KafkaException as error:
            self.close()
            raise KafkaUnavailable(f"Kafka does not answer at {settings.kafka_bootstrap_servers}: {error.args[0].str()}.") from error
        self._unread = {(partition.topic, partition.partition) for partition in partitions}

    def read(self, seconds: float) -> list[Record]:
        """Return the records at hand, waiting up to ``seconds`` for the first. Raises KafkaUnavailable."""
        first = self._consumer.poll(seconds)
        if first is None:
            return []
        return [record_of(message) for message in (first, *self._consumer.consume(_AT_ONCE, 0)) if self._holds_record(message)]

    def read_to_end(self) -> list[Record]:
        """Return the rest of every topic, up to its end as it is now. Raises KafkaUnavailable when nothing comes in time."""
        found: list[Record] = []
        last_progress = time.monotonic()
        while self._unread:
            before = len(self._unread)
            came = self.read(0.1)
            found += came
            if came or len(self._unread) < before:
                last_progress = time.monotonic()
            elif time.monotonic() - last_progress > self._timeout_seconds:
                topic, partition = min(self._unread)
                raise KafkaUnavailable(
                    f"{topic}, partition {partition}, can not be read to its end: nothing came for {self._timeout_seconds:.0f} s."
                )
        return found

    def close(self) -> None:
        """Let go of the connections."""
        self._consumer.close()

    def _partitions(self, topic: str) -> list[int]:
        described = self._consumer.list_topics(topic, timeout=self._timeout_seconds).topics[topic]
        if described.error is not None:
            raise KafkaException(described.error)
        return list(described.partitions)

    def _holds_record(self, message: kafka.Message) -> bool:
        error = message.error()
        if error is None:
            return True
        if error.code() == KafkaError._PARTITION_EOF:
            self._unread.discard((message.topic() or "", message.partition() or 0))
        elif not error.retriable():
            raise KafkaUnavailable(f"{message.topic()} can not be read: {error.str()}.")
        return False


def committed_offsets(settings: Settings, group: str, topic: str, timeout_seconds: float = 10.0) -> dict[int, int]:
    """Return the next offset of ``group`` on each partition of ``topic`` (full name); a partition without one is absent. Blocking.

    Raises KafkaUnavailable.
    """
    consumer = committed_reader(settings, group)
    try:
        partitions = consumer.list_topics(topic, timeout=timeout_seconds).topics[topic].partitions
        committed = _committed(consumer, [TopicPartition(topic, number) for number in partitions], timeout_seconds)
        return {partition.partition: partition.offset for partition in committed if partition.offset >= 0}
    except KafkaException as error:
        raise KafkaUnavailable(f"Kafka does not answer at {settings.kafka_bootstrap_servers}: {error.args[0].str()}.") from error
    finally:
        consumer.close()


def _committed(consumer: kafka.Consumer, partitions: list[TopicPartition], timeout_seconds: float) -> list[TopicPartition]:
    """Ask for committed offsets, again for as long as a new broker has no coordinator of the group yet. Raises KafkaException."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            return consumer.committed(partitions, timeout=timeout_seconds)
        except KafkaException as error:
            if not (error.args[0].retriable() or error.args[0].code() in _NO_COORDINATOR_YET) or time.monotonic() > deadline:
                raise
        time.sleep(_COORDINATOR_SECONDS)


def committed_reader(
    settings: Settings, group: str, *, beginning: Literal["earliest", "error"] = "earliest", end_wait_ms: int = 50
) -> kafka.Consumer:
    """Return a consumer of committed records that commits nothing; it reports the end of each partition, after ``end_wait_ms``.

    ``beginning`` says what follows when an offset is not there (any more): the log's first record, or an error.
    """
    return kafka.Consumer(
        {
            **client_config(settings),
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": beginning,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": end_wait_ms,
            **_READ_AHEAD,
        },
        logger=_librdkafka,
    )


def record_of(message: kafka.Message) -> Record:
    """Return the record as the stages' own consumers have it."""
    key, value = message.key(), message.value()
    timestamp_type, timestamp = message.timestamp()
    return ConsumerRecord(
        topic=message.topic() or "",
        partition=message.partition() or 0,
        offset=message.offset() or 0,
        timestamp=timestamp,
        timestamp_type=timestamp_type,
        key=key,
        value=value,
        checksum=None,
        serialized_key_size=len(key or b""),
        serialized_value_size=len(value or b""),
        headers=message.headers() or (),
    )
