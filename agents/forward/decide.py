"""Decide what becomes of the mail of one audit event, whether it is the next of its team, and whom an answer concerns that settles nothing.
Pure: a value out."""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from agents.audit.record import AuditRecord
from schemas.loops import LOOPS_MAP, LoopsPayload, NeverMailed, payload
from schemas.razorpay import PLACEHOLDER_EMAIL
from schemas.reasons import Reason
from streams.loops.client import Denied, Unavailable, Unrecognised
from streams.stores.ledger import Classification, LedgerRow, Wait

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
        if key_is_forgotten(row, now) or (not policy.sending and row.attempts):
            return Close(Classification.IN_DOUBT)
        if not policy.sending:
            return Close(Classification.SUPPRESSED)  # it waited behind another, and was never tried
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


@dataclass(frozen=True, slots=True)
class Hold:
    """The answer concerns this mail alone: it waits on a retry topic, and the others go on. ``answer`` is some words, of few different ones."""

    answer: str


@dataclass(frozen=True, slots=True)
class CheckKey:
    """Whom the answer concerns depends on whether Loops accepts the key."""


@dataclass(frozen=True, slots=True)
class WaitForLoops:
    """The answer concerns every mail, as far as is known: all wait. ``error`` is one sentence."""

    error: str


@dataclass(frozen=True, slots=True)
class Behind:
    """Another mail of the team waits, and is the earlier: this one waits behind it."""

    first: Wait


def place_in_team(own: uuid.UUID, place: tuple[int, int], waiting: Iterable[LedgerRow]) -> Behind | None:
    """Return the first mail of the team that has to have its outcome before the one at ``place``, or None. Pure.

    ``waiting`` are the rows of the team's mails that wait. The place on ``audit.events`` orders a team's mails, not when each is due.
    """
    ahead = [row.wait for row in waiting if row.wait is not None and row.audit_id != own and row.wait.place < place]
    return Behind(min(ahead, key=lambda wait: wait.place)) if ahead else None


def judge(
    answer: Denied | Unrecognised | Unavailable, *, others_answered: bool, is_held: bool, key_accepted: bool
) -> Hold | CheckKey | WaitForLoops:
    """Return whom an answer concerns that neither accepts nor refuses the event. Pure.

    ``others_answered``: since this mail's last failure, Loops has accepted or refused another event. ``is_held``: it comes
    from a retry topic. ``key_accepted``: the key was checked after this answer, and Loops accepts it.
    """
    if isinstance(answer, Denied):
        return Hold(f"answer {answer.status}") if key_accepted else CheckKey()
    if isinstance(answer, Unrecognised):
        words, sentence = (
            f"answer {answer.status}",
            f"Loops accepts the key and does not say what becomes of events (answer {answer.status}: {answer.detail}); "
            "mails wait until it does, so look at the account and at what stands before Loops.",
        )
    else:
        words, sentence = answer.why, f"Loops can not be reached: {answer.why}; mails wait until it answers."
    if others_answered or (is_held and key_accepted):
        return Hold(words)
    if not key_accepted and (is_held or isinstance(answer, Unrecognised)):
        return CheckKey()
    return WaitForLoops(sentence)


def key_is_forgotten(row: LedgerRow, now: datetime) -> bool:
    """Whether Loops may no longer know the key of this row's first attempt."""
    return row.first_attempt_at is not None and now - row.first_attempt_at >= KEY_LIFETIME - KEY_MARGIN


def recipient(record: AuditRecord) -> str | None:
    """The address that a mail about the event goes to, or None."""
    contact = record.data.contact
    return contact.email.strip() or None if contact else None
