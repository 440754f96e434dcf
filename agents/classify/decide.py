"""Classify: what one event does to one team's tier. Pure: a row and an event in, a decision out.

The table of outcomes stands in ``docs/classification.md``; the order-free part (registers, and the tier as a function of
them) in ``agents.classify.registers``.
"""

from typing import Final

import msgspec

from agents.classify.facts import Billing, BillingFact, Service, TeamEvent
from agents.classify.registers import (
    HALTED,
    Claim,
    Import,
    Override,
    Row,
    Standing,
    Subscription,
    Version,
    has_active,
    merge_active,
    merge_claim,
    merge_coming_end,
    merge_ended,
    merge_halted,
    merge_import,
    merge_override,
    standing,
)
from schemas.kinds import Kind
from schemas.reasons import Reason
from schemas.team_events import AdminTierChanged, ImportedTier, OnboardingClaimed, SubscriptionEvent, starts
from schemas.tiers import Tier, parse_tier

STAGE = "classify"


class Decision(msgspec.Struct, frozen=True, gc=False):
    """The outcome of one event: the row after it, the reason, the kind of audit event to emit (None: none), and the
    team's standing before and after."""

    row: Row
    reason: Reason
    kind: Kind | None
    before: Standing
    after: Standing


def decide(row: Row, event: TeamEvent, initial: Tier, before: Standing | None = None) -> Decision:
    """Merge ``event`` into ``row`` and say what changed. ``initial`` is the tier of a team about which nothing is known;
    ``before`` may be given by a caller who knows ``standing(row, initial)`` already.

    Idempotent: the same event again changes nothing. The final row does not depend on the order of events; which
    transitions were emitted on the way does, as it must.
    """
    if before is None:
        before = standing(row, initial)
    body = event.body
    if isinstance(body, Billing):
        return _decide_billing(row, event.version, body, initial, before)
    if isinstance(body, Service):
        return _decide_service(row, event.version, body, initial, before)
    return _decide_import(row, event.version, body.data, initial, before)


_CHARGED: Final = SubscriptionEvent.CHARGED
_UPGRADED: Final = (Reason.UPGRADED, Kind.UPGRADED)
_DOWNGRADED: Final = (Reason.DOWNGRADED, Kind.DOWNGRADED)
_WAITING: dict[SubscriptionEvent, Reason] = {
    SubscriptionEvent.AUTHENTICATED: Reason.NOT_STARTED,
    SubscriptionEvent.ACTIVATED: Reason.NOT_STARTED,
    SubscriptionEvent.PENDING: Reason.PAYMENT_TROUBLE,
    SubscriptionEvent.PAUSED: Reason.PAYMENT_TROUBLE,
    SubscriptionEvent.RESUMED: Reason.PAYMENT_TROUBLE,
}
"""Events that change nothing, once those that start a plan are taken out."""


def _decide_billing(row: Row, version: Version, body: Billing, initial: Tier, before: Standing) -> Decision:
    event, fact, tier = body.event, body.fact, body.tier
    charged = event is _CHARGED
    if tier is not None and (charged or starts(event, fact.paid_count, fact.status, fact.has_scheduled_changes)):
        merged = merge_active(row, fact.subscription_id, version, fact.plan_id or "", tier, charged or fact.paid_count > 0)
        after = standing(merged, initial)
        reason, kind = _outcome_of_start(row, version, event, fact, before, after)
        return Decision(merged, reason, kind, before, after)
    if event is SubscriptionEvent.UPDATED:
        return Decision(row, Reason.SCHEDULED if fact.has_scheduled_changes else Reason.NOT_ACTIVE, None, before, before)
    if event in _WAITING:
        return Decision(row, _WAITING[event], None, before, before)
    if event is SubscriptionEvent.COMPLETED and fact.current_end is not None and fact.current_end > fact.occurred_at:
        merged = merge_coming_end(row, fact.subscription_id, fact.current_end)
        return Decision(merged, _why_coming_end(row, version, fact), None, before, standing(merged, initial))
    merge = merge_halted if event is SubscriptionEvent.HALTED else merge_ended
    merged = merge(row, fact.subscription_id, version, fact.paid_count > 0)
    after = standing(merged, initial)
    reason, kind = _outcome_of_end(row, merged, version, fact, before, after)
    return Decision(merged, reason, kind, before, after)


