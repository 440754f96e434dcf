"""Why an event ended as it did: one enum, which is also the ``reason`` label of the outcome metric.

Every received event has exactly one outcome, so events received = the sum of outcomes.
"""

from enum import StrEnum


class Reason(StrEnum):
    """The outcome of one event at one stage."""

    __hash__ = str.__hash__  # Enum's own is a Python function, and these are looked up for every event

    # classify: a row for the audit log
    UPGRADED = "upgraded"
    DOWNGRADED = "downgraded"
    CANCELED = "canceled"
    CLAIMED = "claimed"
    ADMIN_CHANGED = "admin_changed"
    PASSED_THROUGH = "passed_through"
    ENDED = "ended"  # a charge on a subscription that is over: an undeliverable charge
    PAUSED = "paused"
    MOVED = "moved"  # to another team
    GRACE_STARTED = "grace_started"
    GRACE_REMINDER = "grace_reminder"
    GRACE_RECOVERED = "grace_recovered"
    GRACE_TERMINATED = "grace_terminated"
    # classify: nothing to emit
    RENEWAL = "renewal"
    SUPERSEDED = "superseded"
    SCHEDULED = "scheduled"
    NOT_ACTIVE = "not_active"
    NOT_STARTED = "not_started"
    ENDS_LATER = "ends_later"
    PAUSES_LATER = "pauses_later"
    NOT_DUE = "not_due"
    ALREADY_ENDED = "already_ended"
    PAYMENT_TROUBLE = "payment_trouble"
    DUPLICATE = "duplicate"
    STALE = "stale"
    IMPORTED = "imported"
    ADOPTED = "adopted"
    # normalise
    NORMALISED = "normalised"
    LINKED = "linked"
    IGNORED = "ignored"
    # transport
    REROUTED = "rerouted"  # on a partition that its key does not belong to: produced again to the right one
    # dead letters
    MALFORMED = "malformed"
    UNKNOWN_TEAM = "unknown_team"
    UNKNOWN_PLAN = "unknown_plan"
    UNKNOWN_TIER = "unknown_tier"
    UNKNOWN_KIND = "unknown_kind"
    FUTURE_TIME = "future_time"
    ID_CONFLICT = "id_conflict"  # the id of an earlier event with other content
    TOO_LARGE = "too_large"
    HANDLER_FAILED = "handler_failed"
    # audit
    WRITTEN = "written"
    ALREADY_WRITTEN = "already_written"
    REJECTED = "rejected"  # PostgreSQL refuses the row itself, at audit or in the ledger; or what it refers to never came
    # forward
    SENT = "sent"
    ALREADY_SENT = "already_sent"
    ALREADY_FINAL = "already_final"  # the ledger holds the outcome of an earlier delivery of the same event
    REFUSED = "refused"
    NO_RECIPIENT = "no_recipient"
    PLACEHOLDER_RECIPIENT = "placeholder_recipient"
    NEVER_MAILED = "never_mailed"
    EXPIRED = "expired"
    SUPPRESSED = "suppressed"
    IN_DOUBT = "in_doubt"
    WAITS = "waits"  # put on a retry topic, or there already


DEAD_LETTER_REASONS: frozenset[Reason] = frozenset(
    {
        Reason.MALFORMED,
        Reason.UNKNOWN_TEAM,
        Reason.UNKNOWN_PLAN,
        Reason.UNKNOWN_TIER,
        Reason.UNKNOWN_KIND,
        Reason.FUTURE_TIME,
        Reason.ID_CONFLICT,
        Reason.TOO_LARGE,
        Reason.HANDLER_FAILED,
        Reason.REJECTED,
        Reason.REFUSED,
    }
)
"""Outcomes after which the record stands in ``dead.letters``, whole, to be inspected and replayed."""
