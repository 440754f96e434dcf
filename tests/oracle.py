"""What classify should say, worked out the slow way: a second opinion that shares no code with ``agents``.

``SequentialOracle`` is fed the records of ``team.events`` in log order and says for each one its outcome, its audit rows
and the team's tier afterwards. ``final_tier`` is order-free: it looks at the set of all facts of one team. Both keep every
fact, in piles, and look through the piles again for each question, as a person with the papers in hand would; what makes
``agents`` small and fast has no counterpart here.

Cost: one event costs the number of facts of its team, so a hundred facts a team are quick and ten thousand are not.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from schemas.envelope import derived_id
from tests.oracle_facts import LADDER, MERGED, Event, Fact, Version, due_record, read
from tests.oracle_history import Course, Papers, Standing, Subscription


@dataclass(frozen=True)
class Row:
    """One row of ``audit_log``. ``from_tier`` and ``to_tier`` are the team's tier before and after; ``ends_at`` (Unix seconds) is
    the end of the grace period that the row is about."""

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
    ends_at: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What becomes of one event. ``rows`` are its audit rows, a grace period's before the transition's; ``tier`` is the team's
    afterwards (None when the event is a dead letter); ``current`` is what ``tier.current`` must receive, None when nothing."""

    reason: str
    rows: tuple[Row, ...]
    tier: str | None
    current: Standing | None


def final_tier(facts: Iterable[Fact], initial_tier: str = "free") -> str:
    """The tier of one team, from the set of its facts, whatever their order and however often each came."""
    return final_standing(facts, initial_tier).tier


def final_standing(facts: Iterable[Fact], initial_tier: str = "free") -> Standing:
    """The standing of one team, from the set of its facts."""
    papers = Papers()
    for fact in facts:
        if fact.role in MERGED:
            papers.add(fact)
    return papers.standing(initial_tier)


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
        self.said: dict[tuple[str, str, str], str] = {}
        """What was said under each (team, source, id) of a service's event that was kept."""

    def standing(self, team: str) -> Standing:
        """The team's standing now."""
        return self.standings.get(team, Standing(self.initial_tier, None))

    def courses(self, team: str) -> dict[str, Course]:
        """Where each of the team's subscriptions stands now, by name."""
        return {name: subscription.course() for name, subscription in self.papers.get(team, Papers()).subscriptions.items()}

    def coming_times(self, team: str) -> dict[str, list[int]]:
        """The times that the team waits for, in Unix seconds and in order, by subscription; nothing of one that waits for none."""
        return {name: times for name, course in self.courses(team).items() if (times := course.coming_times())}

    def due_records(self, team: str, now: int) -> list[dict[str, Any]]:
        """What classify must produce once it is ``now``: of several times of one subscription that have passed, the last alone."""
        courses = self.courses(team)
        passed = {name: [at for at in times if at <= now] for name, times in self.coming_times(team).items()}
        return [due_record(team, name, courses[name].plan or None, max(times)) for name, times in passed.items() if times]

    def feed(self, event: Event, received_at: int) -> Outcome:
        """Return the outcome of the next record; ``received_at`` is its timestamp in Unix seconds."""
        fact = read(event, received_at)
        if isinstance(fact, str):
            return Outcome(fact, (), None, None)
        before = self.standing(fact.team)
        said = self.said.get((fact.team, fact.source, fact.id))
        if fact.said and said is not None:
            return Outcome("duplicate", (), before.tier, None) if said == fact.said else Outcome("id_conflict", (), None, None)
        if fact.role == "passed_through":
            return Outcome(fact.role, (_row(fact, fact.type, fact.role, before, before),), before.tier, None)
        if fact.role not in MERGED:
            return Outcome(fact.role, (), before.tier, None)
        if fact.said:
            self.said[fact.team, fact.source, fact.id] = fact.said
        known = self.papers.get(fact.team)
        if fact.role == "pending" and known is not None and known.subscriptions.get(fact.subscription or "", Subscription()).ends:
            return Outcome("payment_trouble", (), before.tier, None)

        papers = self.papers.setdefault(fact.team, Papers())
        held = papers.newest(fact.role) if fact.role in papers.others else None
        was = papers.subscriptions.get(fact.subscription or "", Subscription()).copy()
        papers.add(fact)
        after = self.standings[fact.team] = papers.standing(self.initial_tier)
        changed = (before.tier, before.subscription) != (after.tier, after.subscription)
        reason, rows = _outcome(fact, held, was, papers, before, after)
        return Outcome(reason, rows, after.tier, after if known is None or changed else None)