def _outcome_of_start(
    row: Row, version: Version, event: SubscriptionEvent, fact: BillingFact, before: Standing, after: Standing
) -> tuple[Reason, Kind | None]:
    end = row.ended.get(fact.subscription_id)
    if end is not None and version > end:
        if event is _CHARGED:
            return Reason.ENDED, Kind.CHARGE_UNDELIVERABLE  # nothing to pay for: operators must check it
        if after.tier == before.tier:  # it moves where this is the first to say that the team ever paid
            return Reason.ENDED, None
    known = row.live.get(fact.subscription_id)
    if fact.adopt and end is None and not _was_seen(known):
        return Reason.ADOPTED, None
    if after.tier != before.tier:
        return by_sign(before.tier, after.tier)
    if known is not None and version in (known.status_version, known.plan_version):
        return Reason.DUPLICATE, None
    if end is not None or (known is not None and known.status_version is not None and version < known.status_version):
        return Reason.STALE, None
    return (Reason.RENEWAL if after.subscription_id == fact.subscription_id else Reason.SUPERSEDED), None


def _outcome_of_end(
    row: Row, merged: Row, version: Version, fact: BillingFact, before: Standing, after: Standing
) -> tuple[Reason, Kind | None]:
    end = row.ended.get(fact.subscription_id)
    known = row.live.get(fact.subscription_id)
    if fact.adopt and end is None and not _was_seen(known):
        return Reason.ADOPTED, None
    over = end is not None or (known is not None and known.status == HALTED)
    if after.tier == before.tier:
        if version == end or (known is not None and version == known.status_version):
            return Reason.DUPLICATE, None
        if _is_stale(row, merged, version, fact):
            return Reason.STALE, None
    if has_active(merged):
        return by_sign(before.tier, after.tier) if after.tier != before.tier else (Reason.SUPERSEDED, None)
    if over and after.tier == before.tier:
        return Reason.ALREADY_ENDED, None  # emitted when it was halted, or ended the first time
    return Reason.CANCELED, Kind.CANCELED


def _was_seen(subscription: Subscription | None) -> bool:
    """Whether any charge, activation or halt of it has come; a completion that is yet to count says nothing of the tier."""
    return subscription is not None and subscription.status_version is not None


def _is_stale(row: Row, merged: Row, version: Version, fact: BillingFact) -> bool:
    """Whether the end (or halt) is older than what the registers hold; an end of a live subscription never is: it absorbs."""
    end = row.ended.get(fact.subscription_id)
    if end is not None:
        return version < end
    known = row.live.get(fact.subscription_id)
    still_live = fact.subscription_id in merged.live
    return still_live and known is not None and known.status_version is not None and version < known.status_version


def _why_coming_end(row: Row, version: Version, fact: BillingFact) -> Reason:
    end = row.ended.get(fact.subscription_id)
    if end is not None:
        return Reason.ALREADY_ENDED if version > end else Reason.STALE
    known = row.live.get(fact.subscription_id)
    if known is not None and fact.current_end is not None and known.ends_at >= fact.current_end:
        return Reason.DUPLICATE if known.ends_at == fact.current_end else Reason.STALE
    return Reason.ENDS_LATER


def by_sign(before: Tier, after: Tier) -> tuple[Reason, Kind]:
    """Return what a change from one tier to another is called."""
    return _UPGRADED if after > before else _DOWNGRADED


def _decide_service(row: Row, version: Version, body: Service, initial: Tier, before: Standing) -> Decision:
    data = body.data
    known: Claim | Override | None
    if isinstance(data, OnboardingClaimed):
        known, reason = row.claim, Reason.CLAIMED
        merged = merge_claim(row, Claim(version, data.email, parse_tier(data.tier), data.user_id, data.name))
    elif isinstance(data, AdminTierChanged):
        known, reason = row.override, Reason.ADMIN_CHANGED
        merged = merge_override(row, Override(version, _tier(data.to)))
    else:
        return Decision(row, Reason.PASSED_THROUGH, body.kind, before, before)
    if known is not None and version <= known.version:
        return Decision(row, _old_news(version, known.version), None, before, before)
    return Decision(merged, reason, body.kind, before, standing(merged, initial))


def _decide_import(row: Row, version: Version, data: ImportedTier, initial: Tier, before: Standing) -> Decision:
    known = row.imported
    merged = merge_import(row, Import(version, _tier(data.tier), data.plan_id or "", data.subscription_id or "", data.email, data.user_id))
    reason = Reason.IMPORTED if known is None or version > known.version else _old_news(version, known.version)
    return Decision(merged, reason, None, before, standing(merged, initial))


def _old_news(version: Version, known: Version) -> Reason:
    return Reason.DUPLICATE if version == known else Reason.STALE


def _tier(label: str) -> Tier:
    tier = parse_tier(label)
    assert tier is not None  # the model takes no other
    return tier
