"""``POST /v1/events``: services' own events, checked against the contract of their kind, all or none."""

import asyncio
import hashlib
import hmac
import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import Annotated, Any

import orjson
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from schemas.envelope import HEADERS, Envelope, canonical_team_id
from schemas.kinds import SERVICE_KINDS, Kind
from schemas.team_events import MAX_CLOCK_SKEW_SECONDS, SERVICE_DATA, Data, Moment
from streams.gateway.http import Answer, Refused, Request, refusal
from streams.gateway.webhooks import ACK_SECONDS, Clock, GatewayProducer
from streams.settings import Settings
from streams.topics import TEAM_EVENTS
from streams.transport.producer import Record

MAX_EVENTS = 1_000
MAX_EVENT_BYTES = 1_048_576
"""The largest event as it is stored; numbers such as ``1e300`` are longer there than in the request."""

MAX_INLINE_EVENTS = 50
"""Longer lists are checked in a thread, 50 µs an event, so that no webhook waits for them."""

MAX_DEPTH = 32
"""Levels of objects and lists in ``data``; serialisers give up at 254, and each stage puts an envelope round it."""

MAX_FAULTS = 20
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_HOW = "send one event, or a list of at most 1,000, as JSON"

_PROBLEMS = {
    "missing": "is missing",
    "extra_forbidden": "is no field of an event; what the kind does not name goes into data",
    "int_type": "should be a number",
    "int_parsing": "should be a number",
    "dict_type": "should be an object",
    "string_pattern_mismatch": "does not have the right form",
}
"""Pydantic's error types whose own message would mislead or say too much."""

_UNAUTHORISED = refusal(
    401,
    "The bearer token is missing or unknown; send Authorization: Bearer with a token of TIERSTREAM_INGEST_TOKENS.",
    ((b"www-authenticate", b"Bearer"),),
)


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one event. ``field`` is its path, such as ``data.email``; no value is ever repeated."""

    index: int
    field: str
    problem: str


class Invalid(Exception):
    """Nothing of a request is accepted, for the reasons in ``faults``."""

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
        raise ValueError("is no UUID")
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
    team_id: Annotated[str, BeforeValidator(_team_id)]
    id: Annotated[str, Field(strict=True, min_length=1, max_length=100), AfterValidator(_printable)] | None = None
    occurred_at: Annotated[Moment, AfterValidator(_not_before_1970)] | None = None
    data: dict[str, Any]


_DataEnvelope = Envelope[Data]


def read_events(body: bytes) -> list[object]:
    """Return the events of a request's body, unchecked. Raises Invalid."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise Invalid([Fault(0, "", f"is not valid JSON; {_HOW}")]) from None
    events = document if isinstance(document, list) else [document]
    if len(events) > MAX_EVENTS:
        raise Invalid([Fault(MAX_EVENTS, "", f"is one too many; {_HOW}")])
    return events


def accept(events: list[object], client: str, now: datetime, topic: str) -> tuple[list[str], list[Record]]:
    """Check ``events`` of ``client`` and return their ids and the records for ``topic``, both in their order.

    An event without an id gets a random one; one without ``occurred_at`` happened ``now``. Raises Invalid when any event is
    wrong, with at most ``MAX_FAULTS`` faults.
    """
    faults: list[Fault] = []
    ids: list[str] = []
    records: list[Record] = []
    seen: dict[tuple[str, str], bytes] = {}
    for index, event in enumerate(events):
        try:
            team_id, event_id, value = _enveloped(event, client, now)
        except Invalid as invalid:
            faults += (Fault(index, fault.field, fault.problem) for fault in invalid.faults)
            if len(faults) >= MAX_FAULTS:
                break
            continue
        if seen.setdefault((team_id, event_id), value) != value:
            faults.append(Fault(index, "id", "is that of an earlier event of this list with other content"))
        ids.append(event_id)
        records.append(Record(topic, value, team_id.encode(), HEADERS))
    if faults:
        raise Invalid(faults[:MAX_FAULTS])
    return ids, records


def _enveloped(event: object, client: str, now: datetime) -> tuple[str, str, bytes]:
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
    occurred_at = given.occurred_at or now
    if (occurred_at - now).total_seconds() > MAX_CLOCK_SKEW_SECONDS:
        ahead = f"lies more than {MAX_CLOCK_SKEW_SECONDS} s ahead; send Unix seconds or RFC 3339, and check the clock"
        raise Invalid([Fault(0, "occurred_at", ahead)])
    unstorable = _unstorable(given.data, MAX_DEPTH)
    if unstorable:
        raise Invalid([Fault(0, "data", unstorable)])
    event_id = given.id or str(uuid.uuid4())
    value = _serialise(given, data, event_id, client, occurred_at)
    if len(value) > MAX_EVENT_BYTES:
        raise Invalid([Fault(0, "data", f"takes more than {MAX_EVENT_BYTES} bytes when it is stored")])
    return given.team_id, event_id, value


def _serialise(given: IngestEvent, data: Data, event_id: str, client: str, occurred_at: datetime) -> bytes:
    envelope = _DataEnvelope(
        specversion="1.0",
        id=event_id,
        source=f"tierstream/ingest/{client}",
        type=given.kind.value,
        subject=given.team_id,
        time=occurred_at.astimezone(UTC),
        datacontenttype="application/json",
        correlationid=event_id,
        data=data,
    )
    return orjson.dumps(envelope.model_dump(mode="json", exclude_unset=True, serialize_as_any=True))


def _unstorable(value: object, depth: int) -> str | None:
    """Say why a stage further down could not store ``value``; None when it can."""
    if isinstance(value, str):
        return "holds a NUL character, which no row can store" if "\x00" in value else None
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


class IngestRoute:
    """``POST /v1/events``. 202 means: Kafka has all of the request's events. After a 503 send them again with the same ids."""

    def __init__(self, settings: Settings, producer: GatewayProducer, clock: Clock) -> None:
        self._clients: Mapping[bytes, str] = {_digest(token.encode()): client for token, client in settings.ingest_clients.items()}
        self._producer = producer
        self._clock = clock
        self._topic = TEAM_EVENTS.full_name(settings)

    async def __call__(self, request: Request) -> Answer:
        client = self._client(request.headers.get(b"authorization", b""))
        if client is None:
            raise Refused(_UNAUTHORISED)
        body = await request.body()
        now = datetime.fromtimestamp(self._clock(), UTC)
        try:
            events = read_events(body)
            if len(events) > MAX_INLINE_EVENTS:
                ids, records = await asyncio.to_thread(accept, events, client, now, self._topic)
            else:
                ids, records = accept(events, client, now, self._topic)
        except Invalid as invalid:
            raise Refused(_unprocessable(invalid.faults)) from None
        await self._producer.send_many(records, timeout_seconds=ACK_SECONDS)
        return Answer(202, {"ids": ids})

    def _client(self, authorization: bytes) -> str | None:
        """The client whose token this is. Compares digests, all of them, so that time tells nothing about any token."""
        scheme, _, token = authorization.partition(b" ")
        digest = _digest(token.strip())
        found = None
        for known, client in self._clients.items():
            if hmac.compare_digest(known, digest):
                found = client
        return found if scheme.lower() == b"bearer" else None


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _unprocessable(faults: list[Fault]) -> Answer:
    errors = [{"index": fault.index, "field": fault.field, "problem": fault.problem} for fault in faults]
    return Answer(422, {"error": "Nothing was accepted; correct what errors names and send the request again.", "errors": errors})
