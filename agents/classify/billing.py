"""What a fact about a subscription does: how it is merged into the row, and what its outcome is called. Pure.

Each line of the table in ``docs/classification.md`` is one ``return`` here, in the same order.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from agents.classify.facts import Billing, BillingFact
from agents.classify.history import Mode
from agents.classify.registers import (
    Row,
    Standing,
    any_in_force,
    merge_due,
    merge_end,
    merge_ending,
    merge_halt,
    merge_moved,
    merge_pause,
    merge_pending,
    merge_start,
)
from schemas.kinds import Kind
from schemas.reasons import Reason
from schemas.team_events import SubscriptionEvent, Version, starts
from schemas.tiers import Tier


class Grace(NamedTuple):
    """What becomes of a grace period: the kind to emit, and when the grace ends or would have ended, in Unix seconds."""

    kind: Kind
    ends_at: int


class Outcome(NamedTuple):
    """What a fact is called: the reason, the kind of the transition (None: none), and what becomes of a grace period."""

    reason: Reason
    kind: Kind | None = None
    grace: Grace | None = None


# An enum's member is looked up through a Python function: once, not for each fact.
_CHARGED, _HALTED, _DUE = SubscriptionEvent.CHARGED, SubscriptionEvent.HALTED, SubscriptionEvent.DUE
_UPGRADED: Final = Outcome(Reason.UPGRADED, Kind.UPGRADED)
_DOWNGRADED: Final = Outcome(Reason.DOWNGRADED, Kind.DOWNGRADED)
_CANCELED: Final = Outcome(Reason.CANCELED, Kind.CANCELED)

_GRACE_REASONS: Final = {
    Kind.GRACE_STARTED: Reason.GRACE_STARTED,
    Kind.GRACE_REMINDER: Reason.GRACE_REMINDER,
    Kind.GRACE_RECOVERED: Reason.GRACE_RECOVERED,
    Kind.GRACE_TERMINATED: Reason.GRACE_TERMINATED,
}


def grace_reason(kind: Kind) -> Reason:
    """Return the reason that an audit event about a grace period gives."""
    return _GRACE_REASONS[kind]


def by_sign(before: Tier, after: Tier) -> Outcome:
    """Return what a change from one tier to another is called."""
    return _UPGRADED if after > before else _DOWNGRADED


def merge(row: Row, version: Version, body: Billing) -> Row:
    """Merge a fact into the row; one without effect gives back the row itself."""
    fact = body.fact
    if _starts(body):
        assert body.tier is not None  # ``_starts`` saw to it
        paid = fact.paid_count > 0 or body.event is _CHARGED
        return merge_start(row, fact.subscription_id, version, fact.plan_id or "", body.tier, paid)
    merge_fact = _MERGES.get(body.event)
    return row if merge_fact is None else merge_fact(row, version, fact)


def _pending(row: Row, version: Version, fact: BillingFact) -> Row:
    if not _has_grace(fact):
        return row
    return merge_pending(row, fact.subscription_id, version, fact.grace_ends_at or 0, fact.grace_reminders_at, fact.email or "")


def _paused(row: Row, version: Version, fact: BillingFact) -> Row:
    until = fact.current_end or 0
    return merge_pause(row, fact.subscription_id, version, until if until > fact.occurred_at else 0, fact.email or "")


def _halted(row: Row, version: Version, fact: BillingFact) -> Row:
    return merge_halt(row, fact.subscription_id, version, fact.paid_count > 0)


def _completed(row: Row, version: Version, fact: BillingFact) -> Row:
    if _ends_later(fact):
        return merge_ending(row, fact.subscription_id, version, fact.current_end or 0, fact.email or "")
    return _ended(row, version, fact)


def _ended(row: Row, version: Version, fact: BillingFact) -> Row:
    return merge_end(row, fact.subscription_id, version, fact.paid_count > 0)


_MERGES: Final[dict[SubscriptionEvent, Callable[[Row, Version, BillingFact], Row]]] = {
    SubscriptionEvent.PENDING: _pending,
    SubscriptionEvent.PAYMENT_FAILED: _pending,
    SubscriptionEvent.PAUSED: _paused,
    SubscriptionEvent.HALTED: _halted,
    SubscriptionEvent.COMPLETED: _completed,
    SubscriptionEvent.CANCELLED: _ended,
    SubscriptionEvent.MOVED: lambda row, version, fact: merge_moved(row, fact.subscription_id, version),
    SubscriptionEvent.DUE: lambda row, version, fact: merge_due(row, fact.subscription_id, version),
}
"""What says something about what is in force, beside the events that start a plan."""


def outcome(row: Row, merged: Row, version: Version, body: Billing, before: Standing, after: Standing) -> Outcome:
    """Return what a fact is called that led from ``row`` to ``merged``, and from one standing to another."""
    change = _Change(row, merged, version, body, before, after)
    found = change.outcome()
    grace = None if found.reason is Reason.ADOPTED else change.grace()
    if grace is None:
        return found
    return Outcome(found.reason if found.kind is not None else _GRACE_REASONS[grace.kind], found.kind, grace)


def _starts(body: Billing) -> bool:
    fact = body.fact
    return body.tier is not None and starts(body.event, fact.paid_count, fact.status, fact.has_scheduled_changes)


def _has_grace(fact: BillingFact) -> bool:
    return fact.grace_ends_at is not None and fact.grace_ends_at > fact.occurred_at


def _ends_later(fact: BillingFact) -> bool:
    return fact.current_end is not None and fact.current_end > fact.occurred_at


class _Change:
    """A fact with the rows, the states of its subscription and the team's standings before and after it."""

    def __init__(self, row: Row, merged: Row, version: Version, body: Billing, before: Standing, after: Standing) -> None:
        subscription_id = body.fact.subscription_id
        self.event, self.fact, self.version = body.event, body.fact, version
        self.is_start = _starts(body)
        self.merged = merged
        self.was, self.is_now = row.state(subscription_id), merged.state(subscription_id)
        self.end = row.end_of(subscription_id)
        known = row.live.get(subscription_id)
        self.known = known is not None and merged.live.get(subscription_id) is known  # merging it left the history as it was
        self.before, self.after = before, after
        self.tier_changed = before.tier != after.tier

    def outcome(self) -> Outcome:
        return self._of_start() if self.is_start else _OUTCOMES[self.event](self)

    def grace(self) -> Grace | None:
        """Return what becomes of the grace period of this subscription."""
        was, now = self.was.trouble, self.is_now.trouble
        if was is None:
            return None if now is None else Grace(Kind.GRACE_STARTED, now.ends_at)
        if now is None:
            if self.is_start and self.is_now.in_force:
                return Grace(Kind.GRACE_RECOVERED, was.ends_at)
            if self.is_now.mode in (Mode.HALTED, Mode.LAPSED):
                return Grace(Kind.GRACE_TERMINATED, was.ends_at)
            return None
        if self.event is _DUE and self.was.coming_reminders(self.fact.occurred_at):
            return Grace(Kind.GRACE_REMINDER, now.ends_at)
        return None

    def _of_start(self) -> Outcome:
        end = self.end or (self.is_now.out_since if self.is_now.mode is Mode.ENDED else None)
        if end is not None and self.version > end:
            if self.event is _CHARGED:
                return Outcome(Reason.ENDED, Kind.CHARGE_UNDELIVERABLE)  # nothing to pay for: operators must check it
            if not self.tier_changed:  # it does where this fact is the first to say that the team ever paid
                return Outcome(Reason.ENDED)
        if self._is_adopted():
            return Outcome(Reason.ADOPTED)
        if self.tier_changed:
            return by_sign(self.before.tier, self.after.tier)
        if self.known:
            return Outcome(Reason.DUPLICATE)
        if end is not None or self._is_old():
            return Outcome(Reason.STALE)
        return Outcome(Reason.RENEWAL if self.after.subscription_id == self.fact.subscription_id else Reason.SUPERSEDED)

    def _of_update(self) -> Outcome:
        return Outcome(Reason.SCHEDULED if self.fact.has_scheduled_changes else Reason.NOT_ACTIVE)

    def _of_completion(self) -> Outcome:
        return self._of_ending() if _ends_later(self.fact) else self._of_end()

    def _of_end(self) -> Outcome:
        """Return what a cancellation, a completion or a halt is called."""
        if self._is_adopted():
            return Outcome(Reason.ADOPTED)
        if not self.tier_changed:
            if self.known or self.version == self.end:
                return Outcome(Reason.DUPLICATE)
            if self.end is not None and self.version < self.end:
                return Outcome(Reason.STALE)
            if self.end is None and self.event is _HALTED and self._is_old():
                return Outcome(Reason.STALE)
            if self._never_began():
                return Outcome(Reason.NOT_STARTED)
        if any_in_force(self.merged):
            return by_sign(self.before.tier, self.after.tier) if self.tier_changed else Outcome(Reason.SUPERSEDED)
        over = self.end is not None or (self.was.began and not self.was.in_force)
        if over and not self.tier_changed:
            return Outcome(Reason.ALREADY_ENDED)  # emitted when it was halted, or ended the first time
        return _CANCELED

    def _of_pause(self) -> Outcome:
        if (early := self._after_end_or_known()) is not None:
            return early
        if self._left_force() or self.tier_changed:
            return self._fall(Reason.PAUSED)
        if self.is_now.in_force and self.is_now.mode is Mode.PAUSED and not self._is_old():
            return Outcome(Reason.PAUSES_LATER)
        if self._is_old():
            return Outcome(Reason.STALE)
        return Outcome(Reason.ALREADY_ENDED if self.is_now.began else Reason.NOT_STARTED)

    def _of_move(self) -> Outcome:
        if (early := self._after_end_or_known()) is not None:
            return early
        if not self.is_now.began:
            return Outcome(Reason.NOT_STARTED)
        if self._left_force() or self.tier_changed:
            return self._fall(Reason.MOVED)
        return Outcome(Reason.STALE if self._is_old() else Reason.ALREADY_ENDED)

    def _of_ending(self) -> Outcome:
        if (early := self._after_end_or_known()) is not None:
            return early
        if self._left_force() or self.tier_changed:
            return self._fall(Reason.CANCELED)
        if self.is_now.mode is Mode.ENDED:
            return Outcome(Reason.ALREADY_ENDED)
        return Outcome(Reason.ENDS_LATER if self.is_now.ending_version == self.version else Reason.STALE)

    def _of_pending(self) -> Outcome:
        if self.end is not None or not _has_grace(self.fact):
            return Outcome(Reason.PAYMENT_TROUBLE)
        if self.known:
            return Outcome(Reason.DUPLICATE)
        if self._left_force() or self.tier_changed:
            return self._fall(Reason.CANCELED)
        return Outcome(Reason.PAYMENT_TROUBLE)

    def _of_due(self) -> Outcome:
        if self.end is not None:
            return Outcome(Reason.NOT_DUE)
        if self.known:
            return Outcome(Reason.DUPLICATE)
        if self._left_force() or self.tier_changed:
            return self._fall(Reason.PAUSED if self.is_now.mode is Mode.PAUSED else Reason.CANCELED)
        return Outcome(Reason.NOT_DUE)

    def _fall(self, cause: Reason) -> Outcome:
        """Return what it is called that the subscription went out of force for ``cause``."""
        if not self._left_force():
            return by_sign(self.before.tier, self.after.tier)
        fell = self.after.tier < self.before.tier
        if any_in_force(self.merged):
            if not self.tier_changed:
                return Outcome(Reason.SUPERSEDED)
            if not fell or cause is Reason.CANCELED:
                return by_sign(self.before.tier, self.after.tier)
            return Outcome(cause, Kind.DOWNGRADED)
        if cause is Reason.CANCELED:
            return _CANCELED
        if self.tier_changed and not fell:
            return _UPGRADED
        if cause is Reason.MOVED:
            return Outcome(Reason.MOVED, Kind.CANCELED)
        return Outcome(Reason.PAUSED, Kind.DOWNGRADED if fell else None)

    def _after_end_or_known(self) -> Outcome | None:
        """Return the outcome of what comes about a subscription that has ended, or comes again."""
        if self.end is not None:
            return Outcome(Reason.ALREADY_ENDED if self.version > self.end else Reason.STALE)
        return Outcome(Reason.DUPLICATE) if self.known else None

    def _is_adopted(self) -> bool:
        return self.fact.adopt and self.end is None and self.was.newest is None

    def _is_old(self) -> bool:
        """Whether something newer says whether the subscription is in force."""
        return self.was.newest is not None and self.version < self.was.newest

    def _left_force(self) -> bool:
        return self.was.in_force and not self.is_now.in_force

    def _never_began(self) -> bool:
        subscription_id = self.fact.subscription_id
        return subscription_id not in self.merged.ended and not self.is_now.began


_OUTCOMES: Final[dict[SubscriptionEvent, Callable[[_Change], Outcome]]] = {
    SubscriptionEvent.AUTHENTICATED: lambda _: Outcome(Reason.NOT_STARTED),
    SubscriptionEvent.ACTIVATED: lambda _: Outcome(Reason.NOT_STARTED),
    SubscriptionEvent.UPDATED: _Change._of_update,
    SubscriptionEvent.RESUMED: lambda _: Outcome(Reason.PAYMENT_TROUBLE),
    SubscriptionEvent.PENDING: _Change._of_pending,
    SubscriptionEvent.PAYMENT_FAILED: _Change._of_pending,
    SubscriptionEvent.PAUSED: _Change._of_pause,
    SubscriptionEvent.HALTED: _Change._of_end,
    SubscriptionEvent.COMPLETED: _Change._of_completion,
    SubscriptionEvent.CANCELLED: _Change._of_end,
    SubscriptionEvent.MOVED: _Change._of_move,
    SubscriptionEvent.DUE: _Change._of_due,
}
"""What finds the outcome of each event that starts no plan."""
