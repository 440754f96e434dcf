"""The fast path of classify: one active subscription, and facts about it that are each newer than the last.

Nearly all of ``team.events`` is renewals and changes of plan, one after the other. What ``agents.classify.decide`` works out for each of
them anew (which subscription governs, whether anything else bears on the tier) can not change between two of them, so it is worked
out once for all that come in a row. **Whatever is not the usual ends the row and is left to** ``agents.classify.decide``, **which is right
for everything**; ``tests/property/test_fast_path.py`` holds the two to the same rows and the same bytes.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from agents.classify.billing import by_sign
from agents.classify.facts import TIER_OF_LABEL, Billing, TeamEvent, read_billing_envelope
from agents.classify.history import MAX_FACTS, START, Mode, active, joined
from agents.classify.outputs import Owner, billing_audit_event
from agents.classify.registers import TIERS, Row, Standing
from schemas.reasons import Reason
from schemas.team_events import EVENT_RANK, MAX_CLOCK_SKEW_SECONDS, SubscriptionEvent, starts
from streams.engine.table_stage import SMALL_BYTES
from streams.kafka.records import Record

# An enum's member is looked up through a Python function: once, not for each record.
_CHARGED: Final = SubscriptionEvent.CHARGED
_RENEWAL: Final = Reason.RENEWAL

_USUAL_CHARACTERS: Final = 100
"""So many characters have the id of a usual event and its plan's together."""

_FULL_BYTES: Final = MAX_FACTS * (4 * _USUAL_CHARACTERS + 32)
"""What the usual facts of a full history take at most: it grows no more, whatever comes."""


class UsualFacts(msgspec.Struct, frozen=True, gc=False):
    """What ``records`` facts in a row lead to: ``row`` and ``standing`` after the last one, how many had which outcome, the audit
    events of all, and the last one that changed the tier with the standing that it led to. ``growth_bytes`` is what they may have added to
    the row, which grows no more once its history is full."""

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
    state = known.state
    since = state.since
    if state.mode is not Mode.ACTIVE or since is None or state.trouble is not None:
        return None
    plan_id, tier, paid = state.plan_id, TIERS[state.tier], row.paid
    newest = known.newest
    assert newest is not None  # it has begun

    audit_events: list[bytes] = []
    tier_change: tuple[TeamEvent, Standing] | None = None
    outcomes: dict[Reason, int] = {}
    new_starts: list[tuple[int | str, ...]] = []
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
        event_id, plan = fact.event_id, fact.plan_id or ""
        rank = EVENT_RANK[event]
        version = (seconds, rank, paid_count, event_id)
        if version <= newest or len(event_id) + len(plan) > _USUAL_CHARACTERS:
            break

        if plan == plan_id and after is tier:
            new_starts.append((START, seconds, rank, paid_count, event_id))
        else:
            new_starts.append((START, seconds, rank, paid_count, event_id, plan, after))
            if plan != plan_id:
                plan_id, since = plan, version
        newest = version
        paid = paid or charged or paid_count > 0
        if after is not tier:
            reason, kind = by_sign(tier, after)[:2]
            assert kind is not None
            outcomes[reason] = outcomes.get(reason, 0) + 1
            emitted = TeamEvent(
                envelope.id, envelope.source, team_id, envelope.correlationid or envelope.id, seconds, version, Billing(event, fact, after)
            )
            audit_events.append(billing_audit_event(emitted, fact, kind, reason, tier, after, owner))
            tier = after
            tier_change = emitted, Standing(after, since[0], subscription_id)
    done = len(new_starts)
    if not done:
        return None
    added = joined(new_starts)
    subscription = known.followed(added, done, newest, active(state, plan_id, tier, since, None, newest))
    if renewals := done - len(audit_events):
        outcomes[_RENEWAL] = renewals
    return UsualFacts(
        done,
        Row({subscription_id: subscription}, row.ended, paid, None, row.claim, None, row.unstarted, row.service_ids),
        Standing(tier, since[0], subscription_id),
        outcomes,
        audit_events,
        tier_change,
        min(len(added), _FULL_BYTES),
    )
