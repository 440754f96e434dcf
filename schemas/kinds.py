"""The kinds of audit event, in one place. Emit sites and the forwarder match on identity, never on a string of their own."""

from enum import StrEnum


class Kind(StrEnum):
    """What an audit row says happened; also the CloudEvents ``type`` on ``audit.events`` and the event name at Loops."""

    __hash__ = str.__hash__  # Enum's own is a Python function, and these are looked up for every event

    CLAIMED = "onboarding.claimed"
    UPGRADED = "subscription.upgraded"
    DOWNGRADED = "subscription.downgraded"
    CANCELED = "subscription.canceled"  # one l: ours; Razorpay's own event has two
    NEAR_QUOTA_WALL = "near_quota_wall"
    EXPERIMENT_CONVERSION = "experiment.conversion"
    ADMIN_TIER_CHANGED = "admin.tier_changed"
    ADMIN_PROMO_ISSUED = "admin.promo_issued"
    RESOURCE_EXPIRY_IMMINENT = "resource.expiry_imminent"
    CHARGE_UNDELIVERABLE = "billing.charge_undeliverable"
    GRACE_STARTED = "payment.grace_started"
    GRACE_REMINDER = "payment.grace_reminder"
    GRACE_RECOVERED = "payment.grace_recovered"
    GRACE_TERMINATED = "payment.grace_terminated"
    OPERATOR_REPLAYED = "operator.replayed"
    OPERATOR_DISCARDED = "operator.discarded"
    OPERATOR_RESOLVED = "operator.resolved"


SERVICE_KINDS: frozenset[Kind] = frozenset(
    {
        Kind.CLAIMED,
        Kind.NEAR_QUOTA_WALL,
        Kind.EXPERIMENT_CONVERSION,
        Kind.ADMIN_TIER_CHANGED,
        Kind.ADMIN_PROMO_ISSUED,
        Kind.RESOURCE_EXPIRY_IMMINENT,
    }
)
"""The kinds that other services send; the rest are decided here."""

TRANSITIONS: frozenset[Kind] = frozenset({Kind.UPGRADED, Kind.DOWNGRADED, Kind.CANCELED})
"""The kinds that report what a billing event did to a team's tier."""

GRACE_KINDS: frozenset[Kind] = frozenset({Kind.GRACE_STARTED, Kind.GRACE_REMINDER, Kind.GRACE_RECOVERED, Kind.GRACE_TERMINATED})
"""The kinds that report how a grace period begins, goes on and ends."""

OPERATOR_KINDS: frozenset[Kind] = frozenset({Kind.OPERATOR_REPLAYED, Kind.OPERATOR_DISCARDED, Kind.OPERATOR_RESOLVED})
"""The kinds that report what an operator did on the command line, and why."""

MAY_LACK_TEAM: frozenset[Kind] = OPERATOR_KINDS | {Kind.CHARGE_UNDELIVERABLE}
"""The kinds of an event that may have no team: a charge that nobody could be found for, or an operator's action on a record of no team."""

RETIRING: dict[Kind, str] = {}
"""The kinds that will go, each with one sentence for its consumers: when it ends, and what to read instead. Its contract then says that it
is deprecated, and no other kind's contract may be removed."""
