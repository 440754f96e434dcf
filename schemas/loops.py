"""What goes to Loops for each kind of audit event: the map, and the request body.

Source: Loops documentation, "Send event" and "Event properties". Loops treats every top-level key that it does not know as a
contact property and would change the contact by it, so only what the map names ever stands there. Values are strings, numbers
and booleans; keys and values have at most 500 characters, quotes included; a date is a number of Unix milliseconds; ``null``
would reset a property, so it is left out.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict

from schemas.kinds import Kind
from schemas.team_events import MAX_SECONDS

MAX_CHARACTERS = 500
"""Longest value at Loops, as it stands in the JSON text: quotes and escapes count, characters are UTF-16 units."""

MAX_SAFE_INTEGER = 2**53 - 1
"""Larger whole numbers lose digits in a JavaScript reader."""

CONTACT_FIELDS = frozenset(
    {
        "id",
        "email",
        "userId",
        "firstName",
        "lastName",
        "source",
        "subscribed",
        "userGroup",
        "notes",
        "mailingLists",
        "optInStatus",
        "eventName",
        "eventProperties",
    }
)
"""Top-level keys with a meaning of their own at Loops (``subscribed`` can re-subscribe somebody). No map row may name one by accident."""

Scalar = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Property:
    """One property of a mail: ``name`` at Loops, ``field`` of the metadata it is read from; ``is_time`` for an instant."""

    name: str
    field: str
    is_time: bool = False


def _same(*names: str) -> tuple[Property, ...]:
    return tuple(Property(name, name) for name in names)


@dataclass(frozen=True, slots=True)
class Mail:
    """A kind that goes to Loops: its event properties, and the contact properties that it may change."""

    event_properties: tuple[Property, ...]
    contact_properties: tuple[Property, ...] = ()


@dataclass(frozen=True, slots=True)
class NeverMailed:
    """A kind that is for operators only; ``why`` says so in one sentence."""

    why: str


_OCCURRED_AT = Property("occurred_at", "occurred_at", is_time=True)
_EXPIRES_AT = Property("expires_at", "expires_at", is_time=True)
_TRANSITION = Mail((*_same("from", "to", "plan_id", "subscription_id"), _OCCURRED_AT))
_GRACE = Mail((*_same("from", "to", "plan_id", "subscription_id"), Property("ends_at", "ends_at", is_time=True), _OCCURRED_AT))
_OPERATORS = NeverMailed("What an operator did concerns operators, not a customer.")

LOOPS_MAP: dict[Kind, Mail | NeverMailed] = {
    Kind.CLAIMED: Mail(_same("user_id", "tier", "name")),
    Kind.UPGRADED: _TRANSITION,
    Kind.DOWNGRADED: _TRANSITION,
    Kind.CANCELED: _TRANSITION,
    Kind.NEAR_QUOTA_WALL: Mail(_same("resource_type", "used", "limit", "unit")),
    Kind.EXPERIMENT_CONVERSION: Mail(_same("experiment", "variant", "goal")),
    # ``reason`` of a transition's metadata is the decision's; the admin's own words stand beside it.
    Kind.ADMIN_TIER_CHANGED: Mail((*_same("from", "to", "admin"), Property("reason", "admin_reason"), _OCCURRED_AT)),
    Kind.ADMIN_PROMO_ISSUED: Mail((*_same("code", "admin", "percent_off"), _EXPIRES_AT)),
    Kind.RESOURCE_EXPIRY_IMMINENT: Mail((*_same("resource_type", "resource_id"), _EXPIRES_AT)),
    Kind.GRACE_STARTED: _GRACE,
    Kind.GRACE_REMINDER: _GRACE,
    Kind.GRACE_RECOVERED: _GRACE,
    Kind.GRACE_TERMINATED: _GRACE,
    Kind.CHARGE_UNDELIVERABLE: NeverMailed("A charge that can not be placed concerns operators, not a customer."),
    Kind.OPERATOR_REPLAYED: _OPERATORS,
    Kind.OPERATOR_DISCARDED: _OPERATORS,
    Kind.OPERATOR_RESOLVED: _OPERATORS,
}
"""A row for every kind. A kind without one would be a mail that silently never goes out."""


class LoopsPayload(BaseModel):
    """The body of ``POST /api/v1/events/send``.

    The contact is named by e-mail alone: Loops overwrites a contact whose e-mail and user id disagree.
    """

    model_config = ConfigDict(frozen=True)

    email: str
    event_name: str
    event_properties: dict[str, Scalar]
    contact_properties: dict[str, Scalar] = {}

    def to_json(self) -> bytes:
        """Return the body. Contact properties stand at the top level."""
        return orjson.dumps(
            {**self.contact_properties, "email": self.email, "eventName": self.event_name, "eventProperties": self.event_properties}
        )


def payload(kind: Kind, email: str, metadata: Mapping[str, Any]) -> LoopsPayload:
    """Return the request body for an audit event of ``kind``. The event name is the kind, unchanged.

    Properties are those that the map names and the metadata holds in a form that Loops takes; a list, an object or a time that
    can not be read is left out, a long text is cut. Raises ValueError for a kind that is never mailed.
    """
    row = LOOPS_MAP[kind]
    if isinstance(row, NeverMailed):
        raise ValueError(f"{kind} is never mailed")
    return LoopsPayload(
        email=email,
        event_name=kind.value,
        event_properties=_pick(row.event_properties, metadata),
        contact_properties=_pick(row.contact_properties, metadata),
    )


def _pick(properties: tuple[Property, ...], metadata: Mapping[str, Any]) -> dict[str, Scalar]:
    found: dict[str, Scalar] = {}
    for wanted in properties:
        raw = metadata.get(wanted.field)
        value = _milliseconds(raw) if wanted.is_time else _scalar(raw)
        if value is not None:
            found[wanted.name] = value
    return found


def _scalar(value: object) -> Scalar | None:
    if isinstance(value, str):
        return cut(value)
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        if abs(value) <= MAX_SAFE_INTEGER:
            return value
        return float(value) if value.bit_length() <= 1_000 else None
    if isinstance(value, float) and math.isfinite(value):
        return value
    return None


def _milliseconds(value: object) -> int | None:
    """Unix milliseconds of RFC 3339 text with an offset, or of Unix seconds."""
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return None
        return round(moment.timestamp() * 1000) if moment.tzinfo else None
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MAX_SECONDS:
        return round(value * 1000)
    return None


def cut(text: str) -> str:
    """Return the longest start of ``text`` that Loops takes as a value."""
    room = MAX_CHARACTERS - 2
    if len(text) * 6 <= room:
        return text
    for index, character in enumerate(text):
        room -= _units(character)
        if room < 0:
            return text[:index]
    return text


def _units(character: str) -> int:
    if character in '"\\\n\r\t\b\f':
        return 2
    if character < " ":
        return 6
    return 2 if character > "\uffff" else 1
