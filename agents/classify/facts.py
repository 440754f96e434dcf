"""Reading ``team.events``: from a record's bytes to one typed event, or one sentence that says what is wrong with it.

Subscription facts, which normalise writes and which are nearly all of the topic, are read with a narrow msgspec model;
whatever that does not take is read again with the pydantic models of the contract, which decide.
"""

import json
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, cast

import msgspec
import orjson
from pydantic import BaseModel, ValidationError

from agents.classify.service_ids import content_of
from schemas.envelope import Envelope, canonical_team_id
from schemas.json_text import depth
from schemas.kinds import SERVICE_KINDS, Kind
from schemas.reasons import Reason
from schemas.team_events import (
    EVENT_RANK,
    IMPORTED,
    MAX_CLOCK_SKEW_SECONDS,
    MAX_COUNT,
    MAX_SECONDS,
    SERVICE_DATA,
    SERVICE_RANK,
    Data,
    ImportedTier,
    SubscriptionEvent,
    SubscriptionFact,
    Version,
    starts,
)
from schemas.tiers import Tier, parse_tier
from schemas.validation import describe


class Unreadable(ValueError):
    """A record that can not be decided on; ``reason`` is its outcome, the message the sentence for an operator."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class BillingFact(msgspec.Struct, frozen=True, gc=False):
    """``SubscriptionFact`` as the fast path reads it; same fields, same meaning."""

    event_id: str
    subscription_id: str
    occurred_at: Annotated[int, msgspec.Meta(ge=0, le=MAX_SECONDS)]
    time_source: Literal["created_at", "entities", "receipt", "due"]
    plan_id: str | None = None
    tier: str | None = None
    paid_count: Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)] = 0
    status: str | None = None
    has_scheduled_changes: bool = False
    current_end: Annotated[int, msgspec.Meta(ge=0, le=MAX_SECONDS)] | None = None
    email: str | None = None
    amount: Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)] | None = None
    currency: str | None = None
    payment_id: str | None = None
    adopt: bool = False
    grace_ends_at: Annotated[int, msgspec.Meta(ge=0, le=MAX_SECONDS)] | None = None
    grace_reminders_at: tuple[Annotated[int, msgspec.Meta(ge=0, le=MAX_SECONDS)], ...] = ()


class BillingEnvelope(msgspec.Struct, frozen=True, gc=False):
    """The envelope of a subscription fact, as normalise writes it."""

    specversion: Literal["1.0"]
    id: str
    source: str
    type: SubscriptionEvent
    time: str
    data: BillingFact
    subject: str | None = None
    correlationid: str | None = None


class _Head(msgspec.Struct, frozen=True, gc=False):
    specversion: Literal["1.0"]
    id: str
    source: str
    type: str
    time: str
    data: msgspec.Raw
    subject: str | None = None
    correlationid: str | None = None
    datacontenttype: Literal["application/json"] = "application/json"
    dataschema: str | None = None
    causationid: str | None = None


class TeamEvent(msgspec.Struct, frozen=True, gc=False):
    """One event about one team. ``occurred_at`` is in Unix seconds; ``version`` orders it among the team's facts."""

    id: str
    source: str
    team_id: str
    correlation_id: str
    occurred_at: int
    version: Version
    body: "Billing | Service | Imported"


class Billing(msgspec.Struct, frozen=True, gc=False):
    """A subscription fact; ``tier`` is None where its plan is unknown."""

    event: SubscriptionEvent
    fact: BillingFact
    tier: Tier | None


class Service(msgspec.Struct, frozen=True):
    """An event that a service sent; ``content`` is a digest of what it says."""

    kind: Kind
    data: Data
    content: bytes


class Imported(msgspec.Struct, frozen=True):
    """A tier known from elsewhere; ``content`` is a digest of what it says."""

    data: ImportedTier
    content: bytes


_BILLING: dict[str, SubscriptionEvent] = {event.value: event for event in SubscriptionEvent}
_SERVICE: dict[str, Kind] = {kind.value: kind for kind in SERVICE_KINDS}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_MAX_INT = 2**63 - 1

