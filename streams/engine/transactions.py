"""The transactional producer of one table partition.

Its ``transactional.id`` names the partition, so that taking it over fences whoever held it before: from then on the former
holder can neither produce nor commit (KIP-98). After an abort nothing is retried in place: memory is then ahead of the log,
and the worker has to start again from the log.
"""

import logging
from collections.abc import Iterable, Sequence

import msgspec
from confluent_kafka import KafkaError, KafkaException, Producer

from streams.errors import Fenced, KafkaUnavailable, StageFailed
from streams.kafka.client import producer_config
from streams.settings import Settings
from streams.topics import MAX_RECORD_BYTES

TRANSACTION_TIMEOUT_MS = 10_000
"""The broker aborts a transaction whose holder is silent for this long, so that readers are not held up behind it."""

LINGER_MS = 20
"""Nobody waits for it, for a commit flushes. It makes fewer and larger requests of what a long slice produces meanwhile: against 5 ms, two
workers that share two cores need a tenth less CPU, and one of them 3 %."""

# _FATAL is what every call says after the first fatal error, and of a transactional producer that one is a fence.
_FENCED = frozenset(
    {
        KafkaError._FENCED,
        KafkaError._FATAL,
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.PRODUCER_FENCED,
        KafkaError.INVALID_PRODUCER_ID_MAPPING,
    }
)

Headers = Sequence[tuple[str, bytes | None]]

NO_HEADERS: list[tuple[str, bytes | None]] = []
ANY_PARTITION = -1
"""The partition is left to the key."""


class Output(msgspec.Struct, frozen=True, gc=False):
    """One record to produce. ``partition`` is left to the key unless it is given."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int = ANY_PARTITION


class TransactionalWriter:
    """Produces in transactions as the one holder of ``transactional_id``. Blocking: call it in a thread, one call at a time."""

    def __init__(self, settings: Settings, transactional_id: str) -> None:
        self.transactional_id = transactional_id
        self._producer = Producer(
            {
                **producer_config(settings),
                "transactional.id": transactional_id,
                "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
                "linger.ms": LINGER_MS,
                "message.max.bytes": MAX_RECORD_BYTES,
                "queue.buffering.max.messages": 1_000_000,
            },
            logger=logging.getLogger("librdkafka"),
        )

    def take_over(self, timeout_seconds: float) -> None:
        """Fence the former holder and abort what it left open. Raises KafkaUnavailable (try again), StageFailed."""
        try:
            self._producer.init_transactions(timeout_seconds)
        except KafkaException as error:
            raise _translated(error, f"take over {self.transactional_id}") from error

    def begin(self) -> None:
        """Open a transaction."""
        try:
            self._producer.begin_transaction()
        except KafkaException as error:
            raise _translated(error, f"begin a transaction of {self.transactional_id}") from error

    def produce(self, outputs: Iterable[Output]) -> None:
        """Add records to the open transaction; they count only once ``commit`` returns."""
        produce = self._producer.produce
        for output in outputs:
            headers = output.headers if type(output.headers) is list else list(output.headers)
            while True:
                try:
                    # By position, which is measurably quicker: topic, value, key, partition, two callbacks, timestamp (now), headers.
                    produce(output.topic, output.value, output.key, output.partition, None, None, 0, headers)
                    break
                except BufferError:
                    self._producer.poll(0.05)  # librdkafka's queue is full: let it drain
                except KafkaException as error:
                    raise _translated(error, f"produce to {output.topic}") from error

    def commit(self, timeout_seconds: float) -> None:
        """Commit. Afterwards all of the transaction is in the log; when this raises, none of it may be counted on.

        Raises KafkaUnavailable when the broker did not answer (the same commit may be tried again), Fenced, StageFailed.
        """
        try:
            self._producer.commit_transaction(timeout_seconds)
        except KafkaException as error:
            raise _translated(error, f"commit a transaction of {self.transactional_id}") from error


def _translated(error: KafkaException, action: str) -> Exception:
    cause = error.args[0]
    if not isinstance(cause, KafkaError):
        return StageFailed(f"Kafka: could not {action}: {error}.")
    if cause.fatal() or cause.code() in _FENCED:
        return Fenced(f"Another worker has taken over (could not {action}); this one stops and starts again.")
    if cause.txn_requires_abort():
        # Whatever its code says, a time-out too: this transaction can only be aborted, and its commit would be refused for ever.
        return StageFailed(f"Kafka has given a transaction up (could not {action}: {cause.str()}); this worker starts again from the log.")
    if cause.retriable() or cause.code() == KafkaError._TIMED_OUT:
        return KafkaUnavailable(f"Kafka does not answer (could not {action}).")
    return StageFailed(f"Kafka: could not {action} ({cause.str()}); this worker stops and starts again from what is committed.")
