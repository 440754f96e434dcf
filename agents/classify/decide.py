"""Classify: what one event does to one team's tier. Pure: a row and an event in, a decision out.

The table of outcomes stands in ``docs/classification.md``; the order-free part (a team's row, and the tier as a function of
it) in ``agents.classify.registers``, the outcomes of subscription facts in ``agents.classify.billing``.
"""

import msgspec
from msgspec.structs import replace

from agents.classify import billing, service_ids
from agents.classify.billing import Grace
from agents.classify.facts import Billing, Service, TeamEvent
from agents.classify.registers import (
    Claim,
    Import,
    Override,
    Row,
    Standing,
    merge_claim,
    merge_import,
    merge_override,
    standing,
)
from agents.classify.service_ids import Known
from schemas.kinds import Kind
from schemas.reasons import Reason
from schemas.team_events import AdminTierChanged, ImportedTier, OnboardingClaimed, Version
from schemas.tiers import Tier, parse_tier

STAGE = "classify"


class Decision(msgspec.Struct, frozen=True, gc=False):
    """The outcome of one event: the row after it, the reason, the kind of audit event to emit (None: none), and the
    team's standing before and after. ``grace`` is what becomes of a grace period, an audit event of its own (None: nothing)."""

    row: Row
    reason: Reason
    kind: Kind | None
    before: Standing
    after: Standing
    grace: Grace | None = None


def decide(row: Row, event: TeamEvent, initial: Tier, before: Standing | None = None) -> Decision:
    """Merge ``event`` into ``row`` and say what changed. ``initial`` is the tier of a team about which nothing is known;
    ``before`` may be given by a caller who knows ``standing(row, initial)`` already.

    Idempotent: the same event again changes nothing. Nor does another one of a service's under an id that the row knows; its reason is
    ID_CONFLICT, and it is a dead letter. The final row does not depend on the order of events; which
    transitions were emitted on the way does, as it must.
    """
    if before is None:
        before = standing(row, initial)
    body = event.body
    if isinstance(body, Billing):
        merged = billing.merge(row, event.version, body)
        after = before if merged is row else standing(merged, initial)
        outcome = billing.outcome(row, merged, event.version, body, before, after)
        return Decision(merged, outcome.reason, outcome.kind, before, after, outcome.grace)
    known = service_ids.known(row.service_ids, event.version[3], body.content)
    if known is not Known.NEW:
        return Decision(row, Reason.DUPLICATE if known is Known.SAME else Reason.ID_CONFLICT, None, before, before)
    if isinstance(body, Service):
        decision = _decide_service(row, event.version, body, initial, before)
        if decision.reason is Reason.PASSED_THROUGH:
            return decision
    else:
        decision = _decide_import(row, event.version, body.data, initial, before)
    ids = service_ids.remembered(row.service_ids, event.version[0], event.version[3], body.content)
    return replace(decision, row=replace(decision.row, service_ids=ids))


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
