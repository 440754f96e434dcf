"""Seeded streams of signed webhooks and onboarding events: complete scenarios of teams, in the shapes that Razorpay really sends."""

import hashlib
import hmac
import json
import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

PLANS = {
    "plan_hobby": "hobby",
    "plan_hobby_plus": "hobby_plus",
    "plan_pro": "pro",
    "plan_pro_yearly": "pro",
    "plan_growth": "growth",
    "plan_team": "team",
}
UNKNOWN_PLAN = "plan_of_nobody"
BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Webhook:
    """One delivery of Razorpay's: its event id (a header) and its raw body."""

    event_id: str
    body: bytes
    team: str
    event: str
    plan: str

    def headers(self, secret: str) -> dict[str, str]:
        """The headers that Razorpay sends with it."""
        signature = hmac.new(secret.encode(), self.body, hashlib.sha256).hexdigest()
        return {
            "x-razorpay-event-id": self.event_id,
            "x-razorpay-signature": signature,
            "content-type": "application/json",
            "user-agent": "Razorpay-Webhook/v1",
        }


@dataclass
class Subscription:
    """What Razorpay would know of a subscription."""

    id: str
    plan: str
    paid: int = 0
    status: str = "created"


@dataclass
class TeamScenario:
    """One team's scenario so far, and the webhooks that it caused. ``clock`` is in Unix seconds; ``steps`` is how far it may go on
    with each webhook."""

    team: str
    chance: random.Random
    clock: int
    steps: tuple[int, ...] = (0, 1, 1, 2, 30)
    webhooks: list[Webhook] = field(default_factory=list)

    @property
    def email(self) -> str:
        """The owner's address."""
        return f"owner-{self.team[:8]}@example.com"

    def subscribe(self, plan: str) -> Subscription:
        """Begin a subscription; nothing is sent yet."""
        return Subscription("sub_" + self._base62(14), plan)

    def charge(self, subscription: Subscription, plan: str | None = None) -> Webhook:
        """A payment: the first, a renewal, or the first on another plan."""
        subscription.plan = plan or subscription.plan
        subscription.paid += 1
        subscription.status = "active"
        return self.send("subscription.charged", subscription, payment=True)

    def send(self, event: str, subscription: Subscription, *, payment: bool = False, **entity: object) -> Webhook:
        """Send ``event`` about ``subscription``; some time passes."""
        self.clock += self.chance.choice(self.steps)
        note = {"team_id": self.team}
        only_in_payment = payment and self.chance.random() < 0.2
        body: Json = {
            "entity": "event",
            "account_id": "acc_BFQ7uQEaa7j2z7",
            "event": event,
            "contains": ["subscription"],
            "payload": {
                "subscription": {
                    "entity": {
                        "id": subscription.id,
                        "entity": "subscription",
                        "plan_id": subscription.plan,
                        "customer_id": None,
                        "status": subscription.status,
                        "current_start": self.clock - 60,
                        "current_end": self.clock + 2_592_000,
                        "ended_at": None,
                        "notes": [] if only_in_payment else note,
                        "paid_count": subscription.paid,
                        "has_scheduled_changes": False,
                        "created_at": self.clock - 3_600,
                        **entity,
                    }
                }
            },
            "created_at": self.clock,
        }
        if payment:
            body["payload"]["payment"] = {
                "entity": {
                    "id": "pay_" + self._base62(14),
                    "entity": "payment",
                    "amount": 49_900,
                    "currency": "INR",
                    "status": "captured",
                    "captured": self.chance.choice(("1", True)),
                    "email": f"payer-{self.team[:8]}@example.com",
                    "notes": note if only_in_payment else [],
                    "created_at": self.clock - 1,
                }
            }
        raw = json.dumps(body, ensure_ascii=False).encode()
        webhook = Webhook(self._base62(14), raw, self.team, event, subscription.plan)
        self.webhooks.append(webhook)
        return webhook

    def _base62(self, length: int) -> str:
        return "".join(self.chance.choices(BASE62, k=length))


def team_scenarios(seed: int, teams: int, webhooks: int, start: int) -> list[TeamScenario]:
    """Return ``teams`` scenarios with ``webhooks`` webhooks between them, each in the order in which it happened."""
    chance = random.Random(seed)
    found = []
    for number in range(teams):
        team_scenario = TeamScenario(str(uuid.UUID(int=chance.getrandbits(128), version=4)), random.Random(chance.getrandbits(64)), start)
        scenario = _live(team_scenario)
        while len(team_scenario.webhooks) < webhooks // teams + (number < webhooks % teams):
            next(scenario)
        found.append(team_scenario)
    return found


def _live(team_scenario: TeamScenario) -> Iterator[None]:
    """Never-ending: sign up, pay, change, stop, come back. Each step sends one webhook."""
    chance = team_scenario.chance
    plans = list(PLANS)
    while True:
        subscription = team_scenario.subscribe(chance.choice(plans))
        subscription.status = "authenticated"
        team_scenario.send("subscription.authenticated", subscription)
        yield
        team_scenario.charge(subscription)
        yield
        for _ in range(chance.randrange(6)):
            match chance.choice(("renewal", "change", "updated", "pending", "halt", "unknown_plan", "move", "scheduled")):
                case "renewal":
                    team_scenario.charge(subscription)
                case "change":
                    team_scenario.charge(subscription, chance.choice(plans))
                case "updated":
                    subscription.plan = chance.choice(plans)
                    team_scenario.send("subscription.updated", subscription)
                case "scheduled":
                    team_scenario.send("subscription.updated", subscription, has_scheduled_changes=True)
                case "pending":
                    team_scenario.send("subscription.pending", subscription, status="pending")
                case "halt":
                    team_scenario.send("subscription.halted", subscription, status="halted")
                    yield
                    team_scenario.charge(subscription)
                case "unknown_plan":
                    other = team_scenario.subscribe(UNKNOWN_PLAN)
                    team_scenario.charge(other)
                case "move":
                    old, subscription = subscription, team_scenario.subscribe(chance.choice(plans))
                    team_scenario.charge(subscription)
                    yield
                    team_scenario.send("subscription.cancelled", old, status="cancelled", ended_at=team_scenario.clock)
            yield
        if chance.random() < 0.5:
            team_scenario.send("subscription.cancelled", subscription, status="cancelled", ended_at=team_scenario.clock)
        else:
            team_scenario.send("subscription.completed", subscription, status="completed", current_end=team_scenario.clock - 5)
        yield
