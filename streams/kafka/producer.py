"""Producing one record and knowing that Kafka has it: what the gateway's answers stand on.

librdkafka sends; one thread of ours polls it, collects delivery reports, and hands them to the event loop a batch at a
time, so that a thousand acknowledgements cost one wake-up of the loop.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Collection, Sequence
from functools import partial
from types import TracebackType
from typing import NamedTuple, Self

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from streams.errors import ConfigurationError, KafkaUnavailable, RecordTooLarge, TierstreamError
from streams.kafka.client import producer_config
from streams.kafka.dead_letters import Headers
from streams.logging import LIBRDKAFKA, Throttle
from streams.settings import Settings
from streams.topics import MAX_RECORD_BYTES

MAX_MESSAGE_BYTES = MAX_RECORD_BYTES - 65_536
"""Value, key and headers of the largest record. The broker's limit is on the batch round it, so this leaves room for that."""

MESSAGE_TIMEOUT_SECONDS = 1.4
"""librdkafka gives a record up after this (it checks once a second, so up to a second later). Shorter than any caller's
time-out, so that little is delivered after its caller was answered that it was not."""

LINGER_MS = 0.5
"""Long enough to gather the records of concurrent requests (half the CPU of sending each at once), short for a lone one."""

_POLL_SECONDS = 0.1

log = structlog.stdlib.get_logger(__name__)


class Record(NamedTuple):
    """What is to be produced. ``topic`` is the full name on the broker; the key decides the partition."""

    topic: str
    value: bytes
    key: bytes | None = None
    headers: Headers = ()


class _Delivery:
    """Records that are acknowledged or fail as one."""

    __slots__ = ("future", "remaining")

    def __init__(self, future: "asyncio.Future[KafkaError | None]", remaining: int) -> None:
        self.future = future
        self.remaining = remaining

    def settle(self, error: KafkaError | None) -> None:
        self.remaining -= 1
        if (error is not None or self.remaining == 0) and not self.future.done():
            self.future.set_result(error)


