"""The topics as commands read them: how far each partition reaches, and its committed records, one partition at a time."""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

import confluent_kafka as kafka
from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec

from streams.errors import KafkaUnavailable
from streams.kafka.log_reader import committed_offsets, committed_reader, record_of
from streams.kafka.log_search import Span, Wanted, search_logs
from streams.kafka.records import Record
from streams.kafka.refusals import RefusalNotingAdmin, refusal
from streams.settings import Settings
from streams.topics import Topic, group_id, reader_group

_AT_ONCE = 5_000
_CONSUME_SECONDS = 0.01
_END_WAIT_MS = 5
"""There are hundreds of partitions to be read to their ends, and at each of them the broker is waited for this long."""

_NO_LEADER = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE)
_LEADER_SECONDS = 0.05
_DECIDED_SECONDS = 30.0
"""Longer than any transaction of ours may be open."""

_LOOK_AGAIN_SECONDS = 0.05

_librdkafka = logging.getLogger("librdkafka")


class Search(NamedTuple):
    """What is looked for in some partitions of a topic: the records that ``passes`` takes, each of which holds one of ``needles`` in its key,
    its value or its headers (None: any)."""

    topic: Topic
    partitions: Sequence[int]
    needles: Collection[bytes] | None
    passes: Callable[[Record], bool]


class Bounds(NamedTuple):
    """A partition's log holds the offsets from ``first`` up to, but not with, ``end``: the end of what is committed."""

    first: int
    end: int


class Logs(Protocol):
    """The topics. ``KafkaLogs``, or a test's own."""

    def bounds(self, topic: Topic) -> Mapping[int, Bounds]:
        """Return how far each partition reaches now."""

    def committed(self, stage: str, topic: Topic) -> Mapping[int, int]:
        """Return the next offset of the stage's group on each partition; one without is absent."""

    def topic_id(self, topic: Topic) -> str:
        """Return the id of the topic: another id is another topic of the same name."""

    def read(self, topic: Topic, partition: int, first: int = 0, end: int | None = None) -> Iterator[Record]:
        """Yield the committed records from ``first`` up to, but not with, ``end`` (None: the end as it is when it is reached)."""


