"""When a job began and when it was done, seen from outside of it, and the same for every job.

The clock starts when the broker has sent the first records to the job: before its process has decoded one, and with nothing
fetched ahead. It stops when the job's own record of its progress stands at the end of the input: the committed offsets of
its consumer group; for tierstream the position rows, which are committed in one transaction with the outputs; for a job
that commits neither, the number of outputs that the broker holds.
"""

import contextlib
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import confluent_kafka as kafka
from confluent_kafka import KafkaException, TopicPartition

FIRST_FETCH_BYTES = 131_072
"""What the broker sends before any record (metadata, group membership) is far less than this; a first fetch is far more."""

NEAR_THE_END = 0.95
"""From this part of the input on, tierstream's own metrics are read as well."""

METRICS_SECONDS = 0.04
"""Between two readings of them: each costs the worker some milliseconds."""


class Gauge(Protocol):
    """How far a job is, in records, as the broker or the job itself has it on record. It is done at ``goal``."""

    goal: int

    def read(self) -> int:
        """The records that are done with, for good."""

    def close(self) -> None:
        """Let go of what it holds."""


class FirstFetch:
    """Watches a broker's bytes out. Linux only: elsewhere the clock starts with the job's process, to its disadvantage."""

    def __init__(self, broker_pid: int) -> None:
        self._path = Path(f"/proc/{broker_pid}/io")
        self.seen = self._path.is_file()
        self._before = self._sent()

    def _sent(self) -> int:
        if not self.seen:
            return 0
        return int(self._path.read_text().split("wchar:")[1].split()[0])

    def happened(self) -> bool:
        """Whether records have been sent since this object was made."""
        return not self.seen or self._sent() - self._before >= FIRST_FETCH_BYTES


class CommittedOffsets:
    """Reads the committed offsets of a group, without being a member of it."""

    def __init__(self, bootstrap_servers: str, group: str, topic: str, partitions: int, goal: int) -> None:
        self.goal = goal
        self._seen = 0
        self._consumer = kafka.Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "group.id": group,
                "enable.auto.commit": False,
                "isolation.level": "read_uncommitted",  # else an answer waits while a transaction that commits offsets is under way
                "log_level": 0,
            }
        )
        self._wanted = [TopicPartition(topic, number) for number in range(partitions)]

    def read(self) -> int:
        """Records below the committed offsets, or those that were seen last while the group's coordinator does not answer."""
        with contextlib.suppress(KafkaException):
            self._seen = sum(max(0, tp.offset) for tp in self._consumer.committed(self._wanted, timeout=10))
        return self._seen

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()


class OutputRecords:
    """Counts the records that the broker holds of the outputs. Only for outputs that are not written in transactions."""

    def __init__(self, bootstrap_servers: str, topics: tuple[str, ...], partitions: int, goal: int) -> None:
        self.goal = goal
        self._consumer = kafka.Consumer({"bootstrap.servers": bootstrap_servers, "group.id": "bench-offsets", "log_level": 0})
        self._wanted = [TopicPartition(topic, number) for topic in topics for number in range(partitions)]

    def read(self) -> int:
        """Records on all of the outputs."""
        return sum(self._consumer.get_watermark_offsets(tp, timeout=10)[1] for tp in self._wanted)

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()


class WorkerMetric:
    """Reads a series of the admin ports of tierstream's workers, which show only what is committed or otherwise durable.

    ``label`` chooses the series' lines. Until the end is near it reads the group's committed offsets, which lag a quarter of a
    second behind and cost the workers nothing.
    """

    def __init__(self, ports: Sequence[int], series: str, label: str, goal: int, committed: CommittedOffsets) -> None:
        self.goal = goal
        self._urls = [f"http://127.0.0.1:{port}/metrics" for port in ports]
        self._series = series + "{"
        self._label = label
        self._committed = committed
        self._near = int(NEAR_THE_END * committed.goal)
        self._seen = 0
        self._read_at = 0.0

    def read(self) -> int:
        """Records that are done with."""
        committed = self._committed.read()
        if committed < self._near:
            return min(committed, self.goal - 1)
        if time.monotonic() - self._read_at >= METRICS_SECONDS:
            self._seen = self.exact()
            self._read_at = time.monotonic()
        return self._seen

    def exact(self) -> int:
        """Records that are done with, from the workers themselves."""
        highest: dict[str, int] = {}
        for url in self._urls:
            with urllib.request.urlopen(url, timeout=10) as answer:
                for line in answer.read().decode().splitlines():
                    if line.startswith(self._series) and self._label in line:
                        labels, _, value = line.rpartition(" ")
                        highest[labels] = max(highest.get(labels, 0), int(float(value)))
        return sum(highest.values())

    def close(self) -> None:
        """Close what it reads the committed offsets with."""
        self._committed.close()


def wait_until(condition: Callable[[], bool], every_seconds: float, seconds: float, what: str) -> float:
    """Return the monotonic time at which ``condition`` was seen to hold. Raises TimeoutError, naming ``what``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        time.sleep(every_seconds)
    return time.monotonic()
