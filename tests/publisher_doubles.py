"""A Kafka that is only a list, at the seam where delivery meets librdkafka; and a publisher on it."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import orjson
from confluent_kafka import KafkaError, KafkaException

from streams.kafka.producer import Record
from streams.publisher import Limits, Publisher
from streams.publisher.transport import OnDelivery
from streams.settings import Settings

TEAM = "3f1c1f0e-6a55-4c5c-9a39-0a4d3c1f7b01"
QUOTA = {"resource_type": "seats", "used": 9, "limit": 10}
NOW = datetime(2025, 10, 9, 8, 53, 20, tzinfo=UTC)
SETTINGS = Settings(kafka_bootstrap_servers="kafka:9092", topic_prefix="t.")
FAST = Limits(spill_after_seconds=0.02)


class FakeKafka:
    """Acknowledges what it gets, unless it is away; remembers what it acknowledged, over many producers. Calling it makes one."""

    def __init__(self) -> None:
        self.taken: list[Record] = []
        self.away = False
        self.refusal: KafkaError | None = None  # what waits at the next poll gets it
        self.max_bytes: int | None = None  # of the values that wait at a poll together, which are one batch
        self.fatal = False  # the present producer never produces again
        self.producers = 0

    def __call__(self) -> "FakeProducer":
        self.producers += 1
        self.fatal = False
        return FakeProducer(self)

    @property
    def records(self) -> list[dict[str, Any]]:
        return [orjson.loads(record.value) for record in self.taken]

    @property
    def used(self) -> list[int]:
        return [record["data"]["used"] for record in self.records]


class FakeProducer:
    def __init__(self, kafka: FakeKafka) -> None:
        self._kafka = kafka
        self._waiting: deque[tuple[Record, OnDelivery]] = deque()

    def produce(
        self,
        topic: str,
        value: bytes | None = None,
        key: bytes | None = None,
        *,
        on_delivery: OnDelivery | None = None,
        headers: Any = None,
    ) -> None:
        assert value is not None
        assert on_delivery is not None
        if self._kafka.fatal:
            raise KafkaException(KafkaError(KafkaError._FATAL, fatal=True))
        self._waiting.append((Record(topic, value, key, headers), on_delivery))

    def poll(self, timeout: float) -> int:
        called = 0
        if self._kafka.away or not self._waiting:
            time.sleep(timeout)
        batch = sum(len(record.value) for record, _ in self._waiting)
        while self._waiting and not self._kafka.away:
            record, on_delivery = self._waiting.popleft()
            error = self._kafka.refusal
            if self._kafka.max_bytes is not None and batch > self._kafka.max_bytes:
                error = KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)
            if error is None:
                self._kafka.taken.append(record)
            on_delivery(error, None)
            called += 1
        if called:
            self._kafka.refusal = None
        return called

    def purge(self, *, blocking: bool = True) -> None:
        assert not blocking
        waiting, self._waiting = self._waiting, deque()
        for _, on_delivery in waiting:
            on_delivery(KafkaError(KafkaError._PURGE_QUEUE), None)


@contextmanager
def publishing(kafka: FakeKafka, **changes: Any) -> Iterator[Publisher]:
    options = {"source": "billing", "settings": SETTINGS, "new_transport": kafka, "limits": FAST, "fsync": False, "clock": lambda: NOW}
    publisher = Publisher(**{**options, **changes})
    try:
        yield publisher
    finally:
        publisher.close(0)


def publish(publisher: Publisher, *numbers: int) -> list[str | None]:
    return [publisher.publish("near_quota_wall", TEAM, {**QUOTA, "used": number}) for number in numbers]


def balanced(publisher: Publisher) -> bool:
    stats = publisher.stats()
    return stats.published + stats.recovered == stats.sent + stats.dropped + stats.invalid + stats.pending