class KafkaLogs:
    """The topics on the brokers. Blocking; commits nothing and joins nothing, so no stage notices. Close it at the end."""

    def __init__(self, settings: Settings, timeout_seconds: float = 30.0) -> None:
        self._settings = settings
        self._timeout_seconds = timeout_seconds
        self._admin = RefusalNotingAdmin(settings)
        self._idle: list[kafka.Consumer] = []

    def __enter__(self) -> "KafkaLogs":
        return self

    def __exit__(self, *_: object) -> None:
        for consumer in self._idle:
            consumer.close()

    def bounds(self, topic: Topic) -> dict[int, Bounds]:
        """See ``Logs``. Raises KafkaUnavailable."""
        name = topic.full_name(self._settings)
        self._admin.forget()
        try:
            numbers = list(self._admin.list_topics(name, timeout=self._timeout_seconds).topics[name].partitions)
            firsts = self._offsets(name, numbers, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
            ends = self._offsets(name, numbers, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        except KafkaException as error:
            refused = refusal(self._settings, error.args[0], f"describe {name}") or self._admin.refusal()
            raise refused or KafkaUnavailable(f"Kafka does not answer (offsets of {name}): {error.args[0].str()}.") from error
        return {number: Bounds(firsts[number], ends[number]) for number in sorted(numbers)}

    def decided_bounds(self, topic: Topic) -> dict[int, Bounds]:
        """Return how far each partition reaches, once every transaction that was open when it was called is decided. Raises KafkaUnavailable.

        What is committed on a partition can not be read before what is still open in front of it.
        """
        name, deadline = topic.full_name(self._settings), time.monotonic() + _DECIDED_SECONDS
        reached = self.bounds(topic)
        ends = self._ends(name, list(reached), IsolationLevel.READ_UNCOMMITTED)
        while behind := [number for number, found in reached.items() if found.end < ends[number]]:
            if time.monotonic() > deadline:
                raise KafkaUnavailable(
                    f"A transaction on {name}, partition {behind[0]}, has been open for {_DECIDED_SECONDS:.0f} s; try again once it has timed out."
                )
            time.sleep(_LOOK_AGAIN_SECONDS)
            reached = self.bounds(topic)
        return reached

    def committed(self, stage: str, topic: Topic) -> dict[int, int]:
        """See ``Logs``. Raises KafkaUnavailable."""
        settings = self._settings
        return committed_offsets(settings, group_id(settings, stage), topic.full_name(settings), self._timeout_seconds)

    def topic_id(self, topic: Topic) -> str:
        """See ``Logs``. Raises KafkaUnavailable."""
        name = topic.full_name(self._settings)
        described = self._admin.describe_topics(kafka.TopicCollection([name]), request_timeout=self._timeout_seconds)
        try:
            return str(described[name].result(self._timeout_seconds).topic_id)
        except (KafkaException, TimeoutError) as error:
            raise KafkaUnavailable(f"Kafka does not answer (describe {name}).") from error

    def read(self, topic: Topic, partition: int, first: int = 0, end: int | None = None) -> Iterator[Record]:
        """See ``Logs``. Raises KafkaUnavailable, naming the offset, when nothing comes in time."""
        if end is not None and first >= end:
            return
        consumer = self._idle.pop() if self._idle else self._new_consumer()
        name = topic.full_name(self._settings)
        try:
            # Ask for the leader first: an assignment to an unknown leader is looked at again only after half a second.
            consumer.list_topics(name, timeout=self._timeout_seconds)
            consumer.assign([TopicPartition(name, partition, first)])
            yield from self._records(consumer, name, partition, first, end)
        except KafkaException as error:
            raise KafkaUnavailable(f"{name}, partition {partition}, can not be read: {error.args[0].str()}.") from error
        finally:
            consumer.unassign()
            self._idle.append(consumer)

    def search(self, *searches: Search) -> dict[Topic, list[Record]]:
        """Return the committed records that are looked for, by partition and offset, up to the ends of the logs as they are now. All
        partitions are read at once, and what holds none of the needles is not decoded. Raises KafkaUnavailable.
        """
        asked = [search for search in searches if search.partitions and (search.needles is None or search.needles)]
        bounds = {search.topic: self.bounds(search.topic) for search in asked}
        wanted, topics = list[Wanted](), dict[str, Topic]()
        for search in asked:
            name = search.topic.full_name(self._settings)
            topics[name] = search.topic
            for number in sorted(search.partitions):
                wanted.append(Wanted(Span(name, number, *bounds[search.topic][number]), search.needles, search.passes))
        found: dict[Topic, list[Record]] = {search.topic: [] for search in searches}
        for record in search_logs(self._settings, wanted, self._timeout_seconds) if wanted else ():
            found[topics[record.topic]].append(record)
        return found

    def offsets_at(self, topic: Topic, moment: datetime) -> dict[int, int]:
        """Return the offset of the first record of each partition that is not older than ``moment``; the partition's end where all are.
        Raises KafkaUnavailable.
        """
        bounds, name = self.bounds(topic), topic.full_name(self._settings)
        spec = OffsetSpec.for_timestamp(int(moment.timestamp() * 1000))
        try:
            found = self._offsets(name, list(bounds), spec)
        except KafkaException as error:
            raise KafkaUnavailable(f"Kafka does not answer (offsets of {name}): {error.args[0].str()}.") from error
        return {number: offset if offset >= 0 else bounds[number].end for number, offset in found.items()}

    def _records(self, consumer: kafka.Consumer, name: str, partition: int, first: int, end: int | None) -> Iterator[Record]:
        reached, last_progress = first, time.monotonic()
        while True:
            for message in consumer.consume(_AT_ONCE, _CONSUME_SECONDS):
                error = message.error()
                if error is None:
                    reached = message.offset() or 0
                    if end is not None and reached >= end:
                        return
                    yield record_of(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    return
                elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                    raise KafkaUnavailable(
                        f"{name}, partition {partition}: offset {reached} was deleted by retention while it was read; verify again."
                    )
                elif not error.retriable():
                    raise KafkaException(error)
                else:
                    continue
                last_progress = time.monotonic()
            if time.monotonic() - last_progress > self._timeout_seconds:
                raise KafkaUnavailable(
                    f"{name}, partition {partition}, does not get past offset {reached}: nothing came for {self._timeout_seconds:.0f} s."
                )

    def _ends(self, name: str, numbers: list[int], isolation: IsolationLevel) -> dict[int, int]:
        try:
            return self._offsets(name, numbers, OffsetSpec.latest(), isolation)  # type: ignore[no-untyped-call]
        except KafkaException as error:
            raise KafkaUnavailable(f"Kafka does not answer (offsets of {name}): {error.args[0].str()}.") from error

    def _offsets(
        self, name: str, numbers: list[int], spec: OffsetSpec, isolation: IsolationLevel = IsolationLevel.READ_COMMITTED
    ) -> dict[int, int]:
        wanted = {TopicPartition(name, number): spec for number in numbers}
        deadline = time.monotonic() + self._timeout_seconds
        while True:
            found = self._admin.list_offsets(wanted, isolation_level=isolation, request_timeout=self._timeout_seconds)
            try:
                return {partition.partition: future.result(self._timeout_seconds).offset for partition, future in found.items()}
            except KafkaException as error:
                # A leader is elected, or a topic was made just now and not every broker knows of it.
                if error.args[0].code() not in _NO_LEADER or time.monotonic() > deadline:
                    raise
            time.sleep(_LEADER_SECONDS)

    def _new_consumer(self) -> kafka.Consumer:
        return committed_reader(self._settings, reader_group(self._settings), beginning="error", end_wait_ms=_END_WAIT_MS)
