"""What ``audit.events`` and ``tier.current`` promise to other teams, kind by kind: the contracts in docs/contracts follow from these models.

``schemas.audit`` reads leniently what this describes strictly. Fields may be added without notice; an optional field may be absent or null,
which mean the same. Tests hold every writer to these models.
"""

import uuid
from typing import Generic, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from schemas.audit import AuditData, TierCurrent
from schemas.envelope import DataT, Envelope
from schemas.kinds import Kind
from schemas.team_events import TierLabel

UndeliverableReason = Literal["ended", "unknown_team", "unknown_plan"]


class PublishedEnvelope(Envelope[DataT], Generic[DataT]):
    """An envelope as tierstream's own stages write it: what ``Envelope`` may do without is always there."""

    specversion: Literal["1.0"]
    id: str = Field(
        json_schema_extra={"format": "uuid"}, description="The event's own id: the same each time it is read, and of no other event."
    )
    datacontenttype: Literal["application/json"]
    dataschema: str = Field(description="Path of the JSON Schema of `data`, with its version.")
    causationid: str | None = Field(description="Id of the event that caused this one; null where time alone did.")
    correlationid: str = Field(description="Id of the event that began it all (Razorpay's event id).")


class Metadata(BaseModel):
    """``metadata`` of an audit event. Further fields may stand beside those that are named."""

    model_config = ConfigDict(frozen=True, extra="allow")


class FromEvent(Metadata):
    """``metadata`` of what follows from an event."""

    reason: str
    event_id: str = Field(description="Id of the event that led to it: Razorpay's, or the service's own.")
    occurred_at: AwareDatetime = Field(description="When the fact happened.")


class FromSubscription(FromEvent):
    """``metadata`` of what a subscription did. ``from`` and ``to`` are the team's tiers before and after."""

    before: TierLabel = Field(alias="from", description="The team's tier before.")
    after: TierLabel = Field(alias="to", description="The team's tier after.")
    subscription_id: str
    plan_id: str | None
    time_source: Literal["created_at", "entities", "receipt", "due"] = Field(description="Where `occurred_at` comes from.")
    paid_count: int = Field(ge=0)


class Upgraded(FromSubscription):
    """A team is on a higher tier than before."""

    reason: Literal["upgraded"]


class Downgraded(FromSubscription):
    """A team is on a lower tier than before, and a subscription of it goes on, is paused, or was moved to another team."""

    reason: Literal["downgraded", "paused", "moved"]


class Canceled(FromSubscription):
    """A subscription has ended, or was moved to another team."""

    reason: Literal["canceled", "moved"]


class InGrace(FromSubscription):
    """``metadata`` of what becomes of a grace period."""

    ends_at: AwareDatetime = Field(description="When the grace ends, or would have ended.")


class GraceStarted(InGrace):
    """A payment failed; the team keeps its tier until ``ends_at``."""

    reason: Literal["grace_started"]


class GraceReminder(InGrace):
    """The payment is still due."""

    reason: Literal["grace_reminder"]


class GraceRecovered(InGrace):
    """The payment was made good in time."""

    reason: Literal["grace_recovered"]


class GraceTerminated(InGrace):
    """The payment was not made good; the grace is over."""

    reason: Literal["grace_terminated"]


class ChargeUndeliverable(FromEvent):
    """A charge came for a subscription that has ended, or whose team or plan nobody knows. ``amount`` is in minor units of ``currency``."""

    reason: UndeliverableReason
    before: TierLabel | None = Field(alias="from")
    after: TierLabel | None = Field(alias="to")
    subscription_id: str
    plan_id: str | None
    time_source: Literal["created_at", "entities", "receipt", "due"]
    paid_count: int = Field(ge=0)
    amount: int | None
    currency: str | None
    payment_id: str | None


class OnboardingClaimed(FromEvent):
    """Somebody has claimed the team. Whom mails go to stands in ``contact``."""

    reason: Literal["claimed"]
    before: TierLabel = Field(alias="from", description="The team's tier before.")
    after: TierLabel = Field(alias="to", description="The team's tier after.")
    user_id: str | None = None
    tier: TierLabel | None = Field(default=None, description="The tier that the claim asked for.")


