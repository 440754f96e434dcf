"""The deliveries of a simulated team: its facts in order, as the requests that the gateway receives.

Each delivery says what is expected of it (HTTP status, outcome). The expectations are only compared with what the system wrote;
nothing that the demo shows comes from them.
"""

import uuid
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import orjson

from schemas.reasons import Reason
from schemas.team_events import SubscriptionEvent
from streams.demo.razorpay import DAY, Subscription, razorpay_id

WEBHOOKS = "/webhooks/razorpay"
EVENTS = "/v1/events"

_NAMESPACE = uuid.UUID("5c3b1a0e-9a55-4bb4-8f0e-6f1d0a7c2d44")
BAD_SIGNATURE = "bad_signature"
"""Outcome of a request that the gateway turns away: it leaves no trace but the answer, so no stage has a reason for it."""

_UNDER_WAY_SECONDS = 3
"""How long a fact usually takes to arrive."""

_MINUTE = 61
"""Seconds between two facts of one team on one day."""


@dataclass(frozen=True, slots=True)
class Derived:
    """A fact that a stage itself puts on ``team.events``: a time has come that the team's row waited for, or a subscription has left
    ``team`` for another.

    ``event_id`` is ``<subscription>@<Unix seconds>`` of a time, and the webhook's own of a subscription that has left.
    """

    team: str
    event: str
    event_id: str
    note: str
    reason: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """One request to the gateway. Times are Unix seconds; ``team`` is a name, None for a stranger's request.

    ``event_id`` is Razorpay's, or the id that a service gave its event; ``status`` and ``reason`` are what is expected, ``derived``
    the facts that must follow from it before the next delivery about the team, and ``replayed`` the outcome of the replay of a dead letter.
    """

    team: str | None
    event: str
    note: str
    happened_at: int
    arrives_at: int
    route: str
    event_id: str
    body: bytes
    reason: str
    status: int
    is_forged: bool = False
    replayed: str | None = None
    derived: tuple[Derived, ...] = ()


def team_id_of(name: str) -> str:
    """Return the UUID of the team called ``name``, the same in every run."""
    return str(uuid.uuid5(_NAMESPACE, name))


@dataclass(slots=True)
class TeamScenario:
    """One team's deliveries, in the order of the facts. ``start`` (Unix seconds) is day 0."""

    name: str
    start: int
    deliveries: list[Delivery] = field(default_factory=list)
    subscriptions: int = 0

    @property
    def team_id(self) -> str:
        """The team's UUID."""
        return team_id_of(self.name)

    def at(self, day: int) -> int:
        """Return when the next fact happens, if it happens on ``day``."""
        return self.start + day * DAY + len(self.deliveries) * _MINUTE

    def claimed(self, day: int, note: str, **data: Any) -> None:
        """The owner claims the team."""
        self.sends("onboarding.claimed", day, Reason.CLAIMED, note, email=f"owner@{self.name}.example", **data)

    def sends(self, kind: str, day: int, reason: str, note: str, /, **data: Any) -> None:
        """A service of the platform sends an event."""
        at = self.at(day)
        event_id = f"{self.name}-{len(self.deliveries)}"
        event = {
            "kind": kind,
            "team_id": self.team_id,
            "id": event_id,
            "occurred_at": datetime.fromtimestamp(at, UTC).isoformat(),
            "data": data,
        }
        self.deliveries.append(
            Delivery(self.name, kind, note, at, at + _UNDER_WAY_SECONDS, EVENTS, event_id, orjson.dumps(event), reason, 202)
        )

    def subscribes(self, plan_id: str, day: int, **facts: Any) -> "Billing":
        """The team takes a plan. The subscription's note names the team, unless ``facts`` (fields of Subscription) say otherwise."""
        self.subscriptions += 1
        usual: dict[str, Any] = {"email": f"billing@{self.name}.example", "notes": {"team_id": self.team_id}, "payment_notes": []}
        id = f"sub_{razorpay_id(self.name, self.subscriptions)}"
        return Billing(self, Subscription(id, plan_id, self.at(day) - 300, **(usual | facts)))

    def receives(self, event: str, at: int, body: bytes, reason: str, note: str, arrives_at: int | None = None) -> None:
        """Razorpay delivers a webhook about the team."""
        arrival = at + _UNDER_WAY_SECONDS if arrives_at is None else arrives_at
        event_id = razorpay_id(self.name, event, len(self.deliveries))
        self.deliveries.append(Delivery(self.name, event, note, at, arrival, WEBHOOKS, event_id, body, reason, 200))

    def repeats(self, reason: str, note: str) -> None:
        """The last delivery comes once more, a minute later, the same in every byte."""
        last = self.deliveries[-1]
        self.deliveries.append(replace(last, note=note, reason=reason, arrives_at=last.arrives_at + _MINUTE))


@dataclass(slots=True)
class Billing:
    """One subscription of a team; ``subscription`` is what Razorpay holds of it by now."""

    team: TeamScenario
    subscription: Subscription

    def sends(
        self,
        event: str,
        day: int,
        reason: str,
        note: str,
        *,
        plan: str | None = None,
        arrives: int | None = None,
        is_scheduled: bool = False,
    ) -> None:
        """``subscription.<event>`` happens on ``day``, perhaps with a new plan, and arrives at once or on day ``arrives``."""
        at = self.team.at(day)
        self.subscription = self.subscription.after(event, at, plan)
        body = self.subscription.webhook(event, at, is_scheduled=is_scheduled)
        arrives_at = None if arrives is None else self.team.at(arrives)
        self.team.receives(f"subscription.{event}", at, body, reason, note, arrives_at)

    def is_replayed(self, reason: str) -> None:
        """The last delivery is a dead letter, which an operator replays at the end: this becomes of it then."""
        self.team.deliveries[-1] = replace(self.team.deliveries[-1], replayed=reason)

    def payment_fails(self, day: int, reason: str, note: str) -> None:
        """``payment.failed``, which names no subscription, comes beside ``subscription.pending``."""
        at = self.team.at(day)
        self.team.receives("payment.failed", at, self.subscription.failed_payment(at), reason, note)

    def paid_time_ends(self, reason: str, note: str) -> None:
        """What was paid for lasts longer than what the last delivery says, and is over when the demo runs: classify says so itself."""
        assert self.subscription.paid_until is not None  # it was charged
        self._comes_due(self.subscription.paid_until, reason, note)

    def grace_goes_on(self, days: int, reason: str, note: str) -> None:
        """The last delivery began a grace period, of which so many days have passed when the demo runs: classify says so itself."""
        self._comes_due(self.team.deliveries[-1].happened_at + days * DAY, reason, note)

    def moves_to(self, team: str, reason: str, note: str) -> None:
        """The last delivery is about another team, for its note says so: the former one gets a ``subscription.moved``."""
        last = self.team.deliveries[-1] = replace(self.team.deliveries[-1], team=team)
        self._derives(Derived(self.team.name, SubscriptionEvent.MOVED, last.event_id, note, reason))

    def _comes_due(self, at: int, reason: str, note: str) -> None:
        self._derives(Derived(self.team.name, SubscriptionEvent.DUE, f"{self.subscription.id}@{at}", note, reason))

    def _derives(self, derived: Derived) -> None:
        last = self.team.deliveries[-1]
        self.team.deliveries[-1] = replace(last, derived=(*last.derived, derived))
