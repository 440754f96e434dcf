"""The benchmark's Kafka: embedded, filled once with a load that is kept on the disk, and swept between two jobs."""

import asyncio
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import confluent_kafka as kafka
from confluent_kafka import KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from bench.expected import Reviewer, Tally, count_in, load_tally
from bench.load import LoadSpec, events
from schemas.envelope import HEADERS
from streams import topics
from streams.embedded.file_lock import exclusive_lock
from streams.embedded.kafka import EmbeddedKafka
from streams.kafka import topic_admin
from streams.kafka.client import producer_config
from streams.settings import Settings, load_settings
from streams.topics import group_id

INPUT = topics.TEAM_EVENTS.name
SMALL_INPUT = INPUT + ".small"
"""The same load on a tenth of the events and teams, for a job that would take too long with all of it."""

OUTPUTS = (topics.AUDIT_EVENTS.name, topics.TIER_CURRENT.name)
STAGES = ("normalise", "classify", "audit", "forward")
HEAP_MEGABYTES = 1024
KEPT = {"retention.ms": "-1", "segment.ms": str(10 * 365 * topics.DAY_MS)}
"""The loads' times are past, and some engines give their outputs the times of their inputs: nothing may be deleted or compacted for
that."""

LOAD_FORMAT = 2
"""Goes up when the same spec gives other bytes than before, or the file of what they lead to another form."""

Progress = Callable[[int], object]


Headers = list[tuple[str, str | bytes | None]]


class Record(NamedTuple):
    """One record to produce; ``timestamp`` in Unix milliseconds."""

    key: str
    value: bytes
    timestamp: int
    headers: Headers


@dataclass(frozen=True, slots=True)
class Input:
    """A topic that holds a load, and what the load leads to."""

    topic: str
    spec: LoadSpec
    expected: Tally


