"""``data`` of the records on ``team.events``: what services send, what normalise derives, what an import states.

Times are Unix seconds (``int``) inside facts that normalise writes; services may send RFC 3339 with an offset or
Unix seconds. Unknown fields of services' events are kept, and end up in the audit row's metadata, never in a mail.
"""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from schemas.kinds import Kind
from schemas.tiers import LABELS, parse_tier

IMPORTED = "team.imported"
"""CloudEvents type of a tier that was imported from the system that knew the team before."""

LINKED = "subscription.linked"
"""CloudEvents type of the records on ``subscription.links``."""

MAX_SECONDS = 253_402_300_799
"""The last second of the year 9999: what a database's timestamp and RFC 3339 can still say."""


MAX_COUNT = 2**53
"""The largest whole number that every JSON reader keeps exactly."""


class SubscriptionEvent(StrEnum):
    """What happens to a subscription and concerns a team's tier; also the CloudEvents ``type`` of the fact.

    The first ten and ``payment.failed`` are Razorpay's own. ``subscription.moved`` is what normalise derives for the team that a
    subscription leaves, ``subscription.due`` what classify derives once a time has passed that a row waits for.
    Source: Razorpay documentation, "Subscription webhooks".
    """

    __hash__ = str.__hash__  # Enum's own is a Python function, and these are looked up for every event

    AUTHENTICATED = "subscription.authenticated"
    ACTIVATED = "subscription.activated"
    UPDATED = "subscription.updated"
    CHARGED = "subscription.charged"
    PENDING = "subscription.pending"
    PAUSED = "subscription.paused"
    RESUMED = "subscription.resumed"
    HALTED = "subscription.halted"
    COMPLETED = "subscription.completed"
    CANCELLED = "subscription.cancelled"  # two l: Razorpay's spelling
    PAYMENT_FAILED = "payment.failed"
    MOVED = "subscription.moved"
    DUE = "subscription.due"


EVENT_RANK: dict[SubscriptionEvent, int] = {
    SubscriptionEvent.AUTHENTICATED: 0,
    SubscriptionEvent.ACTIVATED: 1,
    SubscriptionEvent.UPDATED: 2,
    SubscriptionEvent.CHARGED: 3,
    SubscriptionEvent.PENDING: 4,
    SubscriptionEvent.PAYMENT_FAILED: 4,
    SubscriptionEvent.PAUSED: 5,
    SubscriptionEvent.RESUMED: 6,
    SubscriptionEvent.HALTED: 7,
    SubscriptionEvent.COMPLETED: 8,
    SubscriptionEvent.CANCELLED: 9,
    SubscriptionEvent.MOVED: 9,
    SubscriptionEvent.DUE: 9,
}
"""Which of two facts of the same second is the later one (Razorpay's times have whole seconds). Kept in rows: never renumber."""

SERVICE_RANK = 10
"""Rank of an admin's decision among the facts of one second: people act on what they saw. Kept in rows as well."""

Version = tuple[int, int, int, str]
"""When a fact happened: (Unix seconds, rank within the second, paid count or microseconds, id of the event). Total, so
that two different events are never equal and the same event always is."""


def _tier_label(value: object) -> str:
    tier = parse_tier(value)
    if tier is None:
        raise ValueError(f"is no tier; use one of {', '.join(LABELS)}")
    return tier.label


