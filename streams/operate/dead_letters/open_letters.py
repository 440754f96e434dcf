"""The open dead letters, read from the log: those that no mark closes, each once."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from streams.kafka.records import Record
from streams.operate.dead_letters.letters import DeadLetter, Mark, Place, read
from streams.operate.logs import Bounds
from streams.settings import Settings
from streams.topics import DEAD_LETTERS, Topic

_MAX_GAP = 2_000
"""Records between two wanted ones that are rather read past than asked for anew."""


class DecidedLogs(Protocol):
    """The topics. ``KafkaLogs``, or a test's own."""

    def decided_bounds(self, topic: Topic) -> Mapping[int, Bounds]:
        """Return how far each partition reaches, once every transaction that was open on it is decided."""

    def read(self, topic: Topic, partition: int, first: int = 0, end: int | None = None) -> Iterator[Record]:
        """Yield the committed records from ``first`` up to, but not with, ``end``."""


class OpenLetters:
    """The dead letters up to the first ``catch_up`` which no mark closes up to the last one. Holds some 100 bytes of each mark, and of each dead
    letter while they are iterated, and no record."""

    def __init__(self, settings: Settings, logs: DecidedLogs) -> None:
        self._prefix, self._logs = settings.topic_prefix, logs
        self._bounds: Mapping[int, Bounds] | None = None
        self._marked_up_to: dict[int, int] = {}
        self._closed: set[str] = set()

    def catch_up(self) -> None:
        """Read the marks up to the end as it is now. Raises KafkaUnavailable."""
        bounds = self._logs.decided_bounds(DEAD_LETTERS)
        for number, found in bounds.items():
            for record in self._logs.read(DEAD_LETTERS, number, self._marked_up_to.get(number, found.first), found.end):
                if not record.value:  # a mark has none, and to parse the headers of all the others takes longer than to read them
                    entry = read(record, self._prefix)
                    if isinstance(entry, Mark):
                        self._closed.add(entry.identity)
            self._marked_up_to[number] = found.end
        if self._bounds is None:
            self._bounds = bounds

    def is_open(self, identity: str) -> bool:
        """Whether no mark closes it."""
        return identity not in self._closed

    def is_closed_at(self, place: Place) -> bool:
        """Whether a mark closes what stands at ``place``, or the dead letter of a record that stands there. Raises KafkaUnavailable."""
        if any(identity.endswith(f" {place}") for identity in self._closed):
            return True
        bounds = (self._bounds or {}).get(place.partition)
        if place.topic != DEAD_LETTERS.name or bounds is None or not bounds.first <= place.offset < bounds.end:
            return False
        entries = (read(record, self._prefix) for record in self._logs.read(DEAD_LETTERS, place.partition, place.offset, place.offset + 1))
        return any(isinstance(entry, DeadLetter) and not self.is_open(entry.identity) for entry in entries)

    def __iter__(self) -> Iterator[DeadLetter]:
        """Yield them, partition by partition in the order of their writing. Raises KafkaUnavailable."""
        seen: set[str] = set()
        for number, found in (self._bounds or {}).items():
            for record in self._logs.read(DEAD_LETTERS, number, *found):
                entry = read(record, self._prefix)
                if isinstance(entry, DeadLetter) and self.is_open(entry.identity) and entry.identity not in seen:
                    seen.add(entry.identity)
                    yield entry

    def fetch(self, partition: int, offsets: Sequence[int]) -> dict[int, DeadLetter]:
        """Return the dead letters at these offsets of one partition. Raises KafkaUnavailable."""
        found: dict[int, DeadLetter] = {}
        for stretch in _stretches(sorted(offsets)):
            wanted = set(stretch)
            for record in self._logs.read(DEAD_LETTERS, partition, stretch[0], stretch[-1] + 1):
                if record.offset in wanted:
                    entry = read(record, self._prefix)
                    assert isinstance(entry, DeadLetter)  # it was one when it was planned, and a log does not change
                    found[record.offset] = entry
        return found


def _stretches(offsets: Sequence[int]) -> Iterator[Sequence[int]]:
    """Split ascending ``offsets`` where so many others lie between two of them that they are not read past."""
    start = 0
    for end in range(1, len(offsets) + 1):
        if end == len(offsets) or offsets[end] - offsets[end - 1] > _MAX_GAP:
            yield offsets[start:end]
            start = end
