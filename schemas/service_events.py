"""One event as a service sends it: checked against the contract of its kind, and put into its envelope.

``POST /v1/events`` and ``streams.publisher`` both make their records here, so that they can not differ.
"""

import math
import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import Annotated, Any, NamedTuple

import orjson
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema

from schemas.envelope import canonical_team_id
from schemas.kinds import SERVICE_KINDS, Kind
from schemas.team_events import MAX_CLOCK_SKEW_SECONDS, SERVICE_DATA, Data, Moment

MAX_EVENT_BYTES = 1_048_576
"""The largest event as it is stored; numbers such as ``1e300`` are longer there than in the request."""

MAX_DEPTH = 32
"""Levels of objects and lists in ``data``; serialisers give up at 254, and each stage puts an envelope round it."""

_WHOLE_NUMBERS = range(-(2**63), 2**64)
"""Those that every reader and writer of JSON on the way keeps."""

_BEYOND = "is a whole number beyond 64 bits"

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")

_PROBLEMS = {
    "missing": "is missing",
    "extra_forbidden": "is no field of an event; what the kind does not name goes into data",
    "int_type": "should be a number",
    "int_parsing": "should be a number",
    "dict_type": "should be an object",
    "string_pattern_mismatch": "does not have the right form",
}
"""Pydantic's error types whose own message would mislead or say too much."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one event. ``field`` is its path, such as ``data.email``; no value is ever repeated."""

    index: int
    field: str
    problem: str


class Invalid(Exception):
    """Not accepted, for the reasons in ``faults``."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__(f"{len(faults)} faults")
        self.faults = faults


def _service_kind(value: object) -> object:
    if not isinstance(value, str) or value not in SERVICE_KINDS:
        raise ValueError(f"is no kind that services send; use one of {', '.join(sorted(SERVICE_KINDS))}")
    return value


def _team_id(value: object) -> str:
    team_id = canonical_team_id(value)
    if team_id is None:
        raise ValueError("is no UUID of a team")
    return team_id


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("holds a character that can not be printed")
    return value


def _not_before_1970(value: datetime) -> datetime:
    if value.timestamp() < 0:
        raise ValueError("lies before 1970")
    return value


class IngestEvent(BaseModel):
    """One event as a service sends it; its ``data`` is checked by the model of its kind."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Annotated[Kind, BeforeValidator(_service_kind)]
    team_id: Annotated[str, BeforeValidator(_team_id), WithJsonSchema({"type": "string", "format": "uuid"})]
    id: Annotated[str, Field(strict=True, min_length=1, max_length=100), AfterValidator(_printable)] | None = None
    occurred_at: Annotated[Moment, AfterValidator(_not_before_1970)] | None = None
    data: dict[str, Any]


class Enveloped(NamedTuple):
    """An event ready to be produced. ``value`` is the CloudEvents envelope as JSON; the key is ``team_id``."""

    team_id: str
    id: str
    value: bytes


def enveloped(event: object, source: str, now: datetime) -> Enveloped:
    """Check one event and return it in its envelope; ``source`` becomes the CloudEvents source.

    An event without an id gets a random one; one without ``occurred_at`` happened ``now``. Raises Invalid.
    """
    if not isinstance(event, dict):
        raise Invalid([Fault(0, "", 'is no object; an event is {"kind", "team_id", "data"} with an optional "id" and "occurred_at"')])
    try:
        given = IngestEvent.model_validate(event)
    except ValidationError as error:
        raise Invalid(_faults(error)) from None
    try:
        data = SERVICE_DATA[given.kind].model_validate(given.data)
    except ValidationError as error:
        raise Invalid(_faults(error, "data.")) from None
    wrong = list(_wrong_numbers(given.data, data))
    if wrong:
        raise Invalid(wrong)
    occurred_at = given.occurred_at or now
    if (occurred_at - now).total_seconds() > MAX_CLOCK_SKEW_SECONDS:
        ahead = f"lies more than {MAX_CLOCK_SKEW_SECONDS} s ahead; send Unix seconds or RFC 3339, and check the clock"
        raise Invalid([Fault(0, "occurred_at", ahead)])
    unstorable = _unstorable(given.data, MAX_DEPTH)
    if unstorable:
        raise Invalid([Fault(0, "data", unstorable)])
    event_id = given.id or str(uuid.uuid4())
    value = _serialise(given, data, event_id, source, occurred_at)
    if len(value) > MAX_EVENT_BYTES:
        raise Invalid([_too_large()])
    return Enveloped(given.team_id, event_id, value)


