"""Events of ``team.events`` as tests write them: parsed envelopes, by default those of one team that pays for ``plan_pro``.

Times are seconds after ``T0``, so that a test reads as a scenario. Ids follow from the content: the same call gives the same
event, which is what a redelivery is.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

import orjson

from agents.classify.decide import Decision, decide
from agents.classify.facts import TeamEvent, read_team_event
from agents.classify.registers import EMPTY, Row
from schemas.tiers import Tier
from tests.oracle_facts import due_record

Event = dict[str, Any]

T0 = 1_750_000_000
"""Second 0 of every scenario: 2025-06-15T15:06:40Z."""

RECEIVED_AT = T0 + 10_000_000
"""A receipt later than every event."""

TEAM = "3f1c1f0e-6a55-4c5c-9a39-0a4d3c1f7b01"
TIERS = {
    "plan_hobby": "hobby",
    "plan_hobby_yearly": "hobby_yearly",
    "plan_hobby_plus": "hobby_plus",
    "plan_pro": "pro",
    "plan_pro_yearly": "pro_yearly",
    "plan_growth": "growth",
    "plan_team": "team",
}
"""Tier by plan, as normalise writes it into the fact."""

_NAMESPACE = UUID("f0c9e8c2-51b2-4c1c-8f43-2f1f6b6f7f55")


def rfc3339(at: float) -> str:
    """Return ``at``, in seconds after ``T0``, as RFC 3339 text."""
    return datetime.fromtimestamp(T0 + at, UTC).isoformat()


def envelope(kind: str, data: Event, *, id: str, source: str, time: str, team: str | None = TEAM, **attributes: Any) -> Event:
    """Return a CloudEvents envelope."""
    head = {"specversion": "1.0", "id": id, "source": source, "type": kind, "subject": team, "time": time}
    return {**head, "datacontenttype": "application/json", **attributes, "data": data}


def billing(
    event: str,
    at: int = 0,
    subscription: str = "sub_A",
    plan: str | None = "plan_pro",
    *,
    paid_count: int = 1,
    team: str = TEAM,
    **data: Any,
) -> Event:
    """Return the fact that normalise writes for ``subscription.<event>``, or for ``payment.failed``. Further arguments are fields of
    its data."""
    fact = {
        "subscription_id": subscription,
        "occurred_at": T0 + at,
        "time_source": "created_at",
        "plan_id": plan,
        "tier": None if plan is None else TIERS.get(plan),
        "paid_count": paid_count,
        **data,
    }
    name = uuid5(_NAMESPACE, orjson.dumps([event, team, fact]).decode())
    fact.setdefault("event_id", f"evt_{name.hex[:14]}")
    return envelope(
        event if event.startswith("payment.") else f"subscription.{event}",
        fact,
        id=str(name),
        source="tierstream/normalise",
        time=rfc3339(at),
        team=team,
        correlationid=fact["event_id"],
    )


def due(at: int, subscription: str = "sub_A", plan: str | None = "plan_pro", *, team: str = TEAM) -> Event:
    """Return the ``subscription.due`` that classify writes for itself when it is ``at``."""
    return due_record(team, subscription, plan, T0 + at)


def service(kind: str, at: float = 0, *, id: str | None = None, source: str = "app", team: str = TEAM, **data: Any) -> Event:
    """Return an event as a service sends it. ``at`` may have a fraction: services' clocks have one."""
    name = id or uuid5(_NAMESPACE, orjson.dumps([kind, at, source, team, data]).decode()).hex[:12]
    return envelope(kind, data, id=name, source=source, time=rfc3339(at), team=team)


def claim(at: float = 0, email: str = "owner@example.com", **rest: Any) -> Event:
    """Return an ``onboarding.claimed``."""
    return service("onboarding.claimed", at, email=email, **rest)


def override(at: float, to: str, admin: str = "admin-7", **rest: Any) -> Event:
    """Return an ``admin.tier_changed``."""
    return service("admin.tier_changed", at, to=to, admin=admin, **rest)


def imported(at: float, tier: str, plan_id: str | None = None, subscription_id: str | None = None, **rest: Any) -> Event:
    """Return a ``team.imported``."""
    return service("team.imported", at, source="import", tier=tier, plan_id=plan_id, subscription_id=subscription_id, **rest)


def read(event: Event, received_at: int = RECEIVED_AT) -> TeamEvent:
    """Return the event as classify reads it, by way of its bytes."""
    return read_team_event(orjson.dumps(event), received_at)


class Team:
    """One team's row and all the decisions that led to it."""

    def __init__(self, *events: Event, initial: Tier = Tier.FREE) -> None:
        self.row: Row = EMPTY
        self.initial = initial
        self.decisions: list[Decision] = []
        self.feed_all(events)

    def feed(self, event: Event) -> Decision:
        """Decide one event, keep the row, return the decision."""
        decision = decide(self.row, read(event), self.initial)
        self.row = decision.row
        self.decisions.append(decision)
        return decision

    def feed_all(self, events: Iterable[Event]) -> None:
        """Decide events in order."""
        for event in events:
            self.feed(event)
