"""The gateway's producer when it has a spool: what Kafka does not acknowledge in time is safe on the disk, and answered as accepted."""

import asyncio
from collections.abc import Sequence
from functools import partial

from streams.errors import ConfigurationError, KafkaUnavailable, TierstreamError
from streams.kafka.dead_letters import Headers
from streams.kafka.producer import LINGER_MS, Record
from streams.kafka.topic_watch import Seen
from streams.metrics import GATEWAY_PENDING
from streams.publisher.delivery import Delivery
from streams.publisher.entries import Limits
from streams.publisher.spool import Spool
from streams.publisher.transport import TransportFactory, kafka_transport
from streams.settings import PREFIX, Settings

LIMITS = Limits(spill_after_seconds=1.0)
"""Kafka has this long to acknowledge before a record is written to the spool. Together with a slow disk's fsync it stays under the
1.7 s after which a request is answered 503. Once one record has waited so long, the next do not."""


class SpoolingProducer:
    """Accepts a record once Kafka has acknowledged it, or once the spool has it and would keep it over a power cut.

    Make it inside the event loop that uses it. All records go one way and keep their order: none overtakes what is spooled.
    Raises ConfigurationError when the spool's directory can not be used, or another process uses it.
    """

    def __init__(self, settings: Settings, *, refusal: str | None = None, new_transport: TransportFactory | None = None) -> None:
        """``refusal`` says why nothing is to be sent to Kafka until ``note_topics`` takes it back."""
        self._loop = asyncio.get_running_loop()
        self._servers = settings.kafka_bootstrap_servers
        spool = _open(settings)
        self.failed = asyncio.Event()
        """Never set: delivery makes itself another producer."""
        kafka = partial(kafka_transport, settings, linger_ms=LINGER_MS, partitions=settings.partitions)
        self._delivery = Delivery(new_transport or kafka, lambda: spool, LIMITS, refusal=refusal)
        GATEWAY_PENDING.set_function(lambda: self._delivery.stats().pending)

    async def send(self, topic: str, value: bytes, key: bytes | None = None, headers: Headers = (), *, timeout_seconds: float) -> None:
        """Return once the record is safe. Raises as ``send_many`` does."""
        await self.send_many((Record(topic, value, key, headers),), timeout_seconds=timeout_seconds)

    async def send_many(self, records: Sequence[Record], *, timeout_seconds: float) -> None:
        """Return once all records are safe.

        Raises KafkaUnavailable when Kafka is away and the spool takes no more, RecordTooLarge when a record is more than Kafka
        takes; then some may have been taken, so send them again with the same ids.
        """
        if not records:
            return
        if self._delivery.is_late and self._delivery.spool_problem:
            raise self._unavailable(records)
        future: asyncio.Future[None] = self._loop.create_future()
        remaining = len(records)

        def settled(error: TierstreamError | None) -> None:
            nonlocal remaining
            remaining -= 1
            if (error is not None or remaining == 0) and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(_resolve, future, error)

        for record in records:
            if not self._delivery.put(record, settled):
                raise self._unavailable(records)
        try:
            async with asyncio.timeout(timeout_seconds):
                await future
        except TimeoutError as error:
            raise self._unavailable(records) from error

    def _unavailable(self, records: Sequence[Record]) -> KafkaUnavailable:
        why = self._delivery.spool_problem or "the spool did not take it in time"
        return KafkaUnavailable(f"Kafka at {self._servers} did not acknowledge a record of {records[0].topic}, and {why}; try again later.")

    def note_topics(self, seen: Seen, refusal: str | None) -> None:
        """Take in what a look at the topics found. With a ``refusal`` nothing is sent to Kafka: what comes goes to the spool."""
        self._delivery.sizes, self._delivery.refusal = seen.limits, refusal

    def state(self) -> tuple[bool, str]:
        """Whether the spool takes records, and how many wait."""
        problem, aside = self._delivery.spool_problem, self._delivery.kept_aside
        waiting = f"{self._delivery.stats().pending} records wait for Kafka"
        if aside:
            waiting += f", {aside} of them because they are larger than their topic takes (`tierstream topics apply --alter`)"
        return problem is None, problem or waiting

    async def close(self, timeout_seconds: float = 2.0) -> None:
        """Wait for acknowledgements, at most ``timeout_seconds``; the rest is in the spool, for the next start."""
        await asyncio.to_thread(self._delivery.close, timeout_seconds)


def _open(settings: Settings) -> Spool:
    assert settings.gateway_spool is not None
    try:
        return Spool(settings.gateway_spool, max_bytes=settings.gateway_spool_max_bytes)
    except BlockingIOError as error:
        raise ConfigurationError(
            f"{PREFIX}GATEWAY_SPOOL: another process uses {settings.gateway_spool}; give each gateway a directory of its own."
        ) from error
    except OSError as error:
        raise ConfigurationError(f"{PREFIX}GATEWAY_SPOOL: {settings.gateway_spool} can not be used ({error.strerror}).") from error


def _resolve(future: "asyncio.Future[None]", error: TierstreamError | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