class NearQuotaWall(FromEvent):
    """A team nears a limit; ``used`` and ``limit`` are in ``unit``."""

    reason: Literal["passed_through"]
    resource_type: str
    used: float
    limit: float
    unit: str | None = None


class ExperimentConversion(FromEvent):
    """A team did what an experiment hoped for."""

    reason: Literal["passed_through"]
    experiment: str
    variant: str
    goal: str | None = None


class AdminTierChanged(FromEvent):
    """An admin put the team on a tier by hand, whatever is billed."""

    reason: Literal["admin_changed"]
    before: TierLabel = Field(alias="from", description="The team's tier before.")
    after: TierLabel = Field(alias="to", description="The team's tier after.")
    requested: TierLabel = Field(description="The tier that the admin asked for.")
    admin: str
    admin_reason: str | None = Field(default=None, description="The admin's own words.")


class AdminPromoIssued(FromEvent):
    """An admin gave the team a promotion code."""

    reason: Literal["passed_through"]
    code: str
    admin: str
    percent_off: float | None = Field(default=None, ge=0, le=100)
    expires_at: AwareDatetime | None = None


class ResourceExpiryImminent(FromEvent):
    """Something of the team's is about to expire."""

    reason: Literal["passed_through"]
    resource_type: str
    resource_id: str
    expires_at: AwareDatetime


class Operator(Metadata):
    """``metadata`` of what an operator did on the command line, and why. It says more, which depends on the command."""

    because: str
    by: str = Field(description="The operator's login name.")


class OperatorReplayed(Operator):
    """An operator had a record processed again."""


class OperatorDiscarded(Operator):
    """An operator discarded a dead letter."""

    at: str = Field(description="The dead letter's place: topic, partition and offset.")


class OperatorResolved(Operator):
    """An operator decided what became of a mail."""

    audit_id: uuid.UUID = Field(description="Id of the audit event whose mail it is.")
    kind: str = Field(description="Kind of that audit event.")


class PublishedTier(TierCurrent):
    """A team's tier now. The newest record of a team counts; a record without a value (a tombstone) says that the team is gone."""

    subscription_id: str | None = Field(description="The subscription that the tier follows from; null without one.")


MetadataT = TypeVar("MetadataT", bound=Metadata)


class Published(AuditData, Generic[MetadataT]):
    """``data`` of one kind on ``audit.events``."""

    actor: Literal["agent", "admin", "system", "cli"]
    metadata: MetadataT  # type: ignore[assignment]  # narrower than a dict, on purpose


PUBLISHED: dict[Kind, type[Metadata]] = {
    Kind.CLAIMED: OnboardingClaimed,
    Kind.UPGRADED: Upgraded,
    Kind.DOWNGRADED: Downgraded,
    Kind.CANCELED: Canceled,
    Kind.NEAR_QUOTA_WALL: NearQuotaWall,
    Kind.EXPERIMENT_CONVERSION: ExperimentConversion,
    Kind.ADMIN_TIER_CHANGED: AdminTierChanged,
    Kind.ADMIN_PROMO_ISSUED: AdminPromoIssued,
    Kind.RESOURCE_EXPIRY_IMMINENT: ResourceExpiryImminent,
    Kind.CHARGE_UNDELIVERABLE: ChargeUndeliverable,
    Kind.GRACE_STARTED: GraceStarted,
    Kind.GRACE_REMINDER: GraceReminder,
    Kind.GRACE_RECOVERED: GraceRecovered,
    Kind.GRACE_TERMINATED: GraceTerminated,
    Kind.OPERATOR_REPLAYED: OperatorReplayed,
    Kind.OPERATOR_DISCARDED: OperatorDiscarded,
    Kind.OPERATOR_RESOLVED: OperatorResolved,
}
"""The model of ``metadata`` for each kind of audit event."""
