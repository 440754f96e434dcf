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
from agents.classify.history import MAX_FACTS, START, Mode, Phase, Version
from agents.classify.outputs import Owner, billing_audit_event
from agents.classify.registers import TIERS, Row, Standing
from schemas.reasons import Reason
from schemas.team_events import EVENT_RANK, MAX_CLOCK_SKEW_SECONDS, SubscriptionEvent, starts
from streams.engine.table_stage import SMALL_BYTES
from streams.kafka.records import Record

# An enum's member is looked up through a Python function: once, not for each record.
_CHARGED: Final = SubscriptionEvent.CHARGED
_RENEWAL: Final = Reason.RENEWAL

_VERSION_BYTES: Final = 32
"""What a version takes in a row at most, without the id in it."""

_PHASE_BYTES: Final = 24
"""What a phase takes beside its versions and its plan's id."""


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
    newest, plan_id, tier, paid = known.history[-1].versions[-1], state.plan_id, TIERS[state.tier], row.paid

    audit_events: list[bytes] = []
    tier_change: tuple[TeamEvent, Standing] | None = None
    outcomes: dict[Reason, int] = {}
    phases: list[Phase] = []
    versions: list[Version] = []
    done = text_bytes = 0
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
        event_id = fact.event_id
        version = (seconds, EVENT_RANK[event], paid_count, event_id)
        if version <= newest:
            break

        plan = fact.plan_id or ""
        if plan != plan_id or after is not tier:
            if text_bytes > SMALL_BYTES:
                break  # the row may have become large, which the slice checks
            if versions:
                phases.append(Phase(START, tuple(versions), plan_id, tier))
                versions = []
            text_bytes += _bytes_of(plan)
            if plan != plan_id:
                plan_id, since = plan, version
        versions.append(version)
        newest = version
        text_bytes += len(event_id) if event_id.isascii() else 4 * len(event_id)
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
        done += 1
    if not done:
        return None
    phases.append(Phase(START, tuple(versions), plan_id, tier))
    subscription = known.started(phases, since)
    if renewals := done - len(audit_events):
        outcomes[_RENEWAL] = renewals
    if done > MAX_FACTS:  # the history is full: it holds the newest alone
        phases = list(subscription.history)
        done_bytes = MAX_FACTS * _VERSION_BYTES
        text_bytes = sum(_bytes_of(phase.plan_id) + sum(_bytes_of(version[3]) for version in phase.versions) for phase in phases)
    else:
        done_bytes = done * _VERSION_BYTES
    return UsualFacts(
        done,
        Row({subscription_id: subscription}, row.ended, paid, None, row.claim, None, row.unstarted),
        Standing(tier, since[0], subscription_id),
        outcomes,
        audit_events,
        tier_change,
        done_bytes + len(phases) * _PHASE_BYTES + text_bytes,
    )


def _bytes_of(text: str) -> int:
    """Return how many bytes ``text`` takes at most."""
    return len(text) if text.isascii() else 4 * len(text)