MAX_DEPTH = 200
"""Levels of an envelope that are read, as many as pydantic takes. msgspec takes some 1,000, calls included: another number in each process."""

_SHALLOW_BYTES = 1_000
"""What is shorter is not looked at for its depth: msgspec reads whatever it may hold, at any depth of calls."""

_DATA: dict[str | None, type[Data]] = {None: ImportedTier}
_DATA.update({kind.value: model for kind, model in SERVICE_DATA.items()})
_ENVELOPES: dict[Kind | None, type[BaseModel]] = {None: Envelope[ImportedTier]}
_ENVELOPES.update({kind: cast("type[BaseModel]", Envelope.__class_getitem__(model)) for kind, model in SERVICE_DATA.items()})
TIER_OF_LABEL: dict[str | None, Tier] = {tier.label: tier for tier in Tier}
"""Tiers by the one spelling that normalise writes; other spellings take the slow way."""

_read_billing = msgspec.json.Decoder(BillingEnvelope).decode
_read_head = msgspec.json.Decoder(_Head).decode
_read_fact = msgspec.json.Decoder(BillingFact).decode


def read_team_event(value: bytes | None, received_at: int) -> TeamEvent:
    """Return the event that ``value`` holds; ``received_at`` is when the broker appended the record, in Unix seconds.

    Raises Unreadable: malformed, unknown kind or team or tier, or a time too far ahead of ``received_at``.
    """
    if value is None:
        raise Unreadable(Reason.MALFORMED, "The record has no value; team.events takes CloudEvents envelopes only.")
    billing = read_billing_envelope(value)
    if billing is None:
        return _read_any(value, received_at)
    fact = billing.data
    tier = TIER_OF_LABEL.get(fact.tier)
    if tier is None and fact.tier is not None:
        return _read_any(value, received_at)
    return _billing_event(billing, billing.type, fact, tier, _team_of(billing.subject), received_at)


def read_billing_envelope(value: bytes) -> BillingEnvelope | None:
    """Return the subscription fact that ``value`` holds, or None when it holds another event, or one that has to be looked at closer."""
    if len(value) > _SHALLOW_BYTES and _is_too_deep(value):
        return None
    try:
        envelope = _read_billing(value)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return envelope if 1 <= len(envelope.id) <= 100 and envelope.source else None


def _is_too_deep(value: bytes) -> bool:
    return value.count(b"{") + value.count(b"[") > MAX_DEPTH and depth(value) > MAX_DEPTH


def _team_of(subject: str | None) -> str:
    team_id = canonical_team_id(subject)
    if team_id is None:
        raise Unreadable(Reason.UNKNOWN_TEAM, "The envelope's subject is no team id (a UUID).")
    return team_id


def _billing_event(
    head: "BillingEnvelope | _Head", event: SubscriptionEvent, fact: BillingFact, tier: Tier | None, team_id: str, received_at: int
) -> TeamEvent:
    seconds = fact.occurred_at
    if event is not SubscriptionEvent.DUE:
        # That one is by our own clock. The broker's may lag behind it, and what is refused would not come again.
        _check_time(seconds, received_at)
    if tier is None and starts(event, fact.paid_count, fact.status, fact.has_scheduled_changes):
        raise Unreadable(Reason.UNKNOWN_PLAN, f"{event.value} needs the tier of its plan, and the fact has none.")
    version = (seconds, EVENT_RANK[event], fact.paid_count, fact.event_id)
    return TeamEvent(head.id, head.source, team_id, head.correlationid or head.id, seconds, version, Billing(event, fact, tier))