class AcknowledgedProducer:
    """Produces with ``acks=all`` and returns once the broker has acknowledged.

    Make it inside the event loop that uses it; Kafka need not be there yet. Records of one key keep the order in which they
    were given to it. A record may still arrive after its caller got KafkaUnavailable: send it again with the same id, and
    it counts once.
    """

    def __init__(self, settings: Settings, *, linger_ms: float = LINGER_MS) -> None:
        self._loop = asyncio.get_running_loop()
        self._servers = settings.kafka_bootstrap_servers
        self._collected: list[tuple[_Delivery, KafkaError | None]] = []
        self._throttle = Throttle()
        self._closing = False
        self.failed = asyncio.Event()
        """Set when librdkafka can never produce again in this process; only a restart helps."""
        config = {
            **producer_config(settings),
            "linger.ms": linger_ms,
            "message.timeout.ms": int(MESSAGE_TIMEOUT_SECONDS * 1000),
            "message.max.bytes": MAX_MESSAGE_BYTES,
            "queue.buffering.max.messages": 100_000,
            "queue.buffering.max.kbytes": 131_072,
            "topic.metadata.propagation.max.ms": 1_000,  # topics are made by `topics apply`, so an unknown one is a mistake
            "reconnect.backoff.max.ms": 1_000,
            "socket.connection.setup.timeout.ms": 5_000,
            "socket.nagle.disable": True,
            "error_cb": self._on_error,
        }
        try:
            self._producer = Producer(config, logger=logging.getLogger(LIBRDKAFKA))
        except KafkaException as error:
            raise ConfigurationError(f"No Kafka producer can be made of the TIERSTREAM_KAFKA_* settings: {_text(error)}.") from error
        self._thread = threading.Thread(target=self._poll, name="producer-poll", daemon=True)
        self._thread.start()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        await self.close()

    async def send(self, topic: str, value: bytes, key: bytes | None = None, headers: Headers = (), *, timeout_seconds: float) -> None:
        """Produce one record and return when it is acknowledged.

        Raises KafkaUnavailable after ``timeout_seconds``, or sooner when Kafka refuses; RecordTooLarge when the record is
        more than Kafka takes.
        """
        await self.send_many((Record(topic, value, key, headers),), timeout_seconds=timeout_seconds)

    async def send_many(self, records: Sequence[Record], *, timeout_seconds: float) -> None:
        """Produce ``records`` and return when all are acknowledged. Raises as ``send`` does, and then some may have arrived."""
        if not records:
            return
        delivery = _Delivery(self._loop.create_future(), len(records))
        on_delivery = partial(self._collect, delivery)
        produce = self._producer.produce
        for topic, value, key, headers in records:
            try:
                produce(topic, value, key, on_delivery=on_delivery, headers=list(headers))
            except BufferError as error:
                raise KafkaUnavailable(
                    f"The buffer for Kafka at {self._servers} is full, for too little is acknowledged; try again later."
                ) from error
            except KafkaException as error:
                raise self._explain(error.args[0], topic) from error
        timer = self._loop.call_later(timeout_seconds, _expire, delivery.future)
        try:
            failure = await delivery.future
        except TimeoutError as error:
            raise KafkaUnavailable(
                f"Kafka at {self._servers} did not acknowledge a record of {records[0].topic} within {timeout_seconds:g} s; check that it runs and can be reached."
            ) from error
        finally:
            timer.cancel()
        if failure is not None:
            raise self._explain(failure, records[0].topic)

    async def check(self, topics: Collection[str], *, timeout_seconds: float) -> None:
        """Raise KafkaUnavailable unless Kafka answers in time and has every one of ``topics``."""
        try:
            metadata = await asyncio.to_thread(self._producer.list_topics, timeout=timeout_seconds)
        except KafkaException as error:
            raise KafkaUnavailable(
                f"Kafka at {self._servers} does not answer ({_text(error)}); check that it runs and can be reached."
            ) from error
        missing = sorted(set(topics) - set(metadata.topics))
        if missing:
            raise self._no_topic(missing)

    async def close(self, timeout_seconds: float = 2.0) -> None:
        """Wait until what was produced is acknowledged or has failed, at most ``timeout_seconds``, and stop the thread."""
        if self._closing:
            return
        self._closing = True
        await asyncio.to_thread(self._drain, timeout_seconds)

    def _drain(self, timeout_seconds: float) -> None:
        self._thread.join()
        left = self._producer.flush(timeout_seconds)
        if left:
            log.warning("records given up", count=left, reason=f"Kafka at {self._servers} did not acknowledge them before the end")
            self._producer.purge()
            self._producer.flush(timeout_seconds)
        self._hand_over()

    def _poll(self) -> None:
        try:
            while not self._closing:
                self._producer.poll(_POLL_SECONDS)
                if self._collected:
                    self._hand_over()
        except Exception:
            log.exception("producer thread failed")
            self._in_loop(self.failed.set)

    def _hand_over(self) -> None:
        collected, self._collected = self._collected, []
        self._in_loop(_settle, collected)

    def _in_loop(self, callback: Callable[..., object], *arguments: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback, *arguments)

    def _collect(self, delivery: _Delivery, error: KafkaError | None, _message: Message) -> None:
        self._collected.append((delivery, error))

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            log.error("Kafka producer failed for good", problem=error.str())
            self._in_loop(self.failed.set)
        elif self._throttle.passes(error.name()):
            log.warning("Kafka failure", kind=error.name(), problem=error.str())

    def _explain(self, error: KafkaError, topic: str) -> TierstreamError:
        code = error.code()
        if code in (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE):
            return RecordTooLarge(
                f"A record is larger than {topic} takes; `tierstream topics apply` sets max.message.bytes to {MAX_RECORD_BYTES}."
            )
        if code in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION):
            return self._no_topic([topic])
        return KafkaUnavailable(
            f"Kafka at {self._servers} did not take a record of {topic} ({error.str()}); check that it runs and can be reached."
        )

    def _no_topic(self, topics: Collection[str]) -> KafkaUnavailable:
        return KafkaUnavailable(f"Kafka at {self._servers} has no topic {' or '.join(topics)}; run `tierstream topics apply`.")


def _settle(collected: list[tuple[_Delivery, KafkaError | None]]) -> None:
    for delivery, error in collected:
        delivery.settle(error)


def _expire(future: "asyncio.Future[KafkaError | None]") -> None:
    if not future.done():
        future.set_exception(TimeoutError())


def _text(error: KafkaException) -> str:
    cause = error.args[0] if error.args else error
    return cause.str() if isinstance(cause, KafkaError) else str(cause)
