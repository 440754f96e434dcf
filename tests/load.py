"""Seeded streams of signed webhooks and onboarding events: complete scenarios of teams, in the shapes that Razorpay really sends."""

import hashlib
import hmac
import json
import random
import uuid
from collections.abc import Iterator, Sequence
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
NIL_TEAM = "00000000-0000-0000-0000-000000000000"
"""A note of customers that nobody gave a team: it is no team, or they would share one."""

DAY = 86_400
GRACE_DAYS = (3, 6, 7)
"""Days after a failed payment on which something happens by itself, with the settings that a stack has by default."""

OLDEST_SECONDS = (max(GRACE_DAYS) + 1) * DAY
"""A webhook may be so old: mail of that age must go out."""

GRACE_SECONDS = 60
"""A scenario in which grace periods are to go on while the stream runs takes about so long, by its own clock."""

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
    """What Razorpay would know of a subscription. ``team`` is whom its note names."""

    id: str
    plan: str
    team: str
    paid: int = 0
    status: str = "created"


@dataclass
class TeamScenario:
    """One team's scenario so far, and the webhooks that it caused. ``clock`` is in Unix seconds; ``steps`` is how far it may go on
    with each webhook.

    ``coming`` are the Unix seconds of which some may be named as a time that is still to come; without them nothing happens by itself.
    ``others`` are teams that a subscription may be moved to.
    """

    team: str
    chance: random.Random
    clock: int
    steps: tuple[int, ...] = (0, 1, 1, 2, 30)
    webhooks: list[Webhook] = field(default_factory=list)
    coming: range | None = None
    others: Sequence[str] = ()

    @property
    def email(self) -> str:
        """The owner's address."""
        return f"owner-{self.team[:8]}@example.com"

    def subscribe(self, plan: str) -> Subscription:
        """Begin a subscription; nothing is sent yet."""
        return Subscription("sub_" + self._base62(14), plan, self.team)

    def charge(self, subscription: Subscription, plan: str | None = None) -> Webhook:
        """A payment: the first, a renewal, or the first on another plan."""
        subscription.plan = plan or subscription.plan
        subscription.paid += 1
        subscription.status = "active"
        return self.send("subscription.charged", subscription, payment=True)

    def later(self) -> int:
        """A time to come: shortly after the last fact, or while the stream runs."""
        assert self.coming is not None
        return self.chance.choice((self.clock + self.chance.choice((1, 2, 10, 60)), self.chance.choice(self.coming)))

    def end(self, subscription: Subscription) -> Webhook:
        """The subscription is cancelled, or has come to its end."""
        if self.chance.random() < 0.5:
            return self.send("subscription.cancelled", subscription, status="cancelled", ended_at=self.clock)
        over = self.coming is None or self.chance.random() < 0.5
        return self.send("subscription.completed", subscription, status="completed", current_end=self.clock - 5 if over else self.later())

    def send(self, event: str, subscription: Subscription, *, payment: bool = False, **entity: object) -> Webhook:
        """Send ``event`` about ``subscription``; some time passes."""
        self.clock += self.chance.choice(self.steps)
        note = {"team_id": subscription.team}
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


def team_scenarios(seed: int, teams: int, webhooks: int, start: int, coming: range | None = None) -> list[TeamScenario]:
    """Return ``teams`` scenarios with ``webhooks`` webhooks between them, each in the order in which it happened.

    With ``coming``, the Unix seconds in which the stream runs: pauses, ends and grace periods that are over by themselves, most of them
    at one of these seconds or long before, and subscriptions that move to another team. Every second scenario began some days earlier.
    """
    chance = random.Random(seed)
    ids = [str(uuid.UUID(int=chance.getrandbits(128), version=4)) for _ in range(teams)]
    found = []
    for number, team in enumerate(ids):
        team_scenario = TeamScenario(team, random.Random(chance.getrandbits(64)), start)
        if coming is not None:
            team_scenario.coming, team_scenario.others = coming, ids
            if number % 2:
                first = coming.start - GRACE_SECONDS + chance.randrange(max(1, len(coming) - GRACE_SECONDS))
                team_scenario.clock, team_scenario.steps = first - chance.choice(GRACE_DAYS) * DAY, (0, 1, 1)
        scenario = _live(team_scenario)
        while len(team_scenario.webhooks) < webhooks // teams + (number < webhooks % teams):
            next(scenario)
        found.append(team_scenario)
    return found


