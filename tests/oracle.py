"""What classify should say, worked out the slow way: a second opinion that shares no code with ``agents``.

``SequentialOracle`` is fed the records of ``team.events`` in log order and says for each one its outcome, its audit row
and the team's tier afterwards. ``final_tier`` is order-free: it looks at the set of all facts of one team. Both keep every
fact, in piles, and look through the piles again for each question, as a person with the papers in hand would; what makes
``agents`` small and fast has no counterpart here.

Cost: one event costs the number of facts of its team, so a hundred facts a team are quick and ten thousand are not.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from schemas.envelope import derived_id
from tests.oracle_facts import LADDER, MERGED, Event, Fact, Version, read


@dataclass(frozen=True)
class Standing:
    """A team's tier, and the subscription that gives it (None when none does)."""

    tier: str
    subscription: str | None


@dataclass(frozen=True)
class Row:
    """One row of ``audit_log``. ``from_tier`` and ``to_tier`` are the team's tier before and after."""

    id: str
    kind: str
    team: str
    from_tier: str
    to_tier: str
    reason: str
    subscription: str | None
    plan: str | None
    event_id: str
    occurred_at: int


@dataclass(frozen=True)
class Outcome:
    """What becomes of one event. ``tier`` is the team's afterwards (None when the event is a dead letter); ``current`` is
    what ``tier.current`` must receive, None when nothing."""

    reason: str
    row: Row | None
    tier: str | None
    current: Standing | None


@dataclass
class Subscription:
    """All that was ever said about one subscription. A pile holds a fact once, however often it came."""

    starts: dict[Version, Fact] = field(default_factory=dict)
    halts: set[Version] = field(default_factory=set)
    ends: set[Version] = field(default_factory=set)
    coming_ends: set[int] = field(default_factory=set)
    paid: bool = False

    def copy(self) -> "Subscription":
        return Subscription(dict(self.starts), set(self.halts), set(self.ends), set(self.coming_ends), self.paid)

    def seen(self) -> bool:
        return bool(self.starts or self.halts or self.ends)

    def latest(self) -> Version | None:
        """The newest word on whether it runs; ends stand apart, they are final."""
        return max([*self.starts, *self.halts], default=None)

    def active(self) -> bool:
        return not self.ends and self.latest() in self.starts

    def halted(self) -> bool:
        return not self.ends and self.latest() in self.halts

    def over(self) -> bool:
        return bool(self.ends) or self.halted()

    def present(self) -> Fact:
        """The fact that says which plan it is on."""
        return self.starts[max(self.starts)]

    def on_plan_since(self) -> Version:
        """The first time that it was on its present plan."""
        plan = self.present().plan
        return min(version for version, start in self.starts.items() if start.plan == plan)


@dataclass
class Papers:
    """All merged facts of one team, in piles: its subscriptions by name, the others by role."""

    subscriptions: dict[str, Subscription] = field(default_factory=dict)
    others: dict[str, dict[Version, Fact]] = field(default_factory=lambda: {"override": {}, "claim": {}, "import": {}})

    def add(self, fact: Fact) -> None:
        if fact.role in self.others:
            self.others[fact.role][fact.version] = fact
        if fact.subscription is None:
            return
        subscription = self.subscriptions.setdefault(fact.subscription, Subscription())
        match fact.role:
            case "start" | "import":
                subscription.starts[fact.version] = fact
            case "halt":
                subscription.halts.add(fact.version)
            case "end":
                subscription.ends.add(fact.version)
            case "later_end":
                subscription.coming_ends.add(fact.ends_at)
                return
        subscription.paid = subscription.paid or fact.paid

    def newest(self, role: str) -> Fact | None:
        pile = self.others[role]
        return pile[max(pile)] if pile else None

    def standing(self, initial_tier: str) -> Standing:
        override, imported, claim = self.newest("override"), self.newest("import"), self.newest("claim")
        active = {name: subscription for name, subscription in self.subscriptions.items() if subscription.active()}
        if active:
            name, governing = max(active.items(), key=lambda item: item[1].on_plan_since())
            if override is not None and override.version > governing.on_plan_since():
                return Standing(_tier(override), None)
            if imported is not None and imported.plan == governing.present().plan and imported.subscription in (None, name):
                return Standing(_tier(imported), name)
            return Standing(_tier(governing.present()), name)

        ends = {end for subscription in self.subscriptions.values() for end in subscription.ends}
        ends |= {max(subscription.halts) for subscription in self.subscriptions.values() if subscription.halted()}
        if override is not None and all(override.version > end for end in ends):
            return Standing(_tier(override), None)
        if any(subscription.paid for subscription in self.subscriptions.values()):
            return Standing("hobby", None)
        if imported is not None:
            return Standing(_tier(imported), None)
        if claim is not None and claim.tier is not None:
            return Standing(claim.tier, None)
        return Standing(initial_tier, None)


def _tier(fact: Fact) -> str:
    assert fact.tier is not None, f"{fact} was let through without a tier"
    return fact.tier


def final_tier(facts: Iterable[Fact], initial_tier: str = "free") -> str:
    """The tier of one team, from the set of its facts, whatever their order and however often each came."""
    papers = Papers()
    for fact in facts:
        if fact.role in MERGED:
            papers.add(fact)
    return papers.standing(initial_tier).tier


