"""``data`` of the records on ``audit.events`` and ``tier.current``."""

import uuid
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from schemas.tiers import LABELS

TIER_CURRENT = "tier.current"
"""CloudEvents type of the records on the topic of the same name."""


class Contact(BaseModel):
    """Whom a mail about the team goes to. Never stored in ``audit_log``, never logged."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    email: str
    name: str | None = None


class AuditData(BaseModel):
    """One row of ``audit_log``; the envelope's ``id`` is its primary key, ``type`` its kind, ``subject`` its team.

    ``metadata`` of a transition holds at least ``from``, ``to``, ``reason``, ``event_id``, ``subscription_id``,
    ``plan_id`` and ``occurred_at`` (RFC 3339). ``created_at`` is the time of the fact. ``contact`` is for the forwarder.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    actor: str = "agent"
    user_id: uuid.UUID | None = None
    resource_type: str | None = None
    resource_id: uuid.UUID | None = None
    summary: str
    metadata: dict[str, Any]
    created_at: AwareDatetime
    contact: Contact | None = None


class TierCurrent(BaseModel):
    """A team's tier now, for any service that wants it. ``since`` is the time of the fact that set it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    team_id: str
    tier: str = Field(json_schema_extra={"enum": list(LABELS)})
    since: AwareDatetime
    subscription_id: str | None = None
