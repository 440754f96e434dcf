"""Producing one record and knowing that Kafka has it: what the gateway's answers stand on.

librdkafka sends; one thread of ours polls it, collects delivery reports, and hands them to the event loop a batch at a
time, so that a thousand acknowledgements cost one wake-up of the loop.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import NamedTuple, Self

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from streams.errors import ConfigurationError, KafkaUnavailable, RecordTooLarge, TierstreamError
from streams.kafka.client import producer_config
from streams.kafka.dead_letters import Headers
from streams.kafka.partitioner import partition_for
from streams.kafka.refusals import refusal
from streams.kafka.topic_watch import Seen
from streams.logging import LIBRDKAFKA, Throttle
from streams.settings import Settings
from streams.topics import MAX_RECORD_BYTES

MAX_MESSAGE_BYTES = MAX_RECORD_BYTES - 65_536
"""Value, key and headers of the largest record. The broker's limit is on the batch round it, so this leaves room for that."""

BATCH_BYTES = 256
"""More than a batch of one record takes beside that record's own bytes."""

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

    @property
    def size(self) -> int:
        """Bytes of key, value and headers, without those of the batch round them."""
        return len(self.value) + len(self.key or b"") + sum(len(name) + len(value or b"") for name, value in self.headers)


Failure = tuple[KafkaError, Record]


class _Delivery:
    """Records that are acknowledged or fail as one."""

    __slots__ = ("future", "remaining")

    def __init__(self, future: "asyncio.Future[Failure | None]", remaining: int) -> None:
        self.future = future
        self.remaining = remaining

    def settle(self, failure: Failure | None) -> None:
        self.remaining -= 1
        if (failure is not None or self.remaining == 0) and not self.future.done():
            self.future.set_result(failure)