def final_standings(records: Iterable[tuple[Event, int]], initial_tier: str = "free") -> dict[str, Standing]:
    """What ``tier.current`` must say in the end, by team. ``records`` are (value, timestamp in Unix seconds), in any order."""
    papers: dict[str, Papers] = {}
    for event, received_at in records:
        fact = read(event, received_at)
        if isinstance(fact, Fact) and fact.role in MERGED:
            papers.setdefault(fact.team, Papers()).add(fact)
    return {team: each.standing(initial_tier) for team, each in papers.items()}


class SequentialOracle:
    """Says what each record of ``team.events`` leads to. Feed it one log, in order."""

    def __init__(self, initial_tier: str = "free") -> None:
        self.initial_tier = initial_tier
        self.papers: dict[str, Papers] = {}
        self.standings: dict[str, Standing] = {}

    def standing(self, team: str) -> Standing:
        """The team's standing now."""
        return self.standings.get(team, Standing(self.initial_tier, None))

    def feed(self, event: Event, received_at: int) -> Outcome:
        """Return the outcome of the next record; ``received_at`` is its timestamp in Unix seconds."""
        fact = read(event, received_at)
        if isinstance(fact, str):
            return Outcome(fact, None, None, None)
        before = self.standing(fact.team)
        if fact.role not in MERGED:
            row = _row(fact, fact.type, fact.role, before, before) if fact.role == "passed_through" else None
            return Outcome(fact.role, row, before.tier, None)

        first = fact.team not in self.papers
        papers = self.papers.setdefault(fact.team, Papers())
        held = papers.newest(fact.role) if fact.role in papers.others else None
        subscription = papers.subscriptions.get(fact.subscription or "", Subscription()).copy()
        papers.add(fact)
        after = self.standings[fact.team] = papers.standing(self.initial_tier)
        reason, kind = _verdict(fact, held, subscription, papers, before, after)
        row = None if kind is None else _row(fact, kind, reason, before, after)
        return Outcome(reason, row, after.tier, after if first or after != before else None)


def _row(fact: Fact, kind: str, reason: str, before: Standing, after: Standing) -> Row:
    return Row(
        id=derived_id("classify", fact.source, fact.id, fact.team, kind),
        kind=kind,
        team=fact.team,
        from_tier=before.tier,
        to_tier=after.tier,
        reason=reason,
        subscription=fact.subscription,
        plan=fact.plan,
        event_id=fact.event_id,
        occurred_at=fact.version[0],
    )


Verdict = tuple[str, str | None]
"""Reason, and the kind of the audit row (None for no row)."""


def _verdict(fact: Fact, held: Fact | None, subscription: Subscription, papers: Papers, before: Standing, after: Standing) -> Verdict:
    """``held`` and ``subscription`` are what was known before the fact, ``papers`` what is known with it."""
    match fact.role:
        case "claim":
            return _newest_wins(fact, held, "claimed", "onboarding.claimed")
        case "override":
            return _newest_wins(fact, held, "admin_changed", "admin.tier_changed")
        case "import":
            return _newest_wins(fact, held, "imported", None)
        case "later_end":
            return _verdict_on_coming_end(fact, subscription), None
    if fact.adopt and not subscription.seen():
        return "adopted", None
    moved = _moved(before, after)
    if fact.role == "start":
        return _verdict_on_start(fact, subscription, moved, governs=after.subscription == fact.subscription)
    return _verdict_on_end(fact, subscription, moved, another_active=any(each.active() for each in papers.subscriptions.values()))


def _newest_wins(fact: Fact, held: Fact | None, reason: str, kind: str | None) -> Verdict:
    if held is None or fact.version > held.version:
        return reason, kind
    return _old(fact.version, held.version), None


def _old(version: Version, held: Version) -> str:
    return "duplicate" if version == held else "stale"


def _moved(before: Standing, after: Standing) -> Verdict | None:
    if LADDER.index(after.tier) > LADDER.index(before.tier):
        return "upgraded", "subscription.upgraded"
    if LADDER.index(after.tier) < LADDER.index(before.tier):
        return "downgraded", "subscription.downgraded"
    return None


def _verdict_on_coming_end(fact: Fact, subscription: Subscription) -> str:
    if subscription.ends:
        return "already_ended" if fact.version > max(subscription.ends) else "stale"
    remembered = max(subscription.coming_ends, default=0)
    if fact.ends_at > remembered:
        return "ends_later"
    return "duplicate" if fact.ends_at == remembered else "stale"


def _verdict_on_start(fact: Fact, subscription: Subscription, moved: Verdict | None, governs: bool) -> Verdict:
    charged = fact.type == "subscription.charged"
    if subscription.ends and fact.version > max(subscription.ends) and (charged or moved is None):
        return "ended", ("billing.charge_undeliverable" if charged else None)
    if moved is not None:
        return moved
    if subscription.ends:
        return "stale", None
    latest = subscription.latest()
    if latest is not None and fact.version in (latest, max(subscription.starts, default=None)):
        return "duplicate", None
    if latest is not None and fact.version < latest:
        return "stale", None
    return ("renewal" if governs else "superseded"), None


def _verdict_on_end(fact: Fact, subscription: Subscription, moved: Verdict | None, another_active: bool) -> Verdict:
    # A live subscription is ended by any end, however old; only another end or, for a halt, a newer word makes it old news.
    held = max(subscription.ends, default=subscription.latest() if fact.role == "halt" else None)
    if moved is None and held is not None and fact.version <= held:
        return _old(fact.version, held), None
    if another_active:
        return moved or ("superseded", None)
    if subscription.over() and moved is None:
        return "already_ended", None
    return "canceled", "subscription.canceled"
