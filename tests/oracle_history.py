"""What the oracle knows of one team, and how it works out the team's tier from it: all facts sorted, then walked through."""

from dataclasses import dataclass, field

from tests.oracle_facts import Fact, Version


@dataclass(frozen=True)
class Standing:
    """A team's tier, the subscription that gives it (None when none does), and since when (Unix seconds, 0 when nobody knows)."""

    tier: str
    subscription: str | None
    since: int = 0


@dataclass(frozen=True)
class Trouble:
    """A grace period: a payment failed, and nobody has paid yet."""

    begun: Version
    ends_at: int
    reminders: tuple[int, ...]


@dataclass
class Course:
    """Where a subscription stands after a walk through its facts. ``mode`` is one of none, active, paused, halted, moved, lapsed,
    ended; ``passed`` is the latest time that a due record named."""

    mode: str = "none"
    plan: str = ""
    tier: str = ""
    run_start: Version | None = None
    out_since: Version | None = None
    trouble: Trouble | None = None
    coming_end: int | None = None
    until: int = 0
    pause_in_force: bool = False
    passed: int = 0

    @property
    def in_force(self) -> bool:
        return self.mode == "active" or (self.mode == "paused" and self.pause_in_force)

    def go_on(self, fact: Fact) -> None:
        """Take in the next fact."""
        match fact.role:
            case "start" | "import":
                self._start(fact)
            case "halt":
                self._leave("halted", fact.version)
            case "moved":
                if self.mode != "moved":
                    self._leave("moved", fact.version)
            case "pause":
                self._pause(fact)
            case "pending":
                if self.mode == "active" and self.trouble is None:
                    self.trouble = Trouble(fact.version, fact.until, fact.reminders)
            case "ending":
                if self.mode != "ended":
                    self.coming_end = fact.until
            case "due":
                self._pass(fact.version)

    def _start(self, fact: Fact) -> None:
        if self.mode == "ended":
            return
        plan = fact.plan or ""
        if self.mode != "active" or plan != self.plan:
            self.run_start = fact.version
        if self.mode != "active" or fact.type in ("subscription.charged", "subscription.activated"):
            self.trouble = None
        self.mode, self.plan, self.tier = "active", plan, tier_of(fact)

    def _leave(self, mode: str, version: Version) -> None:
        if self.mode != "ended":
            self.mode, self.out_since, self.trouble = mode, version, None

    def _pause(self, fact: Fact) -> None:
        if self.in_force:
            self.mode, self.until, self.trouble, self.pause_in_force = "paused", fact.until, None, fact.until > 0
            if not self.pause_in_force:
                self.out_since = fact.version

    def _pass(self, version: Version) -> None:
        at = version[0]
        if self.mode == "ended":
            pass  # it ended when the first due record said so
        elif self.coming_end is not None and self.coming_end <= at:
            self.mode, self.out_since, self.trouble = "ended", version, None
        elif self.mode == "paused" and self.pause_in_force and self.until <= at:
            self.pause_in_force, self.out_since = False, version
        elif self.trouble is not None and self.trouble.ends_at <= at:
            self.mode, self.out_since, self.trouble = "lapsed", version, None
        self.passed = max(self.passed, at)

    def coming_times(self) -> list[int]:
        """The times, in Unix seconds, that due records must name, in order."""
        if not self.in_force:
            return []
        times = set() if self.coming_end is None else {self.coming_end}
        if self.mode == "paused":
            times.add(self.until)
        if self.trouble is not None:
            begun, ends_at = self.trouble.begun[0], self.trouble.ends_at
            times |= {ends_at, *(each for each in self.trouble.reminders if max(self.passed, begun) < each < ends_at)}
        return sorted(times)


OVER = Course("over")
"""Where a subscription with an end stands, whatever else was said of it."""


@dataclass
class Subscription:
    """All that was ever said about one subscription. A pile holds a fact once, however often it came."""

    history: dict[Version, Fact] = field(default_factory=dict)
    ends: dict[Version, Fact] = field(default_factory=dict)

    def copy(self) -> "Subscription":
        return Subscription(dict(self.history), dict(self.ends))

    def add(self, fact: Fact) -> None:
        pile = self.ends if fact.role == "end" else self.history
        pile[fact.version] = fact

    def course(self) -> Course:
        """Walk through all facts, the oldest first."""
        if self.ends:
            return OVER
        course = Course()
        for version in sorted(self.history):
            course.go_on(self.history[version])
        return course

    def newest(self) -> Version | None:
        """The newest word on whether it runs; ends stand apart, they are final."""
        return max(
            (fact.version for fact in self.history.values() if fact.role in ("start", "import", "halt", "pause", "moved")), default=None
        )

    def began(self) -> bool:
        """Whether it ever ran. A pause, a failed payment or a coming end alone do not say so."""
        return any(
            fact.role in ("start", "import") or (fact.role in ("halt", "end") and fact.paid)
            for fact in [*self.history.values(), *self.ends.values()]
        )

    def paid(self) -> bool:
        """Whether anybody ever paid for it."""
        return any(fact.paid and fact.role in ("start", "import", "halt", "end") for fact in [*self.history.values(), *self.ends.values()])

    def out_since(self) -> list[Version]:
        """The versions at which it went out of force for good or for now; none while it runs, or when it never did."""
        if not self.began():
            return []
        if self.ends:
            return list(self.ends)
        course = self.course()
        return [] if course.in_force or course.out_since is None else [course.out_since]


@dataclass
class Papers:
    """All merged facts of one team, in piles: its subscriptions by name, the others by role."""

    subscriptions: dict[str, Subscription] = field(default_factory=dict)
    others: dict[str, dict[Version, Fact]] = field(default_factory=lambda: {"override": {}, "claim": {}, "import": {}})

    def add(self, fact: Fact) -> None:
        if fact.role in self.others:
            self.others[fact.role][fact.version] = fact
        if fact.subscription is not None:
            self.subscriptions.setdefault(fact.subscription, Subscription()).add(fact)

    def newest(self, role: str) -> Fact | None:
        pile = self.others[role]
        return pile[max(pile)] if pile else None

    def in_force(self) -> dict[str, Course]:
        """The courses of the subscriptions that are in force, by name."""
        courses = {name: subscription.course() for name, subscription in self.subscriptions.items()}
        return {name: course for name, course in courses.items() if course.in_force}

    def standing(self, initial_tier: str) -> Standing:
        override, imported, claim = self.newest("override"), self.newest("import"), self.newest("claim")
        runs = {course.run_start: (name, course) for name, course in self.in_force().items() if course.run_start is not None}
        if runs:
            start = max(runs)
            name, governing = runs[start]
            if override is not None and override.version > start:
                return Standing(tier_of(override), None, override.version[0])
            if imported is not None and (imported.plan or "") == governing.plan and imported.subscription in (None, name):
                return Standing(tier_of(imported), name, start[0])
            return Standing(governing.tier, name, start[0])

        ends = [version for subscription in self.subscriptions.values() for version in subscription.out_since()]
        if override is not None and all(override.version > end for end in ends):
            return Standing(tier_of(override), None, override.version[0])
        if any(subscription.paid() for subscription in self.subscriptions.values()):
            return Standing("hobby", None, max(ends)[0] if ends else 0)
        if imported is not None:
            return Standing(tier_of(imported), None, imported.version[0])
        if claim is not None:
            return Standing(claim.tier or initial_tier, None, claim.version[0])
        return Standing(initial_tier, None)


def tier_of(fact: Fact) -> str:
    """The tier that the fact names."""
    assert fact.tier is not None, f"{fact} was let through without a tier"
    return fact.tier
