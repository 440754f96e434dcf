"""What classify writes: audit events, current tiers and due records. Pure: values in, bytes of a CloudEvents envelope out."""

import uuid
from typing import Any

import msgspec

from agents.classify.billing import grace_reason
from agents.classify.decide import STAGE, Decision
from agents.classify.facts import Billing, BillingFact, Service, TeamEvent, is_plain
from agents.classify.registers import Row, Standing
from schemas.audit import TIER_CURRENT
from schemas.envelope import USUAL_UUID, derived_id
from schemas.kinds import Kind
from schemas.reasons import Reason
from schemas.serialize import AUDIT_SCHEMA, FACT_SCHEMA, TIER_SCHEMA, envelope, rfc3339
from schemas.team_events import AdminPromoIssued, AdminTierChanged, NearQuotaWall, ResourceExpiryImminent, SubscriptionEvent
from schemas.tiers import LABELS, Tier

SOURCE = "tierstream/classify"

Json = dict[str, Any]


class _Claimant(msgspec.Struct, frozen=True, gc=False):
    email: str
    name: str | None


class _Payer(msgspec.Struct, frozen=True, gc=False):
    email: str


Owner = tuple[str | None, _Claimant | _Payer | None]
"""Who a team belongs to: a user id, and whom mails go to."""


class _Transition(msgspec.Struct, frozen=True, gc=False, rename={"before": "from", "after": "to"}):
    """``metadata`` of what a subscription did."""

    before: str
    after: str
    reason: str
    event_id: str
    occurred_at: str
    subscription_id: str
    plan_id: str | None
    time_source: str
    paid_count: int


class _InGrace(_Transition, frozen=True, gc=False, rename={"before": "from", "after": "to"}):
    """``metadata`` of what becomes of a grace period."""

    ends_at: str


class _Undeliverable(_Transition, frozen=True, gc=False, rename={"before": "from", "after": "to"}):
    """``metadata`` of a charge that came for nothing."""

    amount: int | None
    currency: str | None
    payment_id: str | None


