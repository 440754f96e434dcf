"""Writing what was decided: each chunk in one Kafka transaction, by one operator at a time."""

import logging
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from streams.errors import Fenced, KafkaUnavailable, RecordTooLarge
from streams.kafka.client import producer_config
from streams.kafka.partitioner import partition_for
from streams.kafka.producer import is_too_large
from streams.operate.dead_letters.outcomes import Written
from streams.settings import Settings
from streams.topics import OPERATORS_TRANSACTIONAL_ID

TRANSACTION_SECONDS = 10.0
"""A transaction that is still open after this is aborted by the broker: so long a command that was killed holds up the stages, for they read
nothing behind it. A chunk takes a part of a second."""

_ABORT_SECONDS = 5.0
_FENCED = frozenset({KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED})

_librdkafka = logging.getLogger("librdkafka")


class OutcomeWriter(Protocol):
    """Where outcomes go: ``TransactionalOutcomes``, or a test's own."""

    def commit(self, records: Sequence[Written]) -> None:
        """Write all of ``records``, or none. Raises RecordTooLarge (none was written), KafkaUnavailable, Fenced."""


class TransactionalOutcomes:
    """Writes to Kafka. Blocking. To be entered before it is read what is open: what a command before has begun is decided then."""

    def __init__(self, settings: Settings, timeout_seconds: float = 30.0) -> None:
        self._partitions, self._timeout_seconds = settings.partitions, timeout_seconds
        self._servers = settings.kafka_bootstrap_servers
        self._failed: list[KafkaError] = []
        self._producer = Producer(
            {
                **producer_config(settings),
                "transactional.id": settings.topic_prefix + OPERATORS_TRANSACTIONAL_ID,
                "transaction.timeout.ms": int(TRANSACTION_SECONDS * 1000),
                "linger.ms": 5,
            },
            logger=_librdkafka,
        )

    def __enter__(self) -> Self:
        try:
            self._producer.init_transactions(self._timeout_seconds)
        except KafkaException as error:
            raise self._explained(error) from error
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self._producer.purge()

    def commit(self, records: Sequence[Written]) -> None:
        """See ``OutcomeWriter``."""
        self._failed.clear()
        deadline = time.monotonic() + self._timeout_seconds
        try:
            self._producer.begin_transaction()
            for record in records:
                self._produce(record)
            left = self._producer.flush(max(0.0, deadline - time.monotonic()))
            if self._failed:
                raise KafkaException(self._failed[0])
            if left:
                raise KafkaUnavailable(f"Kafka at {self._servers} does not acknowledge; run the same command again once it does.")
            self._end(deadline)
        except BaseException as error:
            refusal = self._abort()
            # What is fatal ends a call as the interpreter's SystemError, and whether that has a cause depends on which callbacks came after
            # (confluent-kafka's error_cb leaves its exception pending): the producer says it again when it is to abort.
            cause = refusal if isinstance(error, SystemError) else error
            if isinstance(cause, KafkaException):
                raise self._explained(cause) from error
            raise

    def _abort(self) -> KafkaException | None:
        """Abort the transaction; return why that can not be. It is aborted then when the next command begins, or by its time-out."""
        try:
            self._producer.purge()
            self._producer.abort_transaction(_ABORT_SECONDS)
        except KafkaException as refusal:
            return refusal
        return None

    def _produce(self, record: Written) -> None:
        partition = partition_for(record.key, self._partitions) if record.partition is None else record.partition
        while True:
            try:
                self._producer.produce(
                    record.topic, record.value, record.key, partition, on_delivery=self._note, headers=list(record.headers)
                )
                self._producer.poll(0)
                return
            except BufferError:
                self._producer.poll(0.1)

    def _end(self, deadline: float) -> None:
        """Commit. A commit that was not answered is asked for again: it counts, or it does not, and never twice."""
        while True:
            try:
                self._producer.commit_transaction(max(1.0, deadline - time.monotonic()))
                return
            except KafkaException as error:
                if not error.args[0].retriable() or time.monotonic() > deadline:
                    raise

    def _note(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            self._failed.append(error)

    def _explained(self, error: KafkaException) -> Fenced | KafkaUnavailable | RecordTooLarge:
        cause: KafkaError = error.args[0]
        if cause.code() in _FENCED:
            return Fenced("Another `tierstream dlq` has begun meanwhile and takes the rest over; run this one again once that has ended.")
        if is_too_large(cause):
            return RecordTooLarge(
                "A record is larger than its topic takes; `tierstream topics check` says what the topic's limit should be."
            )
        return KafkaUnavailable(f"Kafka at {self._servers} did not take what was decided ({cause.str()}); run the same command again.")
