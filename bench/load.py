"""The load of ``team.events``: seeded scenarios of teams, in the very envelopes that normalise and the gateway write.

One team holds one subscription at a time and its events are in order, each in a second of its own, so that a far simpler
decision than tierstream's gives the same outputs: peers need no registers. What each event must lead to is known here, by
construction, and checked against the tests' oracle (``bench.expected``).
"""

import hashlib
import random
import uuid
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import orjson

from schemas.envelope import derived_id

BEGIN: Final = 1_767_225_600
"""Unix seconds of the load's first event: 2026-01-01. One event a second from then on, which keeps every team's order strict."""

PLANS: Final = {
    "plan_hobby": "hobby",
    "plan_hobby_plus": "hobby_plus",
    "plan_pro": "pro",
    "plan_pro_yearly": "pro",
    "plan_growth": "growth",
    "plan_team": "team",
}
MONTH: Final = 2_592_000

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class LoadSpec:
    """What fills the topic. The same spec gives the same bytes, on every machine."""

    events: int
    teams: int
    partitions: int = 8
    seed: int = 1
    claims: bool = True
    """Whether every team begins with being claimed."""

    @property
    def name(self) -> str:
        """A name for files that belong to it."""
        return f"{self.events}-{self.teams}-{self.partitions}-{self.seed}" + ("" if self.claims else "-unclaimed")


class AuditRow(NamedTuple):
    """What the oracle's ``Row`` says of one audit event; ``before`` and ``after`` are empty where the event names no tiers."""

    id: str
    kind: str
    team: str
    before: str
    after: str
    reason: str
    subscription: str
    plan: str
    event_id: str
    occurred_at: str


class CurrentTier(NamedTuple):
    """One record of ``tier.current``."""

    team: str
    tier: str
    since: str
    subscription: str


class LoadEvent(NamedTuple):
    """One record of the load, and what it must lead to. ``timestamp`` is in milliseconds."""

    team: str
    value: bytes
    timestamp: int
    audit: AuditRow | None
    current: CurrentTier | None


_RANKS: Final = {tier: rank for rank, tier in enumerate(("free", "hobby", "hobby_plus", "pro", "growth", "team"), start=1)}
_OTHER_TIER: Final = {plan: [other for other in PLANS if PLANS[other] != tier] for plan, tier in PLANS.items()}
_PRICES: Final = {plan: 49_900 * _RANKS[tier] for plan, tier in PLANS.items()}
_PLAN_NAMES: Final = list(PLANS)


def events(spec: LoadSpec) -> Iterator[LoadEvent]:
    """Yield the load, in the order in which it is produced."""
    chance = random.Random(spec.seed)
    teams = [_TeamScenario(str(uuid.UUID(int=chance.getrandbits(128), version=4)), chance, spec) for _ in range(spec.teams)]
    pick = chance.random
    for number in range(spec.events):
        yield teams[int(pick() * spec.teams)].next_event(number)


