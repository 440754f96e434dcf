"""A log of dead letters in memory, and a writer that appends to it, to fail when a test wants it."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from schemas.reasons import Reason
from streams.errors import RecordTooLarge
from streams.kafka.dead_letters import REPLAYS, Headers, Origin, dead_letter_headers
from streams.kafka.records import Record
from streams.operate.dead_letters.outcomes import Written
from streams.operate.logs import Bounds
from streams.settings import Settings
from streams.topics import Topic
from tests.pretended_stack import record

SETTINGS = Settings(partitions=4, replication_factor=1)


@dataclass
class MemoryLogs:
    """Topics as lists of records; each partition has all offsets."""

    records: defaultdict[tuple[str, int], list[Record]] = field(default_factory=lambda: defaultdict(list))

    def decided_bounds(self, topic: Topic) -> dict[int, Bounds]:
        return {number: Bounds(0, len(self.records[topic.name, number])) for number in range(SETTINGS.partitions)}

    def read(self, topic: Topic, partition: int, first: int = 0, end: int | None = None) -> Iterator[Record]:
        yield from self.records[topic.name, partition][first:end]

    def append(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = (), partition: int = 0) -> None:
        """Add a record."""
        held = self.records[topic, partition]
        held.append(record(topic, key, value, tuple(headers), partition=partition, offset=len(held), timestamp=1_000))

    def park(
        self,
        offset: int,
        *,
        key: bytes | None = b"key",
        value: bytes | None = b"{}",
        reason: Reason = Reason.UNKNOWN_PLAN,
        stage: str = "normalise",
        topic: str = "razorpay.webhooks",
        source: int = 0,
        replays: int = 0,
        headers: Headers = (),
        partition: int = 0,
        left_out: int | None = None,
    ) -> None:
        """Add the dead letter of the record at ``offset`` of partition ``source``."""
        own = [*headers, (REPLAYS, b"%d" % replays)]
        letter = dead_letter_headers(own, Origin(stage, topic, source, offset), reason, "why", left_out=left_out)
        self.append("dead.letters", key, value, letter, partition)

    def values(self, topic: str) -> list[bytes | None]:
        """The values of a topic, in the order of each partition."""
        return [record.value for (name, _), held in sorted(self.records.items()) if name == topic for record in held]


@dataclass
class MemoryWriter:
    """Appends to the log, all of a chunk or nothing. ``too_large`` holds values that no topic takes."""

    logs: MemoryLogs
    too_large: set[bytes] = field(default_factory=set)
    commits: list[int] = field(default_factory=list)

    def commit(self, records: Sequence[Written]) -> None:
        if any(written.value in self.too_large for written in records):
            raise RecordTooLarge("too large")
        for written in records:
            self.logs.append(written.topic, written.key, written.value, written.headers, written.partition or 0)
        self.commits.append(len(records))
