"""``POST /v1/events``: services' own events, checked against the contract of their kind, all or none."""

import asyncio
import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime

import orjson

from schemas.envelope import HEADERS
from schemas.service_events import Fault, Invalid, enveloped
from streams.gateway.http import OPTIONAL_WHITESPACE, Answer, Refused, Request, refusal
from streams.gateway.webhooks import ACK_SECONDS, Clock, GatewayProducer
from streams.kafka.producer import Record
from streams.settings import Settings
from streams.topics import TEAM_EVENTS

MAX_EVENTS = 1_000
MAX_INLINE_EVENTS = 50
"""Longer lists are checked in a thread, 50 µs an event, so that no webhook waits for them."""

MAX_FAULTS = 20
_HOW = "send one event, or a list of at most 1,000, as JSON"

_UNAUTHORISED = refusal(
    401,
    "The bearer token is missing or unknown; send Authorization: Bearer with a token of TIERSTREAM_INGEST_TOKENS.",
    ((b"www-authenticate", b"Bearer"),),
)


def read_events(body: bytes) -> list[object]:
    """Return the events of a request's body, unchecked. Raises Invalid."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise Invalid(
            [Fault(0, "", f"is not valid JSON, or holds a lone surrogate, a number beyond a double or too many levels; {_HOW}")]
        ) from None
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
    source = f"tierstream/ingest/{client}"
    for index, event in enumerate(events):
        try:
            team_id, event_id, value = enveloped(event, source, now)
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


class IngestRoute:
    """``POST /v1/events``. 202 means: Kafka has all of the request's events. After a 503 send them again with the same ids."""

    def __init__(self, settings: Settings, producer: GatewayProducer, clock: Clock) -> None:
        self._clients: Mapping[bytes, str] = {_digest(token.encode()): client for token, client in settings.ingest_clients.items()}
        self._producer = producer
        self._clock = clock
        self._topic = TEAM_EVENTS.full_name(settings)

    async def __call__(self, request: Request) -> Answer:
        client = self._client(request.header(b"authorization") or b"")
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
        """The client whose token this is. Compares digests, all of them, so that the time taken reveals nothing about any token."""
        scheme, _, token = authorization.partition(b" ")
        digest = _digest(token.strip(OPTIONAL_WHITESPACE))
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
