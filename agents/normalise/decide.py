"""Normalise: one Razorpay webhook becomes one fact about one team, or says why it does not. Pure.

Whose team? The note of the subscription, else of the payment, else the table subscription → team that earlier events and
imports filled. What tier? The plan file. How long a failed payment is borne with? The settings. All are resolved here, once, and
stand in the fact, so that a replay decides alike.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time

import msgspec

from schemas.envelope import canonical_team_id
from schemas.razorpay import RazorpayWebhook, TimeSource
from schemas.reasons import Reason
from schemas.team_events import MAX_CLOCK_SKEW_SECONDS, SubscriptionEvent, starts
from schemas.tiers import Tier

STAGE = "normalise"


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings that normalise decides with. Their effect stands in the facts, never in a later decision."""

    plans: dict[str, Tier]
    team_note: str = "team_id"
    adopt_created_before: date | None = None
    grace_days: int = 0
    grace_reminder_days: tuple[int, ...] = ()

    @property
    def adoption_seconds(self) -> int:
        """Subscriptions created before this (Unix seconds, UTC midnight of the date) are adopted silently; 0 is none."""
        day = self.adopt_created_before
        return int(datetime.combine(day, time(), UTC).timestamp()) if day else 0


class Fact(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """``schemas.team_events.SubscriptionFact`` as it is written; same fields, same meaning."""

    event_id: str
    subscription_id: str
    occurred_at: int
    time_source: TimeSource
    plan_id: str | None = None
    tier: str | None = None
    paid_count: int
    status: str | None = None
    has_scheduled_changes: bool
    current_end: int | None = None
    email: str | None = None
    amount: int | None = None
    currency: str | None = None
    payment_id: str | None = None
    adopt: bool
    grace_ends_at: int | None = None
    grace_reminders_at: tuple[int, ...] = ()


class Normalised(msgspec.Struct, frozen=True, gc=False):
    """A fact for ``team.events``."""

    event: SubscriptionEvent
    team_id: str
    fact: Fact


class Ignored(msgspec.Struct, frozen=True, gc=False):
    """Nothing follows from it. ``team_id`` is given when the event still says whose subscription it is."""

    reason: Reason
    team_id: str | None = None


class Parked(msgspec.Struct, frozen=True, gc=False):
    """A dead letter. ``undeliverable`` is set for a charge: money came in that can not be placed."""

    reason: Reason
    error: str
    team_id: str | None = None
    undeliverable: Fact | None = None


Normalisation = Normalised | Ignored | Parked

DERIVED: frozenset[SubscriptionEvent] = frozenset({SubscriptionEvent.MOVED, SubscriptionEvent.DUE})
"""Facts that stages derive. A webhook of such a name is none of ours."""

DAY_SECONDS = 86_400

_EVENTS: dict[str, SubscriptionEvent] = {event.value: event for event in SubscriptionEvent if event not in DERIVED}
_CREATED = "subscription.created"
_MAX_SHOWN_CHARACTERS = 100
_FAILURES = frozenset({SubscriptionEvent.PENDING, SubscriptionEvent.PAYMENT_FAILED})


def decide(webhook: RazorpayWebhook, event_id: str, received_at: int, linked_team: str | None, rules: Rules) -> Normalisation:
    """Say what one webhook means. ``received_at`` is the gateway's receipt in Unix seconds, ``linked_team`` what the table
    knows of its subscription."""
    name = webhook.event
    if name is None:
        return Parked(Reason.MALFORMED, "The body names no event.")
    event = _EVENTS.get(name)
    if event is None and name != _CREATED:
        return Ignored(Reason.IGNORED)
    subscription = webhook.subscription
    note = webhook.note(rules.team_note)
    team_id = canonical_team_id(note) if note is not None else linked_team
    if event is None:
        return Ignored(Reason.NOT_STARTED, team_id if subscription else None)
    if event is SubscriptionEvent.PAYMENT_FAILED and (subscription is None or team_id is None or not rules.grace_days):
        return Ignored(Reason.PAYMENT_TROUBLE, team_id if subscription else None)  # no money came in: nobody has to look for a team
    if subscription is None:
        return Parked(Reason.MALFORMED, f"A {name} event without a subscription.")

    occurred_at, time_source = webhook.occurred_at(received_at)
    if occurred_at > received_at + MAX_CLOCK_SKEW_SECONDS:
        return Parked(
            Reason.FUTURE_TIME,
            f"The event's time lies {occurred_at - received_at} s after its receipt; check the clocks of its sender and of the gateway.",
        )
    payment = webhook.payment
    plan_id = subscription.plan_id
    tier = rules.plans.get(plan_id) if plan_id else None
    has_grace = event in _FAILURES and rules.grace_days > 0
    fact = Fact(
        event_id=event_id,
        subscription_id=subscription.id,
        occurred_at=occurred_at,
        time_source=time_source,
        plan_id=plan_id,
        tier=tier.label if tier is not None else None,
        paid_count=subscription.paid_count or 0,
        status=subscription.status,
        has_scheduled_changes=subscription.has_scheduled_changes,
        current_end=subscription.current_end,
        email=webhook.email,
        amount=payment.amount if payment else None,
        currency=payment.currency if payment else None,
        payment_id=payment.id if payment else None,
        adopt=subscription.created_at is not None and subscription.created_at < rules.adoption_seconds,
        grace_ends_at=occurred_at + rules.grace_days * DAY_SECONDS if has_grace else None,
        grace_reminders_at=tuple(occurred_at + days * DAY_SECONDS for days in rules.grace_reminder_days) if has_grace else (),
    )
    charge = fact if event is SubscriptionEvent.CHARGED else None
    if team_id is None:
        found = (
            f"the note {rules.team_note} is no team id (a UUID)"
            if note is not None
            else f"there is no note {rules.team_note}, and no earlier event or import names its team"
        )
        return Parked(Reason.UNKNOWN_TEAM, f"Whose subscription is {subscription.id}? {found[0].upper()}{found[1:]}.", None, charge)
    if tier is None and starts(event, fact.paid_count, fact.status, fact.has_scheduled_changes):
        return Parked(
            Reason.UNKNOWN_PLAN,
            f"The plan {_shown(plan_id)} is not in the plan file; add it, let normalise read the file again (SIGHUP) and replay this record.",
            team_id,
            charge,
        )
    return Normalised(event, team_id, fact)


def _shown(plan_id: str | None) -> str:
    """Return a plan's id as a sentence can hold it: it may be any text."""
    if not plan_id:
        return "(none)"
    return plan_id if len(plan_id) <= _MAX_SHOWN_CHARACTERS else f"{plan_id[:_MAX_SHOWN_CHARACTERS]}…"
