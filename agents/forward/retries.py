"""The retry topics: where a mail waits that an answer concerns alone, for how long, and what its headers say.

A record there has the key and the value that it had on ``audit.events``. Its due time is chosen once, when it is written. A mail goes from
tier to tier; in the last one it stays until it has its outcome.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from streams import topics
from streams.kafka.dead_letters import ConsumedRecord, Headers, Producing
from streams.runtime.waiting import Waiting
from streams.settings import Settings

RETRY_TOPICS = (topics.FORWARD_RETRY_30S, topics.FORWARD_RETRY_5M, topics.FORWARD_RETRY_1H)
RETRY_SECONDS = (30.0, 300.0, 3600.0)

HEADER_PREFIX = "retry-"
MAX_ERROR_CHARACTERS = 500

_SEND_SECONDS = 5.0
"""How long one try to produce a record may take before it counts as Kafka being away."""


@dataclass(frozen=True, slots=True)
class Tier:
    """A retry topic (full name), and the longest wait on it in seconds."""

    topic: str
    seconds: float

    def due(self, now: datetime) -> datetime:
        """Return a random time of the tier, in whole milliseconds: full jitter, so that what failed together does not come back together."""
        return now + timedelta(milliseconds=math.ceil(self.seconds * 1000 * (1.0 - random.random())), microseconds=-now.microsecond % -1000)


def retry_tiers(settings: Settings, seconds: Sequence[float] = RETRY_SECONDS) -> tuple[Tier, ...]:
    """Return the tiers, the shortest first. ``seconds`` are their longest waits."""
    return tuple(Tier(topic.full_name(settings), longest) for topic, longest in zip(RETRY_TOPICS, seconds, strict=True))


@dataclass(frozen=True, slots=True)
class Original:
    """A record as it was on ``audit.events``, whatever topic it was read from: what a dead letter of it names."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers


@dataclass(frozen=True, slots=True)
class Retry:
    """What the headers of a record on a retry topic say. Errors hold no addresses.

    ``round`` counts how often the mail was put on a retry topic, and ``step`` how often for an answer of its own; ``attempts`` are
    calls. ``answer`` says in some words, of few different ones, what it waits for.
    """

    round: int
    step: int
    attempts: int
    due: datetime
    answer: str
    first_error: str = ""
    last_error: str = ""


def retry_headers(original: ConsumedRecord, retry: Retry) -> list[tuple[str, bytes | None]]:
    """Return the headers of a record on a retry topic: those that it had on ``audit.events``, and ``retry-*``."""
    said = {
        "origin": f"{original.topic}:{original.partition}:{original.offset}",
        "due": str(int(retry.due.timestamp() * 1000)),
        "round": str(retry.round),
        "step": str(retry.step),
        "attempts": str(retry.attempts),
        "answer": retry.answer,
        "first-error": retry.first_error[:MAX_ERROR_CHARACTERS],
        "last-error": retry.last_error[:MAX_ERROR_CHARACTERS],
    }
    return [*original.headers, *((HEADER_PREFIX + name, text.encode()) for name, text in said.items())]


def read_retry(record: ConsumedRecord) -> tuple[Original, Retry | None]:
    """Return the record as it was on ``audit.events``, and what its headers say of its waiting; None where it did not wait, or where
    somebody else has written it, and then it stands for itself. Pure."""
    kept = [(name, value) for name, value in record.headers if not name.startswith(HEADER_PREFIX)]
    said = {name.removeprefix(HEADER_PREFIX): value or b"" for name, value in record.headers if name.startswith(HEADER_PREFIX)}
    topic, partition, offset, retry = record.topic, record.partition, record.offset, None
    try:
        origin = said["origin"].decode().rsplit(":", 2)
        retry = Retry(
            int(said["round"]),
            int(said["step"]),
            int(said["attempts"]),
            datetime.fromtimestamp(int(said["due"]) / 1000, UTC),
            said["answer"].decode(),
            said["first-error"].decode(),
            said["last-error"].decode(),
        )
        topic, partition, offset = origin[0], int(origin[1]), int(origin[2])
    except (KeyError, IndexError, ValueError, OverflowError):
        retry = None
    return Original(topic, partition, offset, record.key, record.value, kept), retry


class Retries(Protocol):
    """Where mails wait."""

    async def write(self, topic: str, original: ConsumedRecord, retry: Retry, team: bytes) -> None:
        """Return once the record is durable, under its own key, or ``team`` where it has none. A mail that is written twice is sent once: its ledger row says what became of it."""


class KafkaRetries:
    """The retry topics on Kafka, acknowledged by all replicas; waits while Kafka is away."""

    def __init__(self, producer: Producing, waiting: Waiting) -> None:
        self._producer, self._waiting = producer, waiting

    async def write(self, topic: str, original: ConsumedRecord, retry: Retry, team: bytes) -> None:
        """Write a mail to ``topic`` (full name), and return once it is acknowledged."""
        key = original.key or team
        headers = retry_headers(original, retry)
        await self._waiting.until_available(
            lambda: self._producer.send(topic, original.value or b"", key, headers, timeout_seconds=_SEND_SECONDS)
        )