_TURNS = ("renewal", "change", "updated", "pending", "halt", "unknown_plan", "move", "scheduled", "return", "abandoned", "nil_team")
_TURNS_IN_TIME = ("pause", "pause", "dunning", "dunning", "move_away")
"""Turns after which something happens by itself, or which concern two teams."""


def _live(team_scenario: TeamScenario) -> Iterator[None]:
    """Never-ending: sign up, pay, change, stop, come back. Each step sends one webhook."""
    chance = team_scenario.chance
    plans = list(PLANS)
    turns = _TURNS if team_scenario.coming is None else _TURNS + _TURNS_IN_TIME
    while True:
        subscription = team_scenario.subscribe(chance.choice(plans))
        subscription.status = "authenticated"
        team_scenario.send("subscription.authenticated", subscription)
        yield
        team_scenario.charge(subscription)
        yield
        for _ in range(chance.randrange(6)):
            if subscription.status == "pending":
                break
            match chance.choice(turns):
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
                case "nil_team":
                    other = team_scenario.subscribe(chance.choice(plans))
                    other.team = NIL_TEAM
                    team_scenario.charge(other)
                case "move":
                    old, subscription = subscription, team_scenario.subscribe(chance.choice(plans))
                    team_scenario.charge(subscription)
                    yield
                    team_scenario.send("subscription.cancelled", old, status="cancelled", ended_at=team_scenario.clock)
                case "return":
                    former = subscription.plan
                    team_scenario.charge(subscription, chance.choice(plans))
                    yield
                    team_scenario.charge(subscription, former)
                case "abandoned":
                    other = team_scenario.subscribe(chance.choice(plans))
                    team_scenario.send("subscription.cancelled", other, status="cancelled", current_end=None, ended_at=team_scenario.clock)
                case "pause":
                    yield from _pause(team_scenario, subscription)
                case "dunning":
                    yield from _dunning(team_scenario, subscription)
                case "move_away":
                    subscription.team = chance.choice(team_scenario.others)
                    team_scenario.charge(subscription)
            yield
        if subscription.status != "pending":  # nobody pays it, and nobody ends it: its grace does
            team_scenario.end(subscription)
            yield


def _pause(team_scenario: TeamScenario, subscription: Subscription) -> Iterator[None]:
    """Paused, at once or once what is paid is used up; then often resumed, charged, or resumed without being active."""
    chance = team_scenario.chance
    subscription.status = "paused"
    until = team_scenario.clock - 5 if chance.random() < 0.3 else team_scenario.later()
    team_scenario.send("subscription.paused", subscription, current_end=until)
    match chance.choice(("resumed", "resumed", "charged", "not active", "nothing")):
        case "resumed":
            yield
            subscription.status = "active"
            team_scenario.send("subscription.resumed", subscription)
        case "charged":
            yield
            team_scenario.charge(subscription)
        case "not active":
            yield
            team_scenario.send("subscription.resumed", subscription, status="pending")


def _dunning(team_scenario: TeamScenario, subscription: Subscription) -> Iterator[None]:
    """A payment fails, perhaps more than once; then it is made good, given up, or nothing more comes."""
    chance = team_scenario.chance
    subscription.status = "pending"
    for _ in range(chance.choice((1, 1, 2))):
        event = chance.choice(("subscription.pending", "subscription.pending", "payment.failed"))
        team_scenario.send(event, subscription)
        yield
    match chance.choice(("charged", "halted", "nothing", "nothing")):
        case "charged":
            team_scenario.charge(subscription)
        case "halted":
            subscription.status = "halted"
            team_scenario.send("subscription.halted", subscription)