def _row(fact: Fact, kind: str, reason: str, before: Standing, after: Standing, ends_at: int | None = None) -> Row:
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
        ends_at=ends_at,
    )


Verdict = tuple[str, str | None]
"""Reason, and the kind of the audit row (None for no row)."""


def _outcome(
    fact: Fact, held: Fact | None, was: Subscription, papers: Papers, before: Standing, after: Standing
) -> tuple[str, tuple[Row, ...]]:
    """``held`` and ``was`` are what was known before the fact, ``papers`` what is known with it."""
    match fact.role:
        case "claim":
            reason, kind = _newest_wins(fact, held, "claimed", "onboarding.claimed")
        case "override":
            reason, kind = _newest_wins(fact, held, "admin_changed", "admin.tier_changed")
        case "import":
            reason, kind = _newest_wins(fact, held, "imported", None)
        case _:
            assert fact.subscription is not None
            return _outcome_of_billing(Change(fact, was, papers.subscriptions[fact.subscription], papers, before, after))
    return reason, () if kind is None else (_row(fact, kind, reason, before, after),)


def _newest_wins(fact: Fact, held: Fact | None, reason: str, kind: str | None) -> Verdict:
    if held is None or fact.version > held.version:
        return reason, kind
    return ("duplicate" if fact.version == held.version else "stale"), None


class Change:
    """One fact about a subscription: what was known of it before, what is known with it, and the team's standings."""

    def __init__(self, fact: Fact, was: Subscription, now: Subscription, papers: Papers, before: Standing, after: Standing) -> None:
        self.fact, self.version = fact, fact.version
        self.was, self.now = was, now
        self.course_before, self.course_after = was.course(), now.course()
        self.before, self.after = before, after
        self.any_in_force = bool(papers.in_force())
        self.end = max(was.ends, default=None)
        self.newest = was.newest()
        self.in_history = not was.ends and fact.version in was.history
        self.left_force = self.course_before.in_force and not self.course_after.in_force
        self.rise = LADDER.index(after.tier) - LADDER.index(before.tier)
        self.adopted = fact.adopt and self.end is None and self.newest is None  # counts for a start, a halt and an end alone

    @property
    def older_than_newest(self) -> bool:
        return self.newest is not None and self.version < self.newest

    def by_sign(self) -> Verdict:
        return ("upgraded", "subscription.upgraded") if self.rise > 0 else ("downgraded", "subscription.downgraded")


def _outcome_of_billing(change: Change) -> tuple[str, tuple[Row, ...]]:
    reason, kind = _verdict(change)
    rows = [] if kind is None else [_row(change.fact, kind, reason, change.before, change.after)]
    grace = None if reason == "adopted" else _grace(change)
    if grace is not None:
        name, ends_at = grace
        rows.insert(0, _row(change.fact, f"payment.{name}", name, change.before, change.after, ends_at))
        reason = name if kind is None else reason
    return reason, tuple(rows)


def _verdict(change: Change) -> Verdict:
    match change.fact.role:
        case "start":
            return _verdict_on_start(change)
        case "halt" | "end":
            return _verdict_on_end(change)
        case role if change.end is not None:
            if role == "due":
                return "not_due", None
            return ("already_ended" if change.version > change.end else "stale"), None
        case _ if change.in_history:
            return "duplicate", None
        case "pause":
            return _verdict_on_pause(change)
        case "moved":
            return _verdict_on_move(change)
        case "ending":
            return _verdict_on_ending(change)
        case "pending":
            return _fall(change, "end") if change.left_force or change.rise else ("payment_trouble", None)
        case _:
            flavour = "paused" if change.course_after.mode == "paused" else "end"
            return _fall(change, flavour) if change.left_force or change.rise else ("not_due", None)


