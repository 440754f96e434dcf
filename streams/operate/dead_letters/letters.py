"""A record of ``dead.letters`` as operators see it: a dead letter, or the mark that an earlier decision left. Pure."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Self

from streams.errors import ConfigurationError
from streams.kafka.dead_letters import LEFT_OUT, REPLAYS, RESOLVES
from streams.kafka.records import Record
from streams.topics import DEAD_LETTERS

ACTION = "dlq-action"
ORIGIN = "dlq-origin"

MAX_REPLAYS = 3
"""A record that was replayed so often and still ends here is quarantined: it goes round again only when its place is named."""


class Action(StrEnum):
    """What an operator does with a dead letter."""

    REPLAYED = "replayed"
    DISCARDED = "discarded"


class Place(NamedTuple):
    """Where a record stands. ``topic`` is without the prefix of the broker's names."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}:{self.partition}:{self.offset}"

    @classmethod
    def parse(cls, text: str, topic_prefix: str = "") -> Self:
        """Return the place that ``text`` spells as TOPIC:PARTITION:OFFSET. Raises ConfigurationError."""
        topic, _, rest = text.partition(":")
        partition, _, offset = rest.partition(":")
        if not topic or not all(number.isascii() and number.isdigit() and len(number) < 19 for number in (partition, offset)):
            raise ConfigurationError(
                f"{text!r} is no place: write TOPIC:PARTITION:OFFSET, such as dead.letters:3:17, as `tierstream dlq list` shows it."
            )
        return cls(topic.removeprefix(topic_prefix), int(partition), int(offset))


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter. ``origin`` is where its record was read, None for one that was never on a topic, or does not say; ``time`` is when it was
    parked (Unix seconds), ``record`` the record of ``dead.letters``."""

    place: Place
    reason: str
    stage: str
    origin: Place | None
    time: float
    error: str
    replays: int
    left_out: bool
    record: Record

    @property
    def identity(self) -> str:
        """What it is the dead letter of. A stage that crashed before its commit writes the same one again: that is no other."""
        return str(self.place) if self.origin is None else f"{self.stage} {self.origin}"

    @property
    def key(self) -> str | None:
        """The record's key as text."""
        return None if self.record.key is None else self.record.key.decode("utf-8", "replace")

    @property
    def is_quarantined(self) -> bool:
        """Whether it was replayed so often that it is left alone."""
        return self.replays >= MAX_REPLAYS


@dataclass(frozen=True, slots=True)
class Mark:
    """What is kept of a decision: the dead letter that it closes, by its identity."""

    identity: str


def read(record: Record, topic_prefix: str) -> DeadLetter | Mark:
    """Return what a record of ``dead.letters`` is. Headers that are missing or unreadable give empty fields, never an error."""
    headers = {name: str(value, "utf-8", "replace") for name, value in record.headers if value is not None and name.startswith("dlq-")}
    if RESOLVES in headers:
        return Mark(headers.get(ORIGIN, headers[RESOLVES]))
    partition, offset = _number(headers.get("dlq-partition")), _number(headers.get("dlq-offset"))
    topic = headers.get("dlq-topic", "").removeprefix(topic_prefix)
    parked_ms = _number(headers.get("dlq-time"))
    return DeadLetter(
        place=Place(DEAD_LETTERS.name, record.partition, record.offset),
        reason=headers.get("dlq-reason", ""),
        stage=headers.get("dlq-stage", ""),
        origin=None if not topic or partition is None or offset is None else Place(topic, partition, offset),
        time=(record.timestamp if parked_ms is None else parked_ms) / 1000,
        error=headers.get("dlq-error", ""),
        replays=_number(headers.get(REPLAYS)) or 0,
        left_out=LEFT_OUT in headers,
        record=record,
    )


def mark_headers(letter: DeadLetter, action: Action) -> list[tuple[str, bytes | None]]:
    """Return the headers of the mark that closes ``letter``."""
    return [(RESOLVES, str(letter.place).encode()), (ORIGIN, letter.identity.encode()), (ACTION, action.value.encode())]


def _number(text: str | None) -> int | None:
    """Return a number that is not negative; -1 stands for a record that never had a place."""
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 19 else None