def _read_any(value: bytes, received_at: int) -> TeamEvent:
    """Read any envelope, slowly and with a sentence for what is wrong."""
    if len(value) > _SHALLOW_BYTES and _is_too_deep(value):
        raise Unreadable(Reason.MALFORMED, f"The value is nested deeper than {MAX_DEPTH} levels.")
    try:
        head = _read_head(value)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(Reason.MALFORMED, f"The value is no CloudEvents envelope: {error}.") from error
    if not 1 <= len(head.id) <= 100 or not head.source:
        raise Unreadable(Reason.MALFORMED, "The envelope needs an id of 1 to 100 characters and a source.")
    team_id = _team_of(head.subject)
    correlation_id = head.correlationid or head.id

    event = _BILLING.get(head.type)
    if event is not None:
        fact = _billing_fact(head.data)
        return _billing_event(head, event, fact, parse_tier(fact.tier), team_id, received_at)

    kind = _SERVICE.get(head.type)
    if kind is None and head.type != IMPORTED:
        raise Unreadable(Reason.UNKNOWN_KIND, f"The type {head.type[:100]!r} is none that team.events carries.")
    data, moment = _content(head, kind) or _content_by_contract(value, kind)
    if not is_plain(data):
        _check_numbers(data)
    if moment < _EPOCH:
        raise Unreadable(Reason.MALFORMED, "time: lies before 1970.")
    seconds = int(moment.timestamp())
    _check_time(seconds, received_at)
    version = (seconds, SERVICE_RANK if kind else 0, moment.microsecond, f"{head.source}#{head.id}")
    content = content_of(head.type, bytes(head.data))
    body = Service(kind, data, content) if kind else Imported(cast("ImportedTier", data), content)
    return TeamEvent(head.id, head.source, team_id, correlation_id, seconds, version, body)


def _content(head: _Head, kind: Kind | None) -> tuple[Data, datetime] | None:
    """Return the data and the time of an envelope that is as most are, or None where the contract's own model has to read it."""
    time = head.time
    if not (len(time) == 20 and time[4] == time[7] == "-" and time[10] == "T" and time[13] == ":" and time[19] == "Z"):
        return None
    try:
        return _DATA[kind].model_validate_json(bytes(head.data)), datetime.fromisoformat(time)
    except ValueError:
        return None


def _content_by_contract(value: bytes, kind: Kind | None) -> tuple[Data, datetime]:
    envelope: Envelope[Any] = _validated(value, _ENVELOPES[kind])
    return envelope.data, envelope.time


def is_plain(data: Data) -> bool:
    """Whether ``data`` holds its named fields alone, and nothing but text and numbers that JSON has: then it is its own JSON."""
    return not data.__pydantic_extra__ and all(
        value is None or type(value) is str or type(value) is float or (type(value) is int and -_MAX_INT <= value <= _MAX_INT)
        for value in data.__dict__.values()
    )


def _billing_fact(raw: msgspec.Raw) -> BillingFact:
    try:
        fact = _read_fact(raw)
        if fact.tier is None or parse_tier(fact.tier) is not None:
            return fact
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError):
        pass  # the contract's own model decides, and says what is wrong
    model = _validated(bytes(raw), SubscriptionFact)
    return BillingFact(**model.model_dump())


def _check_numbers(data: Data) -> None:
    """Refuse numbers that JSON readers can not take: whatever is kept is emitted as well, and common JSON ends at 64 bits and at a double."""
    try:
        orjson.dumps(data.model_dump(mode="json"))
        json.dumps(data.extra, allow_nan=False)  # where orjson would write null
    except (TypeError, ValueError) as error:
        raise Unreadable(Reason.MALFORMED, "data: holds a value that can not be written as JSON again.") from error


def _check_time(seconds: int, received_at: int) -> None:
    if seconds > received_at + MAX_CLOCK_SKEW_SECONDS:
        raise Unreadable(
            Reason.FUTURE_TIME,
            f"The event's time lies {seconds - received_at} s after its receipt; send Unix seconds or RFC 3339 from a set clock.",
        )


def _validated(value: bytes, model: type[Any]) -> Any:
    try:
        return model.model_validate_json(value)
    except ValidationError as error:
        raise Unreadable(_reason_of(error), describe(error)) from error


def _reason_of(error: ValidationError) -> Reason:
    fields = {
        fault["loc"][-1]
        for fault in error.errors(include_input=False, include_context=False)
        if fault["loc"] and fault["type"] == "value_error"
    }
    return Reason.UNKNOWN_TIER if fields and fields <= {"tier", "to"} else Reason.MALFORMED
