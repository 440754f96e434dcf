"""The lines of a file of tiers: CSV with a header, or a JSON object a line. Each is one team, or says what is wrong with it, each in a sentence.

A sentence names the column and never repeats a value, for it may be an address.
"""

import csv
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Final

import orjson
from pydantic import TypeAdapter, ValidationError

from schemas.envelope import canonical_team_id
from schemas.team_events import MAX_CLOCK_SKEW_SECONDS, Moment
from schemas.tiers import LABELS, parse_tier
from streams.errors import ConfigurationError

REQUIRED: Final = ("team_id", "tier")
COLUMNS: Final = (*REQUIRED, "subscription_id", "plan_id", "email", "occurred_at")

MAX_LINE_BYTES: Final = 1_048_576
MAX_ID_CHARACTERS: Final = 100
MAX_EMAIL_CHARACTERS: Final = 254

_JSON_SUFFIXES: Final = (".jsonl", ".ndjson", ".json")
_BOM: Final = b"\xef\xbb\xbf"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_NUMBER: Final = re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?")
_EMAIL: Final = re.compile(r"[^@\s\x00]+@[^@\s\x00]+")
_moment: Final = TypeAdapter(Moment)


@dataclass(frozen=True, slots=True)
class Line:
    """What one line says. ``at`` is in Unix microseconds, None where the line has no ``occurred_at``."""

    number: int
    team_id: str
    tier: str
    subscription_id: str | None = None
    plan_id: str | None = None
    email: str | None = None
    at: int | None = None


@dataclass(frozen=True, slots=True)
class Bad:
    """A line that can not be taken, and why: all that is wrong with it, joined by semicolons."""

    number: int
    problem: str


class _Problem(ValueError):
    """What is wrong with a line."""


def read_lines(path: Path, now: float) -> Iterator[Line | Bad]:
    """Yield each line of the file that is not blank, by its number. ``now`` is in Unix seconds: no fact may lie ahead of it.

    Raises ConfigurationError when the file can not be read, its header does not fit, or a line has no end.
    """
    try:
        with path.open("rb") as file:
            source = _Source(file, path)
            yield from _json_lines(source, now) if _is_json(path, source) else _csv_lines(source, now)
    except OSError as error:
        raise ConfigurationError(f"{path} can not be read: {error.strerror or error}.") from error


