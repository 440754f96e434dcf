"""The decision that the Python peers share: as fast as it can be, and right for the load.

The load's teams hold one subscription at a time and their events are in order, so a team's state is its tier, its
subscription, its plan and since when it runs, its owner, and the time of the last fact, below which everything is a
redelivery. A state is a list of JSON values, so that every engine can store it. Needs nothing but msgspec and orjson.
"""

import uuid
from collections.abc import Callable
from hashlib import sha1
from typing import Any

import msgspec
from orjson import dumps, loads

State = list[Any]
"""[time of the last fact, tier, subscription, active, plan, since, e-mail, name, user id]"""

HEADERS: list[tuple[str, Any]] = [("content-type", b"application/cloudevents+json")]

_INITIAL: State = [0, "free", None, False, "", "", None, None, None]
_RANKS = {"anonymous": 0, "free": 1, "hobby": 2, "hobby_plus": 3, "pro": 4, "growth": 5, "team": 6}
_NAMESPACE = uuid.UUID("7f1f2c38-6b4e-5d0e-9d53-7d8f0f0e5b1a").bytes
_STARTS = frozenset({"subscription.charged", "subscription.updated"})
_ENDS = frozenset({"subscription.cancelled", "subscription.halted", "subscription.completed"})
_SUMMARIES = {
    "near_quota_wall": "Near the limit of api_calls",
    "experiment.conversion": "Experiment converted",
}


class Data(msgspec.Struct, gc=False):
    """``data`` of the load's events: what facts and claims need of it."""

    event_id: str = ""
    subscription_id: str = ""
    occurred_at: int = 0
    time_source: str = ""
    plan_id: str = ""
    tier: str = ""
    paid_count: int = 0
    status: str = ""
    has_scheduled_changes: bool = False
    email: str | None = None
    name: str | None = None
    user_id: str | None = None
    resource_type: str | None = None


class Event(msgspec.Struct, gc=False):
    """One envelope of ``team.events``."""

    id: str
    source: str
    type: str
    time: str
    subject: str
    correlationid: str
    data: Data


read: Callable[[bytes], Event] = msgspec.json.Decoder(Event).decode

Current = tuple[Event, str, str, str | None]
"""What ``tier_current`` makes a record of ``tier.current`` of; a job that leaves out what it would overwrite need not render it."""

Outcome = tuple[State | None, bytes | None, Current | None]
"""The new state (None: unchanged), the audit event, and the current tier (None: none)."""


def decide(state: State | None, value: bytes) -> Outcome:
    """Return what one event of a team leads to; ``state`` is None for a team that nothing is known of."""
    event = read(value)
    kind = event.type
    old = _INITIAL if state is None else state
    if kind in _STARTS:
        return _start(old, event)
    if kind in _ENDS:
        return _end(old, event)
    if kind == "onboarding.claimed":
        data = event.data
        new = [*old[:6], data.email, data.name, data.user_id]
        audit = _service_event(event, value, old[1], "claimed", f"Team claimed, on {old[1]}", new)
        return new, audit, (event, old[1], event.time, old[2]) if state is None else None
    if kind in _SUMMARIES:
        return None, _service_event(event, value, None, "passed_through", _SUMMARIES[kind], old), None
    return None, None, None


def _start(old: State, event: Event) -> Outcome:
    data = event.data
    if data.occurred_at <= old[0] or data.has_scheduled_changes:
        return None, None, None
    subscription, plan, after = data.subscription_id, data.plan_id, data.tier
    _, before, known, active, former, since, email, name, user_id = old
    if not active or known != subscription or former != plan:
        since = event.time
    new = [data.occurred_at, after, subscription, True, plan, since, email, name, user_id]
    audit: bytes | None = None
    current: Current | None = None
    if after != before:
        up = _RANKS[after] > _RANKS[before]
        kind, summary = ("upgraded", "Upgraded") if up else ("downgraded", "Downgraded")
        audit = _transition(event, f"subscription.{kind}", before, after, kind, f"{summary} from {before} to {after}", new)
    if after != before or not active:
        current = (event, after, since, subscription)
    return new, audit, current


def _end(old: State, event: Event) -> Outcome:
    data = event.data
    if data.occurred_at <= old[0]:
        return None, None, None
    _, before, subscription, active, plan, since, email, name, user_id = old
    halted = event.type == "subscription.halted"
    tier = "hobby" if active else before
    new = [data.occurred_at, tier, subscription if halted else None, False, plan, since, email, name, user_id]
    if not active:
        return new, None, None
    summary = "Subscription canceled, from {} to hobby" if before != "hobby" else "Subscription canceled, still on {}"
    audit = _transition(event, "subscription.canceled", before, "hobby", "canceled", summary.format(before), new)
    return new, audit, (event, "hobby", event.time, None)


# What is written


def derived_id(event: Event, kind: str) -> str:
    """The UUIDv5 of what classify derives, from source, id and team of the event, and the kind."""
    name = f"classify\x1f{event.source}\x1f{event.id}\x1f{event.subject}\x1f{kind}"
    digest = bytearray(sha1(_NAMESPACE + name.encode()).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x50
    digest[8] = digest[8] & 0x3F | 0x80
    text = digest.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _transition(event: Event, kind: str, before: str, after: str, reason: str, summary: str, state: State) -> bytes:
    data = event.data
    body: dict[str, Any] = {
        "actor": "system",
        "resource_type": "subscription",
        "summary": summary,
        "metadata": {
            "from": before,
            "to": after,
            "reason": reason,
            "event_id": data.event_id,
            "occurred_at": event.time,
            "subscription_id": data.subscription_id,
            "plan_id": data.plan_id,
            "time_source": data.time_source,
            "paid_count": data.paid_count,
        },
        "created_at": event.time,
    }
    *_, email, name, user_id = state
    if user_id is not None:
        body["user_id"] = user_id
    if email is not None:
        body["contact"] = {"email": email, "name": name}
    elif data.email is not None:
        body["contact"] = {"email": data.email}
    return _envelope(event, kind, "schemas/audit-event/v1", body)


def _service_event(event: Event, value: bytes, tier: str | None, reason: str, summary: str, state: State) -> bytes:
    metadata = loads(value)["data"]
    metadata.pop("email", None)
    metadata.pop("name", None)
    metadata |= {"reason": reason, "event_id": event.id, "occurred_at": event.time}
    if tier is not None:
        metadata |= {"from": tier, "to": tier}
    body: dict[str, Any] = {"actor": "agent"}
    if event.data.resource_type is not None:
        body["resource_type"] = event.data.resource_type
    body |= {"summary": summary, "metadata": metadata, "created_at": event.time}
    *_, email, name, user_id = state
    if user_id is not None:
        body["user_id"] = user_id
    if email is not None:
        body["contact"] = {"email": email, "name": name}
    return _envelope(event, event.type, "schemas/audit-event/v1", body)


def tier_current(event: Event, tier: str, since: str, subscription: str | None) -> bytes:
    """Return the record of ``tier.current``."""
    data = {"team_id": event.subject, "tier": tier, "since": since, "subscription_id": subscription}
    return _envelope(event, "tier.current", "schemas/tier-current/v1", data)


def _envelope(event: Event, kind: str, schema: str, data: dict[str, Any]) -> bytes:
    return dumps(
        {
            "specversion": "1.0",
            "id": derived_id(event, kind),
            "source": "tierstream/classify",
            "type": kind,
            "time": event.time,
            "datacontenttype": "application/json",
            "dataschema": schema,
            "causationid": event.id,
            "correlationid": event.correlationid,
            "data": data,
            "subject": event.subject,
        }
    )
