"""Decide what becomes of the mail of one audit event. Pure: the event, its ledger row and the time in, a value out."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from agents.audit.record import AuditRecord
from schemas.loops import LOOPS_MAP, LoopsPayload, NeverMailed, payload
from schemas.razorpay import PLACEHOLDER_EMAIL
from schemas.reasons import Reason
from streams.stores.ledger import Classification, LedgerRow

KEY_LIFETIME = timedelta(hours=24)
"""Loops answers 409 to an Idempotency-Key for this long after it accepted it."""

KEY_MARGIN = timedelta(minutes=5)
"""A retry is not begun this close to the end of ``KEY_LIFETIME``: clocks differ, and the call may wait for the rate limit."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings that decide about a mail. ``max_age`` is how old a fact may be when its mail is first seen."""

    sending: bool = True
    max_age: timedelta = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Send:
    """Call Loops with this."""

    payload: LoopsPayload


@dataclass(frozen=True, slots=True)
class Close:
    """Make no call; the ledger says why."""

    classification: Classification


@dataclass(frozen=True, slots=True)
class Skip:
    """Make no call and leave the ledger as it is."""

    reason: Reason


Decision = Send | Close | Skip


def decide(record: AuditRecord, row: LedgerRow | None, now: datetime, policy: Policy) -> Decision:
    """Return what becomes of the mail of one audit event, given its ledger row (None: never seen). Pure.

    The age that counts is the fact's, not the record's: a replay must not send stale mail.
    """
    if isinstance(LOOPS_MAP[record.kind], NeverMailed):
        return Skip(Reason.NEVER_MAILED)
    if row is not None:
        if row.classification == Classification.IN_DOUBT:
            return Skip(Reason.IN_DOUBT)
        if row.classification != Classification.IN_FLIGHT:
            return Skip(Reason.ALREADY_FINAL)
        if not policy.sending or key_is_forgotten(row, now):
            return Close(Classification.IN_DOUBT)
    elif not policy.sending:
        return Close(Classification.SUPPRESSED)
    email = recipient(record)
    if email is None:
        return Close(Classification.NO_RECIPIENT)
    if email.casefold() == PLACEHOLDER_EMAIL:
        return Close(Classification.PLACEHOLDER_RECIPIENT)
    if row is None and now - record.data.created_at > policy.max_age:
        return Close(Classification.EXPIRED)
    contact = record.data.contact
    return Send(payload(record.kind, email, {"name": contact.name if contact else None, **record.data.metadata}))


def key_is_forgotten(row: LedgerRow, now: datetime) -> bool:
    """Whether Loops may no longer know the key of this row's first attempt."""
    return row.first_attempt_at is not None and now - row.first_attempt_at >= KEY_LIFETIME - KEY_MARGIN


def recipient(record: AuditRecord) -> str | None:
    """The address that a mail about the event goes to, or None."""
    contact = record.data.contact
    return contact.email.strip() or None if contact else None