class _TeamScenario:
    """One team so far. ``since`` is when the present run of its plan began."""

    __slots__ = (
        "active",
        "chance",
        "claimed",
        "email",
        "halted",
        "paid",
        "plan",
        "seed",
        "since",
        "subscription",
        "team",
        "tier",
        "waiting",
    )

    def __init__(self, team: str, chance: random.Random, spec: LoadSpec) -> None:
        self.team = team
        self.chance = chance
        self.seed = spec.seed
        self.email = f"owner-{team[:8]}@example.com"
        self.tier = "free"
        self.claimed = not spec.claims
        self.active = self.halted = self.waiting = False
        self.subscription = ""
        self.plan = ""
        self.paid = 0
        self.since = ""

    def next_event(self, number: int) -> LoadEvent:
        """Return the team's next event, which is the load's ``number``-th."""
        seconds = BEGIN + number
        digest = hashlib.blake2b(b"%d %d" % (self.seed, number), digest_size=30).digest()
        ids = b64encode(digest, b"Zz").decode()
        time = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        roll = self.chance.random()
        if not self.claimed:
            return self._claim(seconds, time, ids)
        if self.halted:
            return self._charge(seconds, time, ids, self.plan) if roll < 0.7 else self._end(seconds, time, ids, "cancelled")
        if not self.active:
            if roll < 0.1 and not self.waiting:
                self._subscribe(ids)
                self.waiting = True
                return self._reported(seconds, time, ids, "authenticated", "authenticated")
            if not self.waiting:
                self._subscribe(ids)
            return self._charge(seconds, time, ids, self.plan)
        if roll < 0.755:
            return self._charge(seconds, time, ids, self.chance.choice(_OTHER_TIER[self.plan]))
        if roll < 0.85:
            return self._charge(seconds, time, ids, self.plan)
        if roll < 0.89:
            return self._end(seconds, time, ids, "cancelled")
        if roll < 0.90:
            return self._end(seconds, time, ids, "completed")
        if roll < 0.915:
            return self._end(seconds, time, ids, "halted")
        if roll < 0.935:
            return self._charge(seconds, time, ids, self.chance.choice(_OTHER_TIER[self.plan]), "updated")
        if roll < 0.945:
            return self._reported(seconds, time, ids, "updated", "active", scheduled=True)
        if roll < 0.96:
            return self._reported(seconds, time, ids, "pending", "pending")
        if roll < 0.985:
            return self._passed_through(seconds, time, ids, "near_quota_wall", _quota(self.chance))
        data = {"experiment": "pricing_page_2026", "variant": "annual_first", "goal": "checkout"}
        return self._passed_through(seconds, time, ids, "experiment.conversion", data)

    # What happens

    def _claim(self, seconds: int, time: str, ids: str) -> LoadEvent:
        self.claimed = True
        data = {"email": self.email, "user_id": str(uuid.uuid5(uuid.NAMESPACE_OID, self.team)), "name": f"Owner of {self.team[:8]}"}
        id, source, value = self._service("onboarding.claimed", time, ids, data)
        row = self._row(source, id, id, "onboarding.claimed", self.tier, self.tier, "claimed", time)
        return LoadEvent(self.team, value, _arrival(seconds), row, CurrentTier(self.team, self.tier, time, ""))

    def _passed_through(self, seconds: int, time: str, ids: str, kind: str, data: Json) -> LoadEvent:
        id, source, value = self._service(kind, time, ids, data)
        return LoadEvent(self.team, value, _arrival(seconds), self._row(source, id, id, kind, "", "", "passed_through", time), None)

    def _subscribe(self, ids: str) -> None:
        self.subscription = f"sub_{ids[26:40]}"
        self.plan = self.chance.choice(_PLAN_NAMES)
        self.paid = 0

    def _charge(self, seconds: int, time: str, ids: str, plan: str, event: str = "charged") -> LoadEvent:
        """A payment, or (``updated``) another plan: the plan is in force, and the subscription with it."""
        governed = self.active
        if not governed or plan != self.plan:
            self.since = time
        self.active, self.halted, self.waiting, self.plan = True, False, False, plan
        self.paid += event == "charged"
        before, after = self.tier, PLANS[plan]
        self.tier = after
        id, event_id, value = self._fact(seconds, time, ids, event, "active", payment=event == "charged")
        row = None
        if before != after:
            reason = "upgraded" if _RANKS[after] > _RANKS[before] else "downgraded"
            row = self._row(
                _NORMALISE, id, event_id, f"subscription.{reason}", before, after, reason, time, subscription=self.subscription, plan=plan
            )
        emitted = before != after or not governed
        current = CurrentTier(self.team, after, self.since, self.subscription) if emitted else None
        return LoadEvent(self.team, value, _arrival(seconds), row, current)

    def _end(self, seconds: int, time: str, ids: str, event: str) -> LoadEvent:
        """The subscription ends, or is halted: what was paid once leaves the team on hobby."""
        emitted, before = self.active, self.tier
        self.active, self.halted = False, event == "halted"
        id, event_id, value = self._fact(seconds, time, ids, event, event)
        if not emitted:
            return LoadEvent(self.team, value, _arrival(seconds), None, None)
        self.tier = "hobby"
        row = self._row(
            _NORMALISE,
            id,
            event_id,
            "subscription.canceled",
            before,
            "hobby",
            "canceled",
            time,
            subscription=self.subscription,
            plan=self.plan,
        )
        return LoadEvent(self.team, value, _arrival(seconds), row, CurrentTier(self.team, "hobby", time, ""))

    def _reported(self, seconds: int, time: str, ids: str, event: str, status: str, *, scheduled: bool = False) -> LoadEvent:
        """A fact that changes nothing."""
        _, _, value = self._fact(seconds, time, ids, event, status, scheduled=scheduled)
        return LoadEvent(self.team, value, _arrival(seconds), None, None)

    # How it is written

    def _fact(
        self, seconds: int, time: str, ids: str, event: str, status: str, *, payment: bool = False, scheduled: bool = False
    ) -> tuple[str, str, bytes]:
        """Return id, Razorpay's event id and envelope of a subscription fact, as normalise writes it."""
        event_id, kind = ids[:14], f"subscription.{event}"
        id = derived_id("normalise", "razorpay", event_id, self.team, kind)
        data: Json = {
            "event_id": event_id,
            "subscription_id": self.subscription,
            "occurred_at": seconds,
            "time_source": "created_at",
            "plan_id": self.plan,
            "tier": PLANS[self.plan],
            "paid_count": self.paid,
            "status": status,
            "has_scheduled_changes": scheduled,
            "current_end": seconds - 5 if event == "completed" else seconds + MONTH,
        }
        if payment:
            data |= {"email": self.email, "amount": _PRICES[self.plan], "currency": "INR", "payment_id": f"pay_{ids[12:26]}"}
        data["adopt"] = False
        value = orjson.dumps(
            {
                "specversion": "1.0",
                "id": id,
                "source": _NORMALISE,
                "type": kind,
                "time": time,
                "datacontenttype": "application/json",
                "dataschema": "schemas/subscription-fact/v1",
                "causationid": event_id,
                "correlationid": event_id,
                "data": data,
                "subject": self.team,
            }
        )
        return id, event_id, value

    def _service(self, kind: str, time: str, ids: str, data: Json) -> tuple[str, str, bytes]:
        """Return id, source and envelope of an event that a service sent, as the gateway writes it."""
        id, source = f"{kind}-{ids[:14]}", "tierstream/ingest/product"
        value = orjson.dumps(
            {
                "specversion": "1.0",
                "id": id,
                "source": source,
                "type": kind,
                "subject": self.team,
                "time": time,
                "datacontenttype": "application/json",
                "correlationid": id,
                "data": data,
            }
        )
        return id, source, value

    def _row(
        self,
        source: str,
        id: str,
        event_id: str,
        kind: str,
        before: str,
        after: str,
        reason: str,
        time: str,
        *,
        subscription: str = "",
        plan: str = "",
    ) -> AuditRow:
        audit_id = derived_id("classify", source, id, self.team, kind)
        return AuditRow(audit_id, kind, self.team, before, after, reason, subscription, plan, event_id, time)


_NORMALISE: Final = "tierstream/normalise"


def _arrival(seconds: int) -> int:
    """The record's timestamp: a moment after the fact."""
    return seconds * 1000 + 800


def _quota(chance: random.Random) -> Json:
    return {"resource_type": "api_calls", "used": 900 + int(chance.random() * 100), "limit": 1_000, "unit": "calls"}
