"""What ``tierstream dlq list`` and ``show`` print of dead letters. Pure, but for the temporary file that a long list waits in."""

import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import orjson

from schemas.serialize import rfc3339
from streams.logging import mask_text
from streams.operate.dead_letters.letters import DeadLetter

Json = dict[str, object]

_IN_MEMORY_BYTES = 8_388_608
"""So much of a list stays in memory before it goes to the disk."""


@dataclass(slots=True)
class Group:
    """The dead letters of one reason; times are Unix seconds."""

    count: int = 0
    oldest: float = float("inf")
    newest: float = 0.0


@dataclass
class Histogram:
    """The dead letters by reason, the commonest first."""

    groups: dict[str, Group] = field(default_factory=dict)

    def add(self, letter: DeadLetter) -> None:
        """Count ``letter``."""
        group = self.groups.setdefault(letter.reason, Group())
        group.count += 1
        group.oldest, group.newest = min(group.oldest, letter.time), max(group.newest, letter.time)

    @property
    def total(self) -> int:
        """How many there are."""
        return sum(group.count for group in self.groups.values())

    def by_count(self) -> list[tuple[str, Group]]:
        """Return reasons and groups, the commonest first."""
        return sorted(self.groups.items(), key=lambda entry: (-entry[1].count, entry[0]))


def summary(letter: DeadLetter) -> Json:
    """Return a dead letter as ``--json`` lists it, without its record. Addresses are masked."""
    return {
        "at": str(letter.place),
        "of": None if letter.origin is None else str(letter.origin),
        "reason": letter.reason,
        "stage": letter.stage,
        "key": None if letter.key is None else mask_text(letter.key),
        "time": rfc3339(letter.time),
        "error": mask_text(letter.error),
        "replays": letter.replays,
        "quarantined": letter.is_quarantined,
    }


def columns(letters: Sequence[DeadLetter]) -> list[str]:
    """Return a head and a line for each dead letter: place, reason, stage, key and replays below each other, whole however wide that is."""
    rows = [("at", "reason", "stage", "key", "replays")]
    for letter in letters:
        replays = f"{letter.replays} (quarantined)" if letter.is_quarantined else str(letter.replays)
        key = "-" if letter.key is None else mask_text(letter.key)
        rows.append((str(letter.place), letter.reason or "-", letter.stage or "-", key, replays))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def listed(letters: Iterable[DeadLetter]) -> Iterator[str]:
    """Yield the JSON of a list, in parts: the counts stand in front, and are known at its end."""
    histogram = Histogram()
    with tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES, "w+", encoding="utf-8") as waiting:
        for letter in letters:
            waiting.write((",\n  " if histogram.groups else "\n  ") + json.dumps(summary(letter)))
            histogram.add(letter)
        by_reason = {reason: group.count for reason, group in histogram.by_count()}
        yield f'{{"total": {histogram.total}, "by_reason": {json.dumps(by_reason)}, "dead_letters": ['
        waiting.seek(0)
        yield from waiting
        yield "]}\n"


def whole(letter: DeadLetter, *, raw: bool) -> Json:
    """Return a dead letter with its headers, key and value: a value that is JSON as such, another as text. ``raw`` shows addresses too."""
    value = letter.record.value
    try:
        content: object = None if value is None else orjson.loads(value)
    except orjson.JSONDecodeError:
        content = str(value or b"", "utf-8", "backslashreplace")
    headers = {name: None if header is None else str(header, "utf-8", "backslashreplace") for name, header in letter.record.headers}
    shown: Json = {**summary(letter), "headers": headers, "key": letter.key, "value": content}
    return shown if raw else {name: masked(each) for name, each in shown.items()}


def masked(value: object) -> object:
    """Return a JSON value with the addresses in its texts masked, however deep."""
    if isinstance(value, dict):
        return {mask_text(str(name)): masked(each) for name, each in value.items()}
    if isinstance(value, list):
        return [masked(each) for each in value]
    return mask_text(value) if isinstance(value, str) else value
