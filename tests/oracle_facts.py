"""How the oracle reads ``team.events``: one event, what it does to its team, and when. Shares no code with ``agents``."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from schemas.envelope import derived_id

Event = Mapping[str, Any]
"""The parsed JSON of one record's value."""

Version = tuple[int, int, int, str]
"""Orders facts: Unix seconds, rank within the second, payments so far (or microseconds), id."""

LADDER = ["anonymous", "free", "hobby", "hobby_plus", "pro", "growth", "team"]

RANKS = {
    "subscription.authenticated": 0,
    "subscription.activated": 1,
    "subscription.updated": 2,
    "subscription.charged": 3,
    "subscription.pending": 4,
    "payment.failed": 4,
    "subscription.paused": 5,
    "subscription.resumed": 6,
    "subscription.halted": 7,
    "subscription.completed": 8,
    "subscription.cancelled": 9,
    "subscription.moved": 9,
    "subscription.due": 9,
}
SERVICE_RANK = 10
SERVICE_ROLES = {
    "onboarding.claimed": "claim",
    "admin.tier_changed": "override",
    "team.imported": "import",
    "near_quota_wall": "passed_through",
    "experiment.conversion": "passed_through",
    "admin.promo_issued": "passed_through",
    "resource.expiry_imminent": "passed_through",
}
MERGED = ("start", "halt", "pause", "moved", "pending", "ending", "due", "end", "override", "claim", "import")
ALLOWED_SKEW = 300  # seconds
CLASSIFY = "tierstream/classify"


@dataclass(frozen=True)
class Fact:
    """One readable event. ``role`` is one of MERGED, or else the reason of an event that leaves the team as it is."""

    id: str
    source: str
    team: str
    type: str
    role: str
    version: Version
    event_id: str
    subscription: str | None = None
    plan: str | None = None
    tier: str | None = None
    paid: bool = False
    adopt: bool = False
    until: int = 0
    """Unix seconds: when what this fact begins would end. A pause (0: at once), an ending, the grace after a failed payment."""
    reminders: tuple[int, ...] = ()
    said: str = ""
    """What a service's event or an import says, whenever it was sent."""


def fold(tier: object) -> str | None:
    """The ladder's name for ``tier``; None when the ladder has no such tier."""
    name = str(tier).strip().lower().removesuffix("_yearly")
    return name if name in LADDER else None


def due_record(team: str, subscription: str, plan: str | None, at: int) -> dict[str, Any]:
    """Return the record that says of ``subscription``: it is ``at`` now."""
    name = derived_id("classify", CLASSIFY, f"{subscription}@{at}", team, "subscription.due")
    return {
        "specversion": "1.0",
        "id": name,
        "source": CLASSIFY,
        "type": "subscription.due",
        "subject": team,
        "time": datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "data": {
            "event_id": name,
            "subscription_id": subscription,
            "occurred_at": at,
            "time_source": "due",
            "plan_id": plan,
            "paid_count": 0,
            "has_scheduled_changes": False,
            "adopt": False,
        },
    }


def read(event: Event, received_at: int) -> Fact | str:
    """Return the fact in a well-formed ``event``, or the reason why it is a dead letter. ``received_at`` is in Unix seconds."""
    try:
        team = str(UUID(event["subject"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        return "unknown_team"
    if not UUID(team).int:
        return "unknown_team"  # nobody's: two customers with this note would share a team
    kind, data = event["type"], event["data"]
    if kind not in RANKS and kind not in SERVICE_ROLES:
        return "unknown_kind"
    if kind in RANKS:
        seconds = data["occurred_at"]
        role = _billing_role(kind, data)
        version = (seconds, RANKS[kind], data.get("paid_count", 0), data["event_id"])
    else:
        moment = datetime.fromisoformat(event["time"]).astimezone(UTC)
        seconds = int(moment.timestamp())
        role = SERVICE_ROLES[kind]
        version = (seconds, 0 if role == "import" else SERVICE_RANK, moment.microsecond, f"{event['source']}#{event['id']}")
    label = None if role == "passed_through" else data.get("to") if role == "override" else data.get("tier")
    tier = None if label is None else fold(label)
    if label is not None and tier is None:
        return "unknown_tier"
    if seconds > received_at + ALLOWED_SKEW and kind != "subscription.due":
        return "future_time"
    if role == "start" and tier is None:
        return "unknown_plan"

    billed = kind in RANKS
    return Fact(
        id=event["id"],
        source=event["source"],
        team=team,
        type=kind,
        role=role,
        version=version,
        event_id=data["event_id"] if billed else event["id"],
        subscription=data.get("subscription_id") if billed or role == "import" else None,
        plan=data.get("plan_id") if billed or role == "import" else None,
        tier=tier,
        paid=role == "import" or kind == "subscription.charged" or (billed and data.get("paid_count", 0) > 0),
        adopt=billed and data.get("adopt", False),
        until=_until(role, data),
        reminders=tuple(data.get("grace_reminders_at") or ()) if role == "pending" else (),
        said="" if billed else json.dumps([kind, data], sort_keys=True),
    )


def _billing_role(kind: str, data: Event) -> str:
    match kind:
        case "subscription.charged":
            return "start"
        case "subscription.activated":
            return "start" if data.get("paid_count", 0) > 0 else "not_started"
        case "subscription.updated":
            if data.get("has_scheduled_changes", False):
                return "scheduled"
            return "start" if data.get("status") == "active" else "not_active"
        case "subscription.resumed":
            return "start" if data.get("status") == "active" else "payment_trouble"
        case "subscription.authenticated":
            return "not_started"
        case "subscription.halted":
            return "halt"
        case "subscription.paused":
            return "pause"
        case "subscription.moved":
            return "moved"
        case "subscription.due":
            return "due"
        case "subscription.cancelled":
            return "end"
        case "subscription.completed":
            return "ending" if _is_after(data, "current_end") else "end"
        case _:  # a payment that failed
            return "pending" if _is_after(data, "grace_ends_at") else "payment_trouble"


def _is_after(data: Event, name: str) -> bool:
    return (data.get(name) or 0) > int(data["occurred_at"])


def _until(role: str, data: Event) -> int:
    name = {"pause": "current_end", "ending": "current_end", "pending": "grace_ends_at"}.get(role)
    return int(data[name]) if name is not None and _is_after(data, name) else 0
