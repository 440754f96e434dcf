"""What the deciding stages write: audit events and current tiers. Pure: values in, bytes of a CloudEvents envelope out."""

import uuid
from datetime import date, timedelta
from functools import lru_cache
from typing import Any

import orjson

from agents.classify import STAGE, Decision
from agents.registers import Row, Standing
from agents.team_events import Billing, Service, TeamEvent
from schemas.audit import TIER_CURRENT
from schemas.envelope import derived_id
from schemas.kinds import Kind
from schemas.team_events import AdminPromoIssued, AdminTierChanged, NearQuotaWall, ResourceExpiryImminent

AUDIT_SCHEMA = "schemas/audit-event/v1"
TIER_SCHEMA = "schemas/tier-current/v1"
SOURCE = "tierstream/classify"

Json = dict[str, Any]

_EPOCH = date(1970, 1, 1)
_TWO_DIGITS = tuple(f"{number:02d}" for number in range(60))
_MINUTES = tuple(f"T{minute // 60:02d}:{minute % 60:02d}:" for minute in range(1_440))


def rfc3339(seconds: float) -> str:
    """Return Unix seconds as RFC 3339 text in UTC, with whole seconds."""
    day, rest = divmod(int(seconds), 86_400)
    return f"{_date(day)}{_MINUTES[rest // 60]}{_TWO_DIGITS[rest % 60]}Z"


@lru_cache(maxsize=1_024)
def _date(day: int) -> str:
    return (_EPOCH + timedelta(days=day)).isoformat()


def envelope(
    *, id: str, source: str, type: str, team_id: str | None, time: str, causation: str, correlation: str, schema: str, data: Json
) -> bytes:
    """Return one CloudEvents envelope as JSON bytes."""
    head: Json = {
        "specversion": "1.0",
        "id": id,
        "source": source,
        "type": type,
        "time": time,
        "datacontenttype": "application/json",
        "dataschema": schema,
        "causationid": causation,
        "correlationid": correlation,
        "data": data,
    }
    if team_id is not None:
        head["subject"] = team_id
    return orjson.dumps(head)


def audit_event(event: TeamEvent, decision: Decision, kind: Kind) -> bytes:
    """Return the audit event of a decision that has something to tell. The same event gives the same id and the same bytes."""
    occurred_at = rfc3339(event.occurred_at)
    body = event.body
    metadata: Json = {
        "from": decision.before.tier.label,
        "to": decision.after.tier.label,
        "reason": decision.reason.value,
        "event_id": event.id,
        "occurred_at": occurred_at,
    }
    data: Json
    if isinstance(body, Billing):
        fact = body.fact
        metadata |= {
            "event_id": fact.event_id,
            "subscription_id": fact.subscription_id,
            "plan_id": fact.plan_id,
            "time_source": fact.time_source,
            "paid_count": fact.paid_count,
        }
        if kind is Kind.CHARGE_UNDELIVERABLE:
            metadata |= {"amount": fact.amount, "currency": fact.currency, "payment_id": fact.payment_id}
        data = {"actor": "system", "resource_type": "subscription"}
    else:
        assert isinstance(body, Service)  # an import tells nothing
        metadata = _service_metadata(body, metadata)
        data = {"actor": "admin" if isinstance(body.data, AdminTierChanged | AdminPromoIssued) else "agent"}
        data |= _resource(body)
    data["summary"] = summary(kind, decision, event)
    data["metadata"] = metadata
    data["created_at"] = occurred_at
    data |= _people(decision.row, body)
    return envelope(
        id=derived_id(STAGE, event.source, event.id, event.team_id, kind),
        source=SOURCE,
        type=kind,
        team_id=event.team_id,
        time=occurred_at,
        causation=event.id,
        correlation=event.correlation_id,
        schema=AUDIT_SCHEMA,
        data=data,
    )


def tier_current(event: TeamEvent, after: Standing) -> bytes:
    """Return the team's current tier as a record of ``tier.current``."""
    since = rfc3339(after.since or event.occurred_at)
    return envelope(
        id=derived_id(STAGE, event.source, event.id, event.team_id, TIER_CURRENT),
        source=SOURCE,
        type=TIER_CURRENT,
        team_id=event.team_id,
        time=rfc3339(event.occurred_at),
        causation=event.id,
        correlation=event.correlation_id,
        schema=TIER_SCHEMA,
        data={"team_id": event.team_id, "tier": after.tier.label, "since": since, "subscription_id": after.subscription_id},
    )


def _service_metadata(body: Service, common: Json) -> Json:
    """The kind's own fields beside the common ones, which they can not overwrite. Addresses stay out of the audit log."""
    own = body.data.model_dump(mode="json", exclude_none=True)
    own.pop("email", None)
    own.pop("name", None)
    if not isinstance(body.data, AdminTierChanged) and body.kind is not Kind.CLAIMED:
        common = {key: value for key, value in common.items() if key not in ("from", "to")}
    if isinstance(body.data, AdminTierChanged):
        own["requested"] = own.pop("to")
        if "reason" in own:
            own["admin_reason"] = own.pop("reason")
    return own | common


def _resource(body: Service) -> Json:
    data = body.data
    if isinstance(data, NearQuotaWall):
        return {"resource_type": data.resource_type}
    if isinstance(data, ResourceExpiryImminent):
        return {"resource_type": data.resource_type, "resource_id": _uuid(data.resource_id)}
    return {}


def _people(row: Row, body: Billing | Service | object) -> Json:
    """The owner of the team, as user id and as contact: the claim's, else the import's, else the payer's address."""
    found: Json = {}
    claim, imported = row.claim, row.imported
    user_id = _uuid(claim.user_id if claim else None) or _uuid(imported.user_id if imported else None)
    if user_id:
        found["user_id"] = user_id
    if claim is not None:
        found["contact"] = {"email": claim.email, "name": claim.name}
    elif imported is not None and imported.email:
        found["contact"] = {"email": imported.email}
    elif isinstance(body, Billing) and body.fact.email:
        found["contact"] = {"email": body.fact.email}
    return found


def _uuid(text: str | None) -> str | None:
    try:
        return str(uuid.UUID(text)) if text else None
    except ValueError:
        return None


def summary(kind: Kind, decision: Decision, event: TeamEvent) -> str:
    """Return the one line that a person reads in the audit log."""
    before, after = decision.before.tier.label, decision.after.tier.label
    match kind:
        case Kind.UPGRADED:
            return f"Upgraded from {before} to {after}"
        case Kind.DOWNGRADED:
            return f"Downgraded from {before} to {after}"
        case Kind.CANCELED:
            return f"Subscription canceled, from {before} to {after}" if before != after else f"Subscription canceled, still on {after}"
        case Kind.CLAIMED:
            return f"Team claimed, on {after}"
        case Kind.ADMIN_TIER_CHANGED:
            return f"Tier changed by an admin, from {before} to {after}"
        case Kind.ADMIN_PROMO_ISSUED:
            return "Promotion code issued by an admin"
        case Kind.CHARGE_UNDELIVERABLE:
            return "Charge received for a subscription that has ended"
        case Kind.NEAR_QUOTA_WALL | Kind.RESOURCE_EXPIRY_IMMINENT:
            resource = (
                event.body.data.resource_type
                if isinstance(event.body, Service) and hasattr(event.body.data, "resource_type")
                else "resource"
            )
            return f"Near the limit of {resource}" if kind is Kind.NEAR_QUOTA_WALL else f"{resource} expires soon"
        case Kind.EXPERIMENT_CONVERSION:
            return "Experiment converted"