class _AuditData(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """``schemas.audit.AuditData`` as it is written."""

    actor: str
    summary: str
    metadata: Any
    created_at: str
    resource_type: str | None = None
    resource_id: str | None = None
    user_id: str | None = None
    contact: _Claimant | _Payer | None = None


class _DueData(msgspec.Struct, frozen=True, gc=False):
    """``schemas.team_events.SubscriptionFact`` of a time that has passed, as it is written."""

    event_id: str
    subscription_id: str
    occurred_at: int
    time_source: str
    plan_id: str
    paid_count: int = 0
    has_scheduled_changes: bool = False
    email: str | None = None
    adopt: bool = False


class _CurrentData(msgspec.Struct, frozen=True, gc=False):
    """``schemas.audit.TierCurrent`` as it is written."""

    team_id: str
    tier: str
    since: str
    subscription_id: str | None


def audit_events(event: TeamEvent, decision: Decision, owner: Owner) -> list[bytes]:
    """Return the audit events of a decision: what becomes of a grace period, then the transition; ``owner`` is ``owner_of`` the row
    after it. The same event gives the same ids and the same bytes."""
    body, kind, grace = event.body, decision.kind, decision.grace
    if type(body) is Billing:
        before, after = decision.before.tier, decision.after.tier
        found = []
        if grace is not None:
            found.append(_billing(event, body.fact, grace.kind, grace_reason(grace.kind), before, after, owner, grace.ends_at))
        if kind is not None:
            found.append(billing_audit_event(event, body.fact, kind, decision.reason, before, after, owner))
        return found
    if kind is None:
        return []
    assert isinstance(body, Service)  # an import emits nothing
    time = rfc3339(event.occurred_at)
    actor = "admin" if isinstance(body.data, AdminTierChanged | AdminPromoIssued) else "agent"
    resource_type, resource_id = _resource(body)
    summary = _service_summary(body, decision, resource_type)
    data = _AuditData(actor, summary, _service_metadata(event, body, decision, time), time, resource_type, resource_id, *owner)
    return [_derived(event, kind, time, AUDIT_SCHEMA, data)]


def billing_audit_event(event: TeamEvent, fact: BillingFact, kind: Kind, reason: Reason, was: Tier, now: Tier, owner: Owner) -> bytes:
    """Return the audit event of ``fact``, the body of ``event``, which leads from one tier to another, or ends what it was for. Where
    the owner has no address, it names the payer's."""
    return _billing(event, fact, kind, reason, was, now, owner, 0)


def _billing(event: TeamEvent, fact: BillingFact, kind: Kind, reason: Reason, was: Tier, now: Tier, owner: Owner, ends_at: int) -> bytes:
    time = rfc3339(event.occurred_at)
    summary, emitted = _of_billing(fact, kind, reason, was, now, time, ends_at)
    user_id, contact = owner
    if contact is None and fact.email:
        contact = _Payer(fact.email)
    data = _AuditData("system", summary, emitted, time, "subscription", None, user_id, contact)
    return _derived(event, kind, time, AUDIT_SCHEMA, data)


def due_record(team_id: str, subscription_id: str, plan_id: str, at: int, email: str | None) -> bytes:
    """Return the record of ``team.events`` that says that ``at`` (Unix seconds), which the subscription waited for, has passed; ``email``
    is the payer's. The same arguments give the same bytes, whoever produces it."""
    id = derived_id(STAGE, SOURCE, f"{subscription_id}@{at}", team_id, SubscriptionEvent.DUE)
    data = _DueData(id, subscription_id, at, "due", plan_id, email=email)
    return envelope(id, SOURCE, SubscriptionEvent.DUE, team_id, rfc3339(at), None, id, FACT_SCHEMA, data)


def tier_current(event: TeamEvent, after: Standing) -> bytes:
    """Return the team's current tier as a record of ``tier.current``."""
    time = rfc3339(event.occurred_at)
    since = rfc3339(after.since) if after.since else time
    data = _CurrentData(event.team_id, LABELS[after.tier], since, after.subscription_id)
    return _derived(event, TIER_CURRENT, time, TIER_SCHEMA, data)


def initial_tier_changed(team_id: str, was: Tier, now: Tier, since: int) -> bytes:
    """Return a record of ``tier.current`` for a team whose initial tier is another one from now on. No event led to it, so its id
    follows from the two tiers; ``since`` is in Unix seconds."""
    time = rfc3339(since)
    id = derived_id(STAGE, SOURCE, f"initial-tier:{LABELS[was]}:{LABELS[now]}", team_id, TIER_CURRENT)
    return envelope(id, SOURCE, TIER_CURRENT, team_id, time, None, id, TIER_SCHEMA, _CurrentData(team_id, LABELS[now], time, None))


def _derived(event: TeamEvent, type: str, time: str, schema: str, data: object) -> bytes:
    """Return the envelope of something that follows from ``event``."""
    id = derived_id(STAGE, event.source, event.id, event.team_id, type)
    return envelope(id, SOURCE, type, event.team_id, time, event.id, event.correlation_id, schema, data)


def _of_billing(fact: BillingFact, kind: Kind, reason: Reason, was: Tier, now: Tier, time: str, ends_at: int) -> tuple[str, _Transition]:
    """Return the one line that a person reads in the audit log, and the metadata."""
    before, after = LABELS[was], LABELS[now]
    event_id, subscription, plan = fact.event_id, fact.subscription_id, fact.plan_id
    by_tiers = _SUMMARIES.get(kind)
    common = (before, after, reason, event_id, time, subscription, plan, fact.time_source, fact.paid_count)
    if by_tiers is not None:
        summary = by_tiers[was][now] if was != now else f"Subscription canceled, still on {after}"
        return summary, _Transition(*common)
    if kind is Kind.CHARGE_UNDELIVERABLE:
        emitted = _Undeliverable(*common, fact.amount, fact.currency, fact.payment_id)
        return "Charge received for a subscription that has ended", emitted
    return _GRACE_SUMMARIES[kind].format(rfc3339(ends_at)), _InGrace(*common, rfc3339(ends_at))


def _service_metadata(event: TeamEvent, body: Service, decision: Decision, time: str) -> Json:
    """Return the kind's own fields and the common ones, which they can not overwrite.

    ``email`` and ``name`` are dropped from every kind: addresses stay out of the audit log.
    """
    data = body.data
    if is_plain(data):
        own = {name: value for name, value in data.__dict__.items() if value is not None}
    else:
        own = data.model_dump(mode="json", exclude_none=True)
    own.pop("email", None)
    own.pop("name", None)
    common: Json = {"reason": decision.reason, "event_id": event.id, "occurred_at": time}
    if isinstance(body.data, AdminTierChanged):
        own["requested"] = own.pop("to")
        if "reason" in own:
            own["admin_reason"] = own.pop("reason")
    if isinstance(body.data, AdminTierChanged) or body.kind is Kind.CLAIMED:
        common |= {"from": LABELS[decision.before.tier], "to": LABELS[decision.after.tier]}
    return own | common


def _resource(body: Service) -> tuple[str | None, str | None]:
    """The type and id of the resource that the event is about."""
    data = body.data
    if isinstance(data, NearQuotaWall):
        return data.resource_type, None
    if isinstance(data, ResourceExpiryImminent):
        return data.resource_type, _uuid(data.resource_id)
    return None, None


def owner_of(row: Row) -> Owner:
    """Return the owner of the team: the claim's, else the import's."""
    claim, imported = row.claim, row.imported
    user_id = None
    contact: _Claimant | _Payer | None = None
    if claim is not None:
        user_id, contact = _uuid(claim.user_id), _Claimant(claim.email, claim.name)
    if imported is not None:
        user_id = user_id or _uuid(imported.user_id)
        if contact is None and imported.email:
            contact = _Payer(imported.email)
    return user_id, contact


def _uuid(text: str | None) -> str | None:
    """Return ``text`` as a UUID in its usual form, or None when it is none. Nothing is kept: looking it up costs more than looking at it."""
    if not text or USUAL_UUID(text):
        return text or None
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return None


_SUMMARIES: dict[Kind, tuple[tuple[str, ...], ...]] = {
    kind: tuple(tuple(text.format(before, after) for after in LABELS) for before in LABELS)
    for kind, text in (
        (Kind.UPGRADED, "Upgraded from {} to {}"),
        (Kind.DOWNGRADED, "Downgraded from {} to {}"),
        (Kind.CANCELED, "Subscription canceled, from {} to {}"),
    )
}
"""By kind, tier before, and tier after."""


_GRACE_SUMMARIES: dict[Kind, str] = {
    Kind.GRACE_STARTED: "Payment failed, in grace until {}",
    Kind.GRACE_REMINDER: "Payment still due, in grace until {}",
    Kind.GRACE_RECOVERED: "Payment made good within the grace until {}",
    Kind.GRACE_TERMINATED: "Payment not made good, the grace until {} is over",
}


def _service_summary(body: Service, decision: Decision, resource: str | None) -> str:
    before, after = LABELS[decision.before.tier], LABELS[decision.after.tier]
    match body.kind:
        case Kind.CLAIMED:
            return f"Team claimed, on {after}"
        case Kind.ADMIN_TIER_CHANGED:
            return f"Tier changed by an admin, from {before} to {after}"
        case Kind.ADMIN_PROMO_ISSUED:
            return "Promotion code issued by an admin"
        case Kind.NEAR_QUOTA_WALL:
            return f"Near the limit of {resource}"
        case Kind.RESOURCE_EXPIRY_IMMINENT:
            return f"{resource} expires soon"
        case Kind.EXPERIMENT_CONVERSION:
            return "Experiment converted"
    raise AssertionError(f"{body.kind} is no service's kind")
