"""Dead letters: records that no stage can act on, kept whole with what went wrong, to be looked at and replayed."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from schemas.reasons import Reason
from streams.errors import RecordTooLarge
from streams.logging import mask_text
from streams.runtime.waiting import Waiting

Headers = Sequence[tuple[str, bytes | None]]

HEADER_PREFIX = "dlq-"
REPLAYS = "dlq-replays"
LEFT_OUT = "dlq-left-out"
"""How many bytes the record's value had, on a dead letter that was too large to hold it as well."""

RESOLVES = "dlq-resolves"
"""On a record of ``dead.letters`` that is no dead letter but says what an operator made of one: which one, by its place."""
MAX_ERROR_CHARACTERS = 500

_SEND_SECONDS = 5.0
"""How long one try to produce a dead letter may take before it counts as Kafka being away."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a record was read: stage, topic, partition, offset (-1 where it never had one)."""

    stage: str
    topic: str
    partition: int = -1
    offset: int = -1


def is_dead_letter(record: "ConsumedRecord") -> bool:
    """Whether a record of ``dead.letters`` is one, and not the mark that an operator's decision left behind one."""
    return not any(name == RESOLVES for name, _ in record.headers)


def dead_letter_headers(
    headers: Headers, origin: Origin, reason: Reason, error: str, *, left_out: int | None = None
) -> list[tuple[str, bytes | None]]:
    """Return the headers of the dead letter of one record: those it had, plus ``dlq-*``.

    ``error`` is one sentence for an operator; it must hold neither secrets nor addresses. Ids that it repeats are whatever somebody sent, so
    what looks like one is masked, and it stays on one line. Key and value of a dead letter are the record's own, untouched;
    ``left_out`` is the size of a value that it does not hold.
    """
    kept = [(name, value) for name, value in headers if not name.startswith(HEADER_PREFIX) or name == REPLAYS]
    if not any(name == REPLAYS for name, _ in kept):
        kept.append((REPLAYS, b"0"))
    kept += [
        ("dlq-reason", reason.value.encode()),
        ("dlq-stage", origin.stage.encode()),
        ("dlq-topic", origin.topic.encode()),
        ("dlq-partition", str(origin.partition).encode()),
        ("dlq-offset", str(origin.offset).encode()),
        ("dlq-time", str(int(time.time() * 1000)).encode()),
        ("dlq-error", _one_line(error).encode()),
    ]
    if left_out is not None:
        kept.append((LEFT_OUT, str(left_out).encode()))
    return kept


def _one_line(error: str) -> str:
    line = "".join(character if character.isprintable() else " " for character in mask_text(error))
    return line if len(line) <= MAX_ERROR_CHARACTERS else f"{line[: MAX_ERROR_CHARACTERS - 1]}…"


class ConsumedRecord(Protocol):
    """What a stage reads: aiokafka's ``ConsumerRecord``, or a test's own."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Headers: ...


class DeadLetters(Protocol):
    """Where a stage puts a record that it can not act on."""

    async def write(self, record: ConsumedRecord, reason: Reason, error: str) -> None:
        """Return once the dead letter is durable. A record that is written twice stands there twice, with the same origin."""


class Producing(Protocol):
    """The part of ``AcknowledgedProducer`` that dead letters need."""

    async def send(self, topic: str, value: bytes, key: bytes | None = None, headers: Headers = (), *, timeout_seconds: float) -> None: ...


class KafkaDeadLetters:
    """Dead letters on Kafka, acknowledged by all replicas; waits while Kafka is away.

    ``topic`` is the full name on the broker. A record too large to carry the ``dlq-*`` headers as well is written without its
    value, and says so: the value still stands where ``dlq-topic``, ``dlq-partition`` and ``dlq-offset`` say.
    """

    def __init__(self, producer: Producing, topic: str, stage: str, waiting: Waiting) -> None:
        self._producer, self._topic, self._stage, self._waiting = producer, topic, stage, waiting

    async def write(self, record: ConsumedRecord, reason: Reason, error: str) -> None:
        """Write ``record`` with ``error``, one sentence without addresses, and return once it is acknowledged."""
        value = record.value or b""
        try:
            await self._send(record, value, reason, error)
        except RecordTooLarge:
            said = f"{error} Its value of {len(value)} bytes is left out here, for it is too large."
            await self._send(record, b"", reason, said, left_out=len(value))

    async def _send(self, record: ConsumedRecord, value: bytes, reason: Reason, error: str, *, left_out: int | None = None) -> None:
        origin = Origin(self._stage, record.topic, record.partition, record.offset)
        headers = dead_letter_headers(record.headers, origin, reason, error, left_out=left_out)
        await self._waiting.until_available(
            lambda: self._producer.send(self._topic, value, record.key, headers, timeout_seconds=_SEND_SECONDS)
        )
