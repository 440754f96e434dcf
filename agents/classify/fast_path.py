"""The fast path of classify: one active subscription, and facts about it that are each newer than the last.

Nearly all of ``team.events`` is renewals and changes of plan, one after the other. What ``agents.classify.decide`` works out for each of
them anew (which subscription governs, whether anything else bears on the tier) can not change between two of them, so it is worked
out once for all that come in a row. **Whatever is not the usual ends the row and is left to** ``agents.classify.decide``, **which is right
for everything**; ``tests/property/test_fast_path.py`` holds the two to the same rows and the same bytes.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from agents.classify.decide import by_sign
from agents.classify.facts import TIER_OF_LABEL, Billing, TeamEvent, read_billing_envelope
from agents.classify.outputs import Owner, billing_audit_event
from agents.classify.registers import ACTIVE, TIERS, Row, Standing, Subscription, Version
from schemas.reasons import Reason
from schemas.team_events import EVENT_RANK, MAX_CLOCK_SKEW_SECONDS, SubscriptionEvent, starts
from schemas.tiers import Tier
from streams.engine.table_stage import SMALL_BYTES
from streams.kafka.records import Record

# An enum's member is looked up through a Python function: once, not for each record.
_CHARGED: Final = SubscriptionEvent.CHARGED
_RENEWAL: Final = Reason.RENEWAL


class UsualFacts(msgspec.Struct, frozen=True, gc=False):
    """What ``records`` facts in a row lead to: ``row`` and ``standing`` after the last one, how many had which outcome, the audit
    events of all, and the last one that changed the tier with the standing that it led to. ``growth_bytes`` is the size in bytes of those
    that named a plan for the first time."""

    records: int
    row: Row
    standing: Standing
    outcomes: dict[Reason, int]
    audit_events: list[bytes]
    tier_change: tuple[TeamEvent, Standing] | None
    growth_bytes: int


def usual_facts(records: Sequence[Record], start: int, team_id: str, row: Row, owner: Owner) -> UsualFacts | None:
    """Decide on ``records`` of one team from ``start`` on, up to the first that is not usual; None when that is the first of them.
    ``owner`` is ``owner_of`` the row."""
    if len(row.live) != 1 or row.override is not None or row.imported is not None:
        return None
    ((subscription_id, known),) = row.live.items()
    newest, plan_id, first_seen = known.status_version, known.plan_id, known.first_seen
    if known.status != ACTIVE or newest is None:
        return None

    tier, paid = TIERS[known.plan_tier], row.paid
    audit_events: list[bytes] = []
    tier_change: tuple[TeamEvent, Tier, Version] | None = None
    outcomes: dict[Reason, int] = {}
    done = growth_bytes = 0
    for at in range(start, len(records)):
        record = records[at]
        value = record.value
        if value is None or len(value) > SMALL_BYTES:
            break
        envelope = read_billing_envelope(value)
        if envelope is None or envelope.subject != team_id:
            break
        event, fact = envelope.type, envelope.data
        seconds, paid_count, after = fact.occurred_at, fact.paid_count, TIER_OF_LABEL.get(fact.tier)
        if fact.subscription_id != subscription_id or after is None or seconds > record.timestamp // 1000 + MAX_CLOCK_SKEW_SECONDS:
            break
        charged = event is _CHARGED
        if not charged and not starts(event, paid_count, fact.status, fact.has_scheduled_changes):
            break
        version = (seconds, EVENT_RANK[event], paid_count, fact.event_id)
        if version <= newest:
            break

        plan = fact.plan_id or ""
        if plan != plan_id:
            if plan not in first_seen:  # those in it are no newer than ``newest``, for it is active
                if growth_bytes > SMALL_BYTES:
                    break  # the row may have become large, which the slice checks
                first_seen = {**first_seen, plan: version}
                growth_bytes += len(value)
            plan_id = plan
        newest = version
        paid = paid or charged or paid_count > 0
        if after is not tier:
            reason, kind = by_sign(tier, after)
            outcomes[reason] = outcomes.get(reason, 0) + 1
            emitted = TeamEvent(
                envelope.id, envelope.source, team_id, envelope.correlationid or envelope.id, seconds, version, Billing(event, fact, after)
            )
            audit_events.append(billing_audit_event(emitted, fact, kind, reason, tier, after, owner))
            tier = after
            tier_change = emitted, after, first_seen[plan]
        done += 1
    if not done:
        return None
    live = {subscription_id: Subscription(ACTIVE, newest, plan_id, tier, None, first_seen, known.ends_at)}
    if renewals := done - len(audit_events):
        outcomes[_RENEWAL] = renewals
    return UsualFacts(
        done,
        Row(live, row.ended, paid, None, row.claim, None),
        Standing(tier, first_seen[plan_id][0], subscription_id),
        outcomes,
        audit_events,
        None if tier_change is None else (tier_change[0], Standing(tier_change[1], tier_change[2][0], subscription_id)),
        growth_bytes,
    )