class _Source:
    """The file's lines, as they are asked for. ``number`` is that of the last one."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file = file
        self.path = path
        self.number = 0
        self._first = self._read().removeprefix(_BOM)

    @property
    def first(self) -> bytes:
        """The first line."""
        return self._first

    def lines(self) -> Iterator[bytes]:
        line = self._first
        while line:
            self.number += 1
            yield line
            line = self._read()

    def texts(self) -> Iterator[str]:
        """The lines as text; a byte that is no UTF-8 is a surrogate in it."""
        return (line.decode("utf-8", "surrogateescape") for line in self.lines())

    def _read(self) -> bytes:
        line = self._file.readline(MAX_LINE_BYTES + 1)
        if len(line) > MAX_LINE_BYTES:
            raise ConfigurationError(f"{self.path}: line {self.number + 1} is longer than {MAX_LINE_BYTES} bytes; write one team a line.")
        return line


def _is_json(path: Path, source: _Source) -> bool:
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return False
    return suffix in _JSON_SUFFIXES or source.first.lstrip()[:1] in (b"{", b"[")


def _json_lines(source: _Source, now: float) -> Iterator[Line | Bad]:
    if not source.first.strip() or source.first.lstrip()[:1] == b"[":
        raise ConfigurationError(f"{source.path} holds no line with a JSON object; write one object a line, each with {_named(REQUIRED)}.")
    for raw in source.lines():
        if raw.isspace():
            continue
        try:
            found = orjson.loads(raw)
        except orjson.JSONDecodeError:
            yield Bad(source.number, "is no JSON object")
            continue
        if not isinstance(found, dict):
            yield Bad(source.number, "is no JSON object")
            continue
        yield _line(source.number, found, now)


def _csv_lines(source: _Source, now: float) -> Iterator[Line | Bad]:
    rows = csv.reader(source.texts(), strict=True)
    header = _header(source, rows)
    while True:
        number = source.number + 1
        try:
            row = next(rows, None)
        except csv.Error as error:
            yield Bad(number, f"is no CSV: {error}")
            continue
        if row is None:
            return
        if not any(map(str.strip, row)):
            continue
        if len(row) != len(header):
            yield Bad(number, f"has {len(row)} values, and the header has {len(header)} columns")
            continue
        yield _line(number, dict(zip(header, row, strict=True)), now)


def _header(source: _Source, rows: Iterator[list[str]]) -> list[str]:
    where = f"{source.path}: the header"
    try:
        header = [name.strip().lower() for name in next(rows, [])]
    except csv.Error as error:
        raise ConfigurationError(f"{where} is no CSV: {error}.") from error
    missing = [name for name in REQUIRED if name not in header]
    if missing:
        raise ConfigurationError(f"{where} lacks {_named(missing)}; its columns are {_named(COLUMNS)}, with commas between.")
    unknown = [number for number, name in enumerate(header, 1) if name not in COLUMNS]
    if unknown:
        raise ConfigurationError(f"{where} has another name in column {unknown[0]} than {_named(COLUMNS)}; rename the column or remove it.")
    twice = [name for name in COLUMNS if header.count(name) > 1]
    if twice:
        raise ConfigurationError(f"{where} has {twice[0]} twice; remove one of them.")
    return header


def _named(names: tuple[str, ...] | list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def _line(number: int, found: Mapping[str, object], now: float) -> Line | Bad:
    try:
        if not found.keys() <= _KNOWN:
            raise _Problem("has another key")
        values = {name: _value(name, value) for name, value in found.items()}
        team_id, tier = (_required(name, values.get(name)) for name in REQUIRED)
        return Line(
            number,
            team_id,
            tier,
            _optional("subscription_id", values.get("subscription_id")),
            _optional("plan_id", values.get("plan_id")),
            _optional("email", values.get("email")),
            _time(values.get("occurred_at"), now),
        )
    except _Problem:
        return Bad(number, "; ".join(_problems(found, now)))


def _problems(found: Mapping[str, object], now: float) -> Iterator[str]:
    """Yield everything that is wrong with a line, the columns in their order."""
    if not found.keys() <= _KNOWN:
        yield f"has another key than {_named(COLUMNS)}"
    for name in COLUMNS:
        try:
            value = _value(name, found.get(name))
            if name in REQUIRED:
                _required(name, value)
            elif name == "occurred_at":
                _time(value, now)
            else:
                _optional(name, value)
        except _Problem as problem:
            yield str(problem)


_KNOWN: Final = frozenset(COLUMNS)


def _value(name: str, value: object) -> str | None:
    """Return a value as text, trimmed; None for one that is empty."""
    if value is None:
        return None
    if name == "occurred_at" and type(value) in (int, float):
        return repr(value)
    if not isinstance(value, str):
        raise _Problem(f"{name}: is no text")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _Problem(f"{name}: is no UTF-8") from None
    return value.strip() or None


def _required(name: str, value: str | None) -> str:
    if value is None:
        raise _Problem(f"{name}: is missing")
    return _READ[name](value)


def _optional(name: str, value: str | None) -> str | None:
    return None if value is None else _READ[name](value)


def _team(value: str) -> str:
    team_id = canonical_team_id(value)
    if team_id is None:
        raise _Problem("team_id: is no UUID")
    return team_id


def _tier(value: str) -> str:
    tier = parse_tier(value)
    if tier is None:
        raise _Problem(f"tier: is none; use one of {', '.join(LABELS)}")
    return tier.label


def _identifier(name: str) -> Callable[[str], str]:
    def read(value: str) -> str:
        if len(value) > MAX_ID_CHARACTERS or not value.isascii() or not value.isprintable():
            raise _Problem(f"{name}: is no id of Razorpay's (up to {MAX_ID_CHARACTERS} printable ASCII characters)")
        return value

    return read


def _email(value: str) -> str:
    if len(value) > MAX_EMAIL_CHARACTERS or not _EMAIL.fullmatch(value):
        raise _Problem("email: is no address")
    return value


_READ: Final[Mapping[str, Callable[[str], str]]] = {
    "team_id": _team,
    "tier": _tier,
    "subscription_id": _identifier("subscription_id"),
    "plan_id": _identifier("plan_id"),
    "email": _email,
}


def _time(value: str | None, now: float) -> int | None:
    if value is None:
        return None
    try:
        moment = _moment.validate_python(float(value) if _NUMBER.fullmatch(value) else value)
    except ValidationError:
        raise _Problem("occurred_at: is no time; write RFC 3339 with an offset, or Unix seconds") from None
    at = (moment - _EPOCH) // _MICROSECOND
    if at < 0:
        raise _Problem("occurred_at: lies before 1970")
    if at > (now + MAX_CLOCK_SKEW_SECONDS) * 1_000_000:
        raise _Problem("occurred_at: lies in the future")
    return at