def _verdict_on_start(change: Change) -> Verdict:
    course = change.course_after
    end: Version | None = course.out_since if course.mode == "ended" else change.end
    charged = change.fact.type == "subscription.charged"
    if end is not None and change.version > end and (charged or not change.rise):
        return "ended", ("billing.charge_undeliverable" if charged else None)
    if change.adopted:
        return "adopted", None
    if change.rise:
        return change.by_sign()
    if change.in_history:
        return "duplicate", None
    if change.end is not None or change.older_than_newest or course.mode == "ended":
        return "stale", None
    return ("renewal" if change.after.subscription == change.fact.subscription else "superseded"), None


def _verdict_on_end(change: Change) -> Verdict:
    if change.adopted:
        return "adopted", None
    if not change.rise:
        if change.in_history or (change.end is not None and change.version == change.end):
            return "duplicate", None
        if change.end is not None and change.version < change.end:
            return "stale", None
        if change.fact.role == "halt" and change.end is None and change.older_than_newest:
            return "stale", None
        if not change.now.began():
            return "not_started", None
    if change.any_in_force:
        return change.by_sign() if change.rise else ("superseded", None)
    over_before = change.end is not None or (change.was.began() and not change.course_before.in_force)
    if over_before and not change.rise:
        return "already_ended", None
    return "canceled", "subscription.canceled"


def _verdict_on_pause(change: Change) -> Verdict:
    if change.left_force or change.rise:
        return _fall(change, "paused")
    newest = change.newest is None or change.version > change.newest
    course = change.course_after
    if course.mode == "paused" and course.in_force and newest:
        return "pauses_later", None
    if change.older_than_newest:
        return "stale", None
    return ("already_ended" if change.now.began() else "not_started"), None


def _verdict_on_move(change: Change) -> Verdict:
    if not change.now.began():
        return "not_started", None
    if change.left_force or change.rise:
        return _fall(change, "moved")
    return ("stale" if change.older_than_newest else "already_ended"), None


def _verdict_on_ending(change: Change) -> Verdict:
    if change.left_force or change.rise:
        return _fall(change, "end")
    if change.course_after.mode == "ended":
        return "already_ended", None
    later = any(fact.role == "ending" and fact.version > change.version for fact in change.was.history.values())
    return ("stale" if later else "ends_later"), None


def _fall(change: Change, flavour: str) -> Verdict:
    """What it is called when a subscription goes out of force and has not ended: ``flavour`` is paused, moved or end."""
    if not change.left_force:
        return change.by_sign()  # the subscription is where it was; only the tier is another, seen from now
    if change.any_in_force:
        if change.rise < 0:
            return ("downgraded" if flavour == "end" else flavour), "subscription.downgraded"
        return change.by_sign() if change.rise else ("superseded", None)
    if flavour == "end":
        return "canceled", "subscription.canceled"
    if change.rise > 0:
        return change.by_sign()
    if flavour == "moved":
        return "moved", "subscription.canceled"
    return "paused", ("subscription.downgraded" if change.rise else None)


def _grace(change: Change) -> tuple[str, int] | None:
    """What happens to the subscription's grace period: how it is called, and when the period ends or would have ended."""
    before, after = change.course_before.trouble, change.course_after.trouble
    if before is None:
        return None if after is None else ("grace_started", after.ends_at)
    if after is None:
        if change.fact.role == "start" and change.course_after.in_force:
            return "grace_recovered", before.ends_at
        return ("grace_terminated", before.ends_at) if change.course_after.mode in ("halted", "lapsed") else None
    at = change.version[0]
    reminded = any(change.course_before.passed < each <= at and each < after.ends_at for each in after.reminders)
    return ("grace_reminder", after.ends_at) if change.fact.role == "due" and reminded else None
