"""A Kafka that is only a list, at the seam where delivery meets librdkafka."""

import time
from collections import deque
from typing import Any

import orjson
from confluent_kafka import KafkaError, KafkaException

from streams.publisher.transport import OnDelivery, is_too_large
from streams.transport.producer import Record


class FakeKafka:
    """Acknowledges what it gets, unless it is away; remembers what it acknowledged, over many producers. Calling it makes one."""

    def __init__(self) -> None:
        self.taken: list[Record] = []
        self.away = False
        self.refusal: KafkaError | None = None  # what waits at the next poll gets it; one record alone, when it is too large
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
        while self._waiting and not self._kafka.away:
            record, on_delivery = self._waiting.popleft()
            error = self._kafka.refusal
            if error is None:
                self._kafka.taken.append(record)
            elif is_too_large(error):
                self._kafka.refusal = None
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
