"""The transactional producer of a worker: one for each stage in a process, for all partitions that the worker owns.

A transaction holds records and the input offsets that follow from them (KIP-447). Who may commit is decided twice:

- The ``transactional.id`` names the worker. A second process with the same id fences the first (KIP-98).
- The offsets carry the generation of the consumer group in which their input was read. Once the group has gone on to
  another generation, the coordinator refuses them, and what belongs to them is aborted.

So a commit is refused to a worker that has lost its partitions, unless its offsets were taken before. Whoever takes a
partition over waits for such a transaction to be decided (``streams/engine/takeover.py``).
"""

import logging
import struct
from collections.abc import Iterable, Sequence

import msgspec
from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from streams.errors import Fenced, GenerationEnded, KafkaUnavailable, ProducerLost, StageFailed
from streams.kafka.client import producer_config
from streams.settings import Settings
from streams.topics import MAX_RECORD_BYTES

TRANSACTION_TIMEOUT_MS = 10_000
"""The broker aborts a transaction whose holder is silent for this long, so that readers are not held up behind it."""

LINGER_MS = 20
"""Nobody waits for it, for a commit flushes. It makes fewer and larger requests of what a long slice produces meanwhile: against 5 ms, two
workers that share two cores need a tenth less CPU, and one of them 3 %."""

RETRY_MS, RETRY_MAX_MS = 5, 200
"""A transaction that follows another at once is refused until the broker has ended the former, which takes it some milliseconds; with
librdkafka's default of 100 ms, ``send_offsets`` waits for that."""

_GENERATION_ENDED = frozenset({KafkaError.ILLEGAL_GENERATION, KafkaError.UNKNOWN_MEMBER_ID, KafkaError.REBALANCE_IN_PROGRESS})
_EXPIRED = frozenset({KafkaError.INVALID_PRODUCER_ID_MAPPING, KafkaError.UNKNOWN_PRODUCER_ID})
# _FATAL is what every call says after the first fatal error, and of a transactional producer that one is a fence.
_FENCED = frozenset(
    {
        KafkaError._FENCED,
        KafkaError._FATAL,
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.PRODUCER_FENCED,
        KafkaError.FENCED_INSTANCE_ID,
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


class Membership(msgspec.Struct, frozen=True):
    """A worker as the consumer group's coordinator knows it in one generation."""

    group: str
    generation: int
    member_id: str
    instance_id: str | None = None

    def metadata(self) -> bytes:
        """Return it as librdkafka's serialized group metadata: aiokafka's coordinator knows the fields, librdkafka takes no others."""
        instance = b"\x01" if self.instance_id is None else b"\0" + self.instance_id.encode() + b"\0"
        fields = self.group.encode() + b"\0" + self.member_id.encode() + b"\0"
        return b"CGMDv2:" + struct.pack("=i", self.generation) + fields + instance


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
                "retry.backoff.ms": RETRY_MS,
                "retry.backoff.max.ms": RETRY_MAX_MS,
                "message.max.bytes": MAX_RECORD_BYTES,
                "queue.buffering.max.messages": 1_000_000,
            },
            logger=logging.getLogger("librdkafka"),
        )

    def open(self, timeout_seconds: float) -> None:
        """Fence a former process of this id and abort what it left open. Raises KafkaUnavailable (try again), StageFailed."""
        try:
            self._producer.init_transactions(timeout_seconds)
        except KafkaException as error:
            raise _translated(error, f"begin as {self.transactional_id}") from error

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

    def send_offsets(self, offsets: Sequence[TopicPartition], membership: Membership, timeout_seconds: float) -> None:
        """Add the next offsets of the input to the open transaction, for the generation in which it was read.

        Raises GenerationEnded when the group has gone on to another, KafkaUnavailable (try again), ProducerLost, Fenced, StageFailed.
        """
        try:
            self._producer.send_offsets_to_transaction(list(offsets), membership.metadata(), timeout_seconds)
        except KafkaException as error:
            raise _translated(error, f"add its offsets to a transaction of {self.transactional_id}") from error

    def commit(self, timeout_seconds: float) -> None:
        """Commit. Afterwards all of the transaction is in the log; when this raises, none of it may be counted on.

        Raises KafkaUnavailable when the broker did not answer (the same commit may be tried again), ProducerLost, Fenced, StageFailed.
        """
        try:
            self._producer.commit_transaction(timeout_seconds)
        except KafkaException as error:
            raise _translated(error, f"commit a transaction of {self.transactional_id}") from error

    def abort(self, timeout_seconds: float) -> None:
        """Abort the open transaction. Raises KafkaUnavailable (try again), ProducerLost, Fenced, StageFailed."""
        try:
            self._producer.abort_transaction(timeout_seconds)
        except KafkaException as error:
            raise _translated(error, f"abort a transaction of {self.transactional_id}") from error


def _translated(error: KafkaException, action: str) -> Exception:
    cause = error.args[0]
    if not isinstance(cause, KafkaError):
        return StageFailed(f"Kafka: could not {action}: {error}.")
    if cause.code() in _EXPIRED:
        return ProducerLost(f"Kafka has forgotten this producer (could not {action}).")
    if cause.fatal() or cause.code() in _FENCED:
        return Fenced(
            f"Kafka has ended this worker's transaction, for nothing came for too long, or another process has its name (could not {action}); "
            "it stops and starts again."
        )
    if cause.code() in _GENERATION_ENDED:
        return GenerationEnded(f"The group has gone on to another generation (could not {action}).")
    if cause.txn_requires_abort():
        # Whatever its code says, a time-out too: this transaction can only be aborted, and its commit would be refused for ever.
        return StageFailed(f"Kafka has given a transaction up (could not {action}: {cause.str()}); this worker starts again from the log.")
    if cause.retriable() or cause.code() == KafkaError._TIMED_OUT:
        return KafkaUnavailable(f"Kafka does not answer (could not {action}).")
    return StageFailed(f"Kafka: could not {action} ({cause.str()}); this worker stops and starts again from what is committed.")