def unchecked(event: dict[str, object], source: str, now: datetime) -> Enveloped:
    """Return an event as it is in an envelope, though ``enveloped`` refuses it; a stage will make a dead letter of it.

    Raises TypeError when it can not be encoded, Invalid when it is too large.
    """
    given_id, given_team, occurred_at = event.get("id"), event.get("team_id"), event.get("occurred_at")
    event_id = str(uuid.uuid4()) if given_id is None else str(given_id)
    team_id = canonical_team_id(given_team) or str(given_team)
    value = orjson.dumps(
        {
            "specversion": "1.0",
            "id": event_id,
            "source": source,
            "type": event.get("kind"),
            "subject": team_id,
            "time": now.astimezone(UTC) if occurred_at is None else occurred_at,
            "datacontenttype": "application/json",
            "correlationid": event_id,
            "data": event.get("data"),
        },
        option=orjson.OPT_NON_STR_KEYS,
    )
    if len(value) > MAX_EVENT_BYTES:
        raise Invalid([_too_large()])
    return Enveloped(team_id, event_id, value)


def _wrong_numbers(given: dict[str, Any], data: Data) -> Iterable[Fault]:
    """Name the fields whose number is none. The models are those that a stage reads the log with, and take booleans, and digits of any length."""
    for name in type(data).model_fields:
        value = getattr(data, name)
        if isinstance(given.get(name), bool):
            yield Fault(0, f"data.{name}", "should be a number")
        elif isinstance(value, int) and value not in _WHOLE_NUMBERS:
            yield Fault(0, f"data.{name}", _BEYOND)


def _too_large() -> Fault:
    return Fault(0, "data", f"takes more than {MAX_EVENT_BYTES} bytes when it is stored")


def _serialise(given: IngestEvent, data: Data, event_id: str, source: str, occurred_at: datetime) -> bytes:
    # No Envelope is built, for each of its fields has been checked already, and a caller waits meanwhile.
    return orjson.dumps(
        {
            "specversion": "1.0",
            "id": event_id,
            "source": source,
            "type": given.kind.value,
            "subject": given.team_id,
            "time": occurred_at.astimezone(UTC),
            "datacontenttype": "application/json",
            "correlationid": event_id,
            "data": data.model_dump(mode="json", exclude_unset=True, serialize_as_any=True),
        },
        option=orjson.OPT_UTC_Z,
    )


def _unstorable(value: object, depth: int) -> str | None:
    """Say why a stage further down could not store ``value``; None when it can."""
    if isinstance(value, str):
        return "holds a NUL character, which no row can store" if "\x00" in value else None
    if isinstance(value, int):
        return None if value in _WHOLE_NUMBERS else f"holds a number that {_BEYOND}"
    if isinstance(value, float):
        return None if math.isfinite(value) else "holds NaN or Infinity, which JSON does not have"
    if not isinstance(value, dict | list):
        return None
    if depth == 0:
        return f"is nested deeper than {MAX_DEPTH} levels"
    inner: Iterable[object] = chain(value, value.values()) if isinstance(value, dict) else value
    return next((problem for item in inner if (problem := _unstorable(item, depth - 1))), None)


def _faults(error: ValidationError, prefix: str = "") -> list[Fault]:
    """One fault for each wrong field. Only the field itself is named: what follows in the path is a type of ours."""
    problems: dict[str, str] = {}
    for detail in error.errors(include_url=False, include_context=False, include_input=False):
        name = str(detail["loc"][0])
        if detail["type"] == "extra_forbidden" and not _NAME.fullmatch(name):
            name = "(unnamed)"  # the sender's own text, which may be anything
        problems.setdefault(prefix + name, _PROBLEMS.get(detail["type"]) or detail["msg"].removeprefix("Value error, "))
    return [Fault(0, field, problem) for field, problem in problems.items()]
