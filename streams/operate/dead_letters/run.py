"""Carrying a plan out, chunk by chunk. What a cut-off leaves is finished by the same command: what is committed is closed."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from streams.errors import RecordTooLarge
from streams.operate.dead_letters.letters import DeadLetter
from streams.operate.dead_letters.open_letters import OpenLetters
from streams.operate.dead_letters.outcomes import Decree, outcome
from streams.operate.dead_letters.plan import Item, Plan, chunks
from streams.operate.dead_letters.writer import OutcomeWriter
from streams.settings import Settings

CHUNK = 200
"""Records in one transaction: what a cut-off undoes."""

FETCHED = 2_000
"""Records that are read at once, and what memory holds: each reading asks the broker anew and fetches ahead in vain."""

TOO_LARGE = "A record is larger than its topic takes, so it stays, and with it the later ones of its key: see `tierstream topics check`."
ELSEWHERE = "Another command has decided on it meanwhile."


@dataclass
class Progress:
    """How far it has come: dead letters that are done, and those that are left with the reason in a sentence."""

    done: int = 0
    left: Counter[str] = field(default_factory=Counter)


def carry_out(
    settings: Settings,
    plan: Plan,
    letters: OpenLetters,
    writer: OutcomeWriter,
    decree: Decree,
    *,
    rate: float | None = None,
    stopped: Callable[[float], bool],
    on_progress: Callable[[int], object] = lambda done: None,
) -> Progress:
    """Carry ``plan`` out and return what was done. ``rate`` is records per second at most.

    ``stopped`` waits so many seconds, and says whether to go no further; it is asked before each chunk. ``letters`` must have caught up
    since the writer was entered. Raises KafkaUnavailable, Fenced: then the chunk that failed changes nothing.
    """
    return _Run(settings, letters, writer, decree, on_progress).all(plan, rate, stopped)


class _Run:
    def __init__(
        self, settings: Settings, letters: OpenLetters, writer: OutcomeWriter, decree: Decree, on_progress: Callable[[int], object]
    ) -> None:
        self._settings, self._letters, self._writer, self._decree, self._on_progress = settings, letters, writer, decree, on_progress
        self._progress = Progress()
        self._stuck: set[tuple[str, bytes]] = set()
        """Topic and key of records that were not taken: later ones of the key must not overtake them."""

    def all(self, plan: Plan, rate: float | None, stopped: Callable[[float], bool]) -> Progress:
        began, tried = time.monotonic(), 0
        size = CHUNK if rate is None else max(1, min(CHUNK, int(rate)))
        for fetched in chunks(plan.items, FETCHED):
            pairs = self._fetch(fetched)
            for start in range(0, len(pairs), size):
                if stopped(0.0 if rate is None else max(0.0, began + tried / rate - time.monotonic())):
                    return self._progress
                chunk = pairs[start : start + size]
                tried += len(chunk)
                self._write(chunk)
                self._on_progress(self._progress.done)
        return self._progress

    def _fetch(self, items: Sequence[Item]) -> list[tuple[Item, DeadLetter]]:
        """Return the items that are still open, each with its dead letter."""
        still_open = [item for item in items if self._letters.is_open(item.identity)]
        self._progress.left[ELSEWHERE] += sum(item.count for item in items) - sum(item.count for item in still_open)
        found = self._letters.fetch(items[0].place.partition, [item.place.offset for item in still_open])
        return [(item, found[item.place.offset]) for item in still_open]

    def _write(self, pairs: Sequence[tuple[Item, DeadLetter]]) -> None:
        pairs = [(item, letter) for item, letter in pairs if not self._is_stuck(item, letter)]
        if not pairs:
            return
        try:
            self._writer.commit([each for item, letter in pairs for each in outcome(self._settings, letter, item, self._decree)])
        except RecordTooLarge:
            if len(pairs) > 1:
                for pair in pairs:
                    self._write([pair])
                return
            item, letter = pairs[0]
            self._progress.left[TOO_LARGE] += item.count
            if letter.record.key is not None:
                self._stuck.add((item.source.topic, letter.record.key))
            return
        self._progress.done += sum(item.count for item, _ in pairs)

    def _is_stuck(self, item: Item, letter: DeadLetter) -> bool:
        is_stuck = letter.record.key is not None and (item.source.topic, letter.record.key) in self._stuck
        self._progress.left[TOO_LARGE] += item.count * is_stuck
        return is_stuck