class BenchKafka:
    """A running broker with inputs. Every call blocks."""

    def __init__(self, kafka: EmbeddedKafka, directory: Path, partitions: int) -> None:
        self._kafka = kafka
        self._directory = directory
        self.settings: Settings = load_settings(
            kafka_bootstrap_servers=kafka.bootstrap_servers, partitions=partitions, replication_factor=1, admin_port=0
        )
        self.admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0})

    @property
    def pid(self) -> int:
        """The broker's process."""
        pid = self._kafka.pid
        assert pid is not None
        return pid

    def fill(self, topic: str, spec: LoadSpec, on_progress: Progress) -> Input:
        """Have ``topic`` hold the load of ``spec``. Raises LoadDisputed."""
        stamp = self._directory / f"{topic}-{spec.name}-{LOAD_FORMAT}.expected"
        if stamp.is_file() and sum(self.end_offsets(topic).values()) == spec.events:
            on_progress(spec.events)
            return Input(topic, spec, load_tally(stamp))
        self._delete([topic])
        self._create(topic, topics.TEAM_EVENTS.config(self.settings) | KEPT)
        tally = Tally()
        self.write(topic, _load_records(spec, tally), on_progress)
        tally.save(stamp)
        return Input(topic, spec, tally)

    def write(self, topic: str, records: Iterable[Record], on_progress: Progress) -> int:
        """Produce ``records`` in their order, and return their number once all are acknowledged."""
        return self._produce(self._producer({}), topic, records, on_progress)

    def write_unseen(self, topic: str, records: Iterable[Record]) -> Callable[[], object]:
        """Produce ``records`` in a transaction, and return what commits it: readers of committed records see none of them before."""
        producer = self._producer({"transactional.id": "bench-load", "transaction.timeout.ms": 300_000})
        producer.init_transactions(60)
        producer.begin_transaction()
        self._produce(producer, topic, records, lambda _: None)
        return partial(producer.commit_transaction, 60)

    def _producer(self, also: Mapping[str, str | int]) -> Producer:
        return Producer(
            {**producer_config(self.settings), "linger.ms": 50, "queue.buffering.max.messages": 500_000, "log_level": 0, **also}
        )

    def _produce(self, producer: Producer, topic: str, records: Iterable[Record], on_progress: Progress) -> int:
        number = 0
        for number, record in enumerate(records, start=1):
            while True:
                try:
                    producer.produce(topic, value=record.value, key=record.key, timestamp=record.timestamp, headers=record.headers)
                    break
                except BufferError:
                    producer.poll(0.1)
            if not number % 5_000:
                producer.poll(0)
                on_progress(number)
        if producer.flush(120):
            raise TimeoutError("the broker did not take the records in time")
        on_progress(number)
        return number

    def sweep(self, inputs: set[str]) -> None:
        """Leave nothing of an earlier job: no topic but the inputs, no consumer group; then create the outputs anew."""
        present = self.admin.list_topics(timeout=10).topics
        self._delete([name for name in present if name not in inputs and not name.startswith("__")])
        self.forget_groups()
        for topic in (topics.RAZORPAY_WEBHOOKS, topics.AUDIT_EVENTS, topics.TIER_CURRENT):
            if topic.name not in inputs:
                self._create(topic.name, topic.config(self.settings) | KEPT)
        topic_admin.apply(self.settings)

    def forget_groups(self) -> None:
        """Delete tierstream's consumer groups, with their offsets, once their members have gone. Peers' groups have new names each time."""
        groups = [group_id(self.settings, stage) for stage in STAGES]
        deadline = time.monotonic() + 60
        while groups:
            left = []
            for group, done in self.admin.delete_consumer_groups(groups, request_timeout=10).items():
                try:
                    done.result(20)
                except KafkaException as error:
                    if error.args[0].code() != kafka.KafkaError.GROUP_ID_NOT_FOUND:
                        left.append(group)  # a member that was killed is still counted
            groups = left
            if groups and time.monotonic() > deadline:
                raise TimeoutError(f"consumer groups {groups} are not left by their members")
            time.sleep(0.2 if groups else 0)

    def end_offsets(self, topic: str) -> dict[int, int]:
        """The end offset of each partition; empty when there is no such topic."""
        consumer = kafka.Consumer({"bootstrap.servers": self.settings.kafka_bootstrap_servers, "group.id": "bench-offsets", "log_level": 0})
        try:
            found = self.admin.list_topics(timeout=10).topics
            if topic not in found:
                return {}
            return {n: _end_offset(consumer, TopicPartition(topic, n)) for n in found[topic].partitions}
        finally:
            consumer.close()

    def _create(self, topic: str, config: dict[str, str]) -> None:
        self.admin.create_topics([NewTopic(topic, self.settings.partitions, 1, config=config)], operation_timeout=30)[topic].result(30)
        deadline = time.monotonic() + 30
        while topic not in self.admin.list_topics(timeout=10).topics and time.monotonic() < deadline:
            time.sleep(0.02)

    def _delete(self, names: list[str]) -> None:
        for done in self.admin.delete_topics(names, operation_timeout=30).values() if names else ():
            try:
                done.result(30)
            except KafkaException as error:
                if error.args[0].code() != kafka.KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise


def _end_offset(consumer: kafka.Consumer, partition: TopicPartition) -> int:
    """The end offset; waits for the leader, which a broker that has just come back does not have yet."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return int(consumer.get_watermark_offsets(partition, timeout=10)[1])
        except KafkaException:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def _load_records(spec: LoadSpec, tally: Tally) -> Iterator[Record]:
    reviewer = Reviewer()
    headers: Headers = list(HEADERS)
    for event in events(spec):
        count_in(tally, reviewer, event)
        yield Record(event.team, event.value, event.timestamp, headers)


@contextmanager
def running_kafka(directory: Path, partitions: int, *, keep: bool = True) -> Iterator[BenchKafka]:
    """Run a broker whose data stand in ``directory``; ``keep`` them afterwards, for the next run. One at a time on a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    with asyncio.Runner() as runner, exclusive_lock(directory / "lock", wait=False):
        broker = EmbeddedKafka(directory / "kafka", heap_megabytes=HEAP_MEGABYTES)
        try:
            runner.run(broker.start())
            yield BenchKafka(broker, directory, partitions)
        finally:
            runner.run(broker.stop())
            if not keep:
                shutil.rmtree(directory, ignore_errors=True)