def _moment(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("is no time; send RFC 3339 with an offset, or Unix seconds")
    if isinstance(value, int | float):
        if not 0 <= value <= MAX_SECONDS:
            raise ValueError("is out of range; send Unix seconds, not milliseconds")
        return datetime.fromtimestamp(value, UTC)
    return value


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("is out of range") from None


TierLabel = Annotated[str, BeforeValidator(_tier_label), WithJsonSchema({"type": "string", "enum": list(LABELS)})]
"""A tier's name in its one spelling; other spellings are folded, unknown names rejected."""

_MOMENT_FORMS: dict[str, Any] = {
    "anyOf": [{"type": "string", "format": "date-time"}, {"type": "number", "minimum": 0, "maximum": MAX_SECONDS}]
}

Moment = Annotated[AwareDatetime, BeforeValidator(_moment), AfterValidator(_in_utc), WithJsonSchema(_MOMENT_FORMS)]
"""An instant: RFC 3339 with an offset, or Unix seconds. Kept in UTC."""

Email = Annotated[str, Field(min_length=3, max_length=254, pattern=r"^[^@\s]+@[^@\s]+$")]


class Data(BaseModel):
    """Base of the ``data`` of one kind. Unknown fields are kept. NaN and Infinity, which JSON does not have, are no numbers."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    @property
    def extra(self) -> dict[str, Any]:
        """The fields that the contract does not name."""
        return dict(self.__pydantic_extra__ or {})


class OnboardingClaimed(Data):
    """Somebody has claimed the team: its owner's contact, and the tier it starts with."""

    email: Email
    user_id: str | None = Field(default=None, min_length=1, max_length=200)
    tier: TierLabel | None = None
    name: str | None = Field(default=None, max_length=500)


class NearQuotaWall(Data):
    """A team nears a limit; ``used`` and ``limit`` are in ``unit``."""

    resource_type: str = Field(min_length=1, max_length=200)
    used: int | float
    limit: int | float
    unit: str | None = Field(default=None, max_length=50)


class ExperimentConversion(Data):
    """A team did what an experiment hoped for."""

    experiment: str = Field(min_length=1, max_length=200)
    variant: str = Field(min_length=1, max_length=200)
    goal: str | None = Field(default=None, max_length=200)


class AdminTierChanged(Data):
    """An admin puts the team on a tier by hand, whatever is billed."""

    to: TierLabel
    admin: str = Field(min_length=1, max_length=200)
    reason: str | None = Field(default=None, max_length=1_000)


class AdminPromoIssued(Data):
    """An admin gives the team a promotion code."""

    code: str = Field(min_length=1, max_length=200)
    admin: str = Field(min_length=1, max_length=200)
    percent_off: float | None = Field(default=None, ge=0, le=100)
    expires_at: Moment | None = None


class ResourceExpiryImminent(Data):
    """Something of the team's is about to expire."""

    resource_type: str = Field(min_length=1, max_length=200)
    resource_id: str = Field(min_length=1, max_length=200)
    expires_at: Moment


class ImportedTier(Data):
    """What the system of record before tierstream knew: a starting point, never a transition."""

    tier: TierLabel
    plan_id: str | None = None
    subscription_id: str | None = None
    email: Email | None = None
    user_id: str | None = None


class SubscriptionFact(BaseModel):
    """One Razorpay subscription event, resolved by normalise: whose it is, and what tier its plan means.

    ``tier`` is None where the event needs no plan (ends, failed payments) and the plan is unknown. ``occurred_at`` is in Unix
    seconds, ``time_source`` says where it comes from (``due``: classify's own record of a time that has passed). ``adopt`` marks a
    subscription older than the adoption date. A failed payment carries when the grace that it may begin would end, and when to remind.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    event_id: str
    subscription_id: str
    occurred_at: int = Field(ge=0, le=MAX_SECONDS)
    time_source: Literal["created_at", "entities", "receipt", "due"]
    plan_id: str | None = None
    tier: TierLabel | None = None
    paid_count: int = Field(default=0, ge=0, le=MAX_COUNT)
    status: str | None = None
    has_scheduled_changes: bool = False
    current_end: int | None = Field(default=None, ge=0, le=MAX_SECONDS)
    email: str | None = None
    amount: int | None = Field(default=None, ge=0, le=MAX_COUNT, description="Minor units of ``currency``.")
    currency: str | None = None
    payment_id: str | None = None
    adopt: bool = False
    grace_ends_at: int | None = Field(default=None, ge=0, le=MAX_SECONDS)
    grace_reminders_at: tuple[Annotated[int, Field(ge=0, le=MAX_SECONDS)], ...] = ()


SERVICE_DATA: dict[Kind, type[Data]] = {
    Kind.CLAIMED: OnboardingClaimed,
    Kind.NEAR_QUOTA_WALL: NearQuotaWall,
    Kind.EXPERIMENT_CONVERSION: ExperimentConversion,
    Kind.ADMIN_TIER_CHANGED: AdminTierChanged,
    Kind.ADMIN_PROMO_ISSUED: AdminPromoIssued,
    Kind.RESOURCE_EXPIRY_IMMINENT: ResourceExpiryImminent,
}
"""The model of ``data`` for each kind that services send."""

MAX_CLOCK_SKEW_SECONDS = 300
"""A fact may lie this far after its receipt. More is a broken clock, or milliseconds sent as seconds, which would
freeze the team's registers at a time that no later fact can beat."""


class SubscriptionLink(BaseModel):
    """Whose subscription it is: one record of ``subscription.links``, as an import writes it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    subscription_id: str = Field(min_length=1, max_length=100)
    team_id: str


_CHARGED, _ACTIVATED = SubscriptionEvent.CHARGED, SubscriptionEvent.ACTIVATED
_UPDATED, _RESUMED = SubscriptionEvent.UPDATED, SubscriptionEvent.RESUMED


def starts(event: SubscriptionEvent, paid_count: int, status: str | None, has_scheduled_changes: bool) -> bool:
    """Whether the event puts a plan in force, and so needs to know the plan's tier: a charge, an activation that was paid
    for, an update of an active subscription that is not merely scheduled, a return from a pause."""
    if event is _CHARGED:
        return True
    if event is _ACTIVATED:
        return paid_count > 0
    if event is _RESUMED:
        return status == "active"
    return event is _UPDATED and status == "active" and not has_scheduled_changes
