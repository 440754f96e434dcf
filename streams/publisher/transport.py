"""The seam between delivery and Kafka: what delivery needs of a producer, and librdkafka's producer set up for it."""

import logging
from collections.abc import Callable
from typing import Any, Protocol

from confluent_kafka import KafkaError, KafkaException, Producer

from streams.errors import ConfigurationError
from streams.kafka.client import producer_config
from streams.kafka.partitioner import partition_for
from streams.kafka.producer import MAX_MESSAGE_BYTES
from streams.logging import LIBRDKAFKA, ThrottledLogs
from streams.settings import Settings

OnDelivery = Callable[[KafkaError | None, Any], None]


class Transport(Protocol):
    """What delivery needs of ``confluent_kafka.Producer``. For one thread."""

    def produce(
        self,
        topic: str,
        value: bytes | None = None,
        key: bytes | None = None,
        *,
        on_delivery: OnDelivery | None = None,
        headers: Any = None,
    ) -> None:
        """Queue one record. Raises KafkaException when it is refused, BufferError when the queue is full."""

    def poll(self, timeout: float) -> int:
        """Call the callbacks that are due; wait for one at most ``timeout`` seconds. Returns how many were called."""

    def purge(self, *, blocking: bool = True) -> None:
        """Give up everything that is not acknowledged; each record's callback gets an error."""


TransportFactory = Callable[[], Transport]

ANY_PARTITION = -1
"""librdkafka takes the partition of the key, by the number of partitions that the broker has."""


def is_fatal(error: KafkaError) -> bool:
    """Whether this producer will never deliver anything again, and another one is needed."""
    return bool(error.fatal()) or error.code() == KafkaError._FATAL


class _Placing:
    """librdkafka's producer, with each record on the partition that its key has among ``partitions``; None leaves that to librdkafka."""

    def __init__(self, producer: Producer, partitions: int | None) -> None:
        self._producer = producer
        self._partitions = partitions
        self.poll, self.purge = producer.poll, producer.purge

    def produce(
        self,
        topic: str,
        value: bytes | None = None,
        key: bytes | None = None,
        *,
        on_delivery: OnDelivery | None = None,
        headers: Any = None,
    ) -> None:
        partition = ANY_PARTITION if self._partitions is None else partition_for(key, self._partitions)
        self._producer.produce(topic, value, key, partition, on_delivery=on_delivery, headers=headers)


def kafka_transport(settings: Settings, *, linger_ms: float, partitions: int | None) -> Transport:
    """Return an idempotent producer with ``acks=all`` that tries for ever; order and time-outs are for delivery to decide.

    ``partitions`` is the number that keys are placed by, or None for the broker's. Raises ConfigurationError when none can be made of
    the settings. Kafka need not be there.
    """
    log = logging.getLogger(f"{LIBRDKAFKA}.publisher")
    if not log.filters:
        log.addFilter(ThrottledLogs())  # a service's logging is its own, and would get each of ten tries a second
    config = {
        **producer_config(settings),
        "linger.ms": linger_ms,
        "message.timeout.ms": 0,
        "message.max.bytes": MAX_MESSAGE_BYTES,
        "topic.metadata.propagation.max.ms": 5_000,
        "reconnect.backoff.max.ms": 1_000,
        "socket.connection.setup.timeout.ms": 5_000,
        "socket.nagle.disable": True,
        "error_cb": lambda error: log.warning("%s", error.str()),
    }
    try:
        return _Placing(Producer(config, logger=log), partitions)
    except KafkaException as error:
        raise ConfigurationError(f"No Kafka producer can be made of the TIERSTREAM_KAFKA_* settings: {error.args[0]}.") from error