class AcknowledgedProducer:
    """Produces with ``acks=all`` and returns once the broker has acknowledged.

    Make it inside the event loop that uses it; Kafka need not be there yet. Records of one key keep the order in which they
    were given to it. A record may still arrive after its caller got KafkaUnavailable: send it again with the same id, and
    it counts once.
    """

    def __init__(self, settings: Settings, *, linger_ms: float = LINGER_MS) -> None:
        self._loop = asyncio.get_running_loop()
        self._settings = settings
        self._servers = settings.kafka_bootstrap_servers
        self._partitions = settings.partitions
        self._collected: list[tuple[_Delivery, Failure | None]] = []
        self._throttle = Throttle()
        self._closing = False
        self.failed = asyncio.Event()
        """Set when librdkafka can never produce again in this process; only a restart helps."""
        self._refusal: str | None = None
        self._seen = Seen()
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

    def note_topics(self, seen: Seen, refusal: str | None) -> None:
        """Take in what a look at the topics found, and why nothing is to be produced with them as they are, in a sentence, if it is so."""
        self._seen, self._refusal = seen, refusal

    async def send(self, topic: str, value: bytes, key: bytes | None = None, headers: Headers = (), *, timeout_seconds: float) -> None:
        """Produce one record, to the partition of its key as TIERSTREAM_PARTITIONS has it, and return when it is acknowledged.

        Raises KafkaUnavailable after ``timeout_seconds``, or sooner when Kafka refuses, or is known to; RecordTooLarge when
        the record is more than Kafka takes.
        """
        await self.send_many((Record(topic, value, key, headers),), timeout_seconds=timeout_seconds)

    async def send_many(self, records: Sequence[Record], *, timeout_seconds: float) -> None:
        """Produce ``records`` and return when all are acknowledged. Raises as ``send`` does, and then some may have arrived."""
        if not records:
            return
        if self._refusal is not None:
            raise KafkaUnavailable(self._refusal)
        for record in records if self._seen.missing else ():
            if record.topic in self._seen.missing:
                raise self._no_topic(record.topic)
        delivery = _Delivery(self._loop.create_future(), len(records))
        produce = self._producer.produce
        for record in records:
            topic, value, key, headers = record
            on_delivery = partial(self._collect, delivery, record)
            try:
                produce(topic, value, key, partition_for(key, self._partitions), on_delivery=on_delivery, headers=list(headers))
            except BufferError as error:
                raise KafkaUnavailable(
                    f"The buffer for Kafka at {self._servers} is full, for too little is acknowledged; try again later."
                ) from error
            except KafkaException as error:
                raise self._explain(error.args[0], record, records) from error
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
            raise self._explain(*failure, records)

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

    def _collect(self, delivery: _Delivery, record: Record, error: KafkaError | None, _message: Message) -> None:
        self._collected.append((delivery, None if error is None else (error, record)))

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            log.error("Kafka producer failed for good", problem=error.str())
            self._in_loop(self.failed.set)
        elif self._throttle.passes(error.name()):
            log.warning("Kafka failure", kind=error.name(), problem=error.str())

    def _explain(self, error: KafkaError, record: Record, records: Sequence[Record]) -> TierstreamError:
        """Return what to raise for ``records``, of which ``record`` failed."""
        code, topic = error.code(), record.topic
        if is_too_large(error):
            return self._too_large(record, records)
        if code in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
            return self._no_topic(topic)
        if code == KafkaError._UNKNOWN_PARTITION:
            return KafkaUnavailable(
                f"Kafka at {self._servers} has no topic {topic} with {self._partitions} partitions; run `tierstream topics check`."
            )
        return refusal(self._settings, error, f"write to {topic}") or KafkaUnavailable(
            f"Kafka at {self._servers} did not take a record of {topic} ({error.str()}); check that it runs and can be reached."
        )

    def _too_large(self, failed: Record, records: Sequence[Record]) -> TierstreamError:
        """Tell a record that is too large from those that were only refused with others: librdkafka puts several into one batch, and the
        broker refuses all of it."""
        limits = self._seen.limits
        for record in (failed, *records):
            limit = limits.get(record.topic)
            if limit is None or record.size + BATCH_BYTES > limit:
                return too_large(record, limit)
        return KafkaUnavailable(
            f"Kafka at {self._servers} refused a record of {failed.topic} together with others, for its max.message.bytes is "
            f"{limits[failed.topic]} instead of {MAX_RECORD_BYTES}; `tierstream topics apply --alter` mends that, until then send fewer at a time."
        )

    def _no_topic(self, topic: str) -> KafkaUnavailable:
        return KafkaUnavailable(f"Kafka at {self._servers} has no topic {topic}; run `tierstream topics apply`.")


def is_too_large(error: KafkaError) -> bool:
    """Whether a record, or the batch that it was sent in, is larger than the client or the topic takes."""
    return error.code() in (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE)


def too_large(record: Record, limit: int | None = None) -> RecordTooLarge:
    """Return the error of a record that is too large: for us, or only for its topic, whose ``limit`` in bytes may be known."""
    if record.size > MAX_MESSAGE_BYTES:
        return RecordTooLarge(
            f"A record of {record.size} bytes is larger than the {MAX_MESSAGE_BYTES} that tierstream takes for {record.topic}; send less in one event."
        )
    has = "is less" if limit is None else f"is {limit}"
    return RecordTooLarge(
        f"A record of {record.size} bytes is larger than {record.topic} takes, for its max.message.bytes {has} instead of {MAX_RECORD_BYTES}; "
        "`tierstream topics apply --alter` mends that."
    )


def _settle(collected: list[tuple[_Delivery, Failure | None]]) -> None:
    for delivery, failure in collected:
        delivery.settle(failure)


def _expire(future: "asyncio.Future[Failure | None]") -> None:
    if not future.done():
        future.set_exception(TimeoutError())


def _text(error: KafkaException) -> str:
    cause = error.args[0] if error.args else error
    return cause.str() if isinstance(cause, KafkaError) else str(cause)
