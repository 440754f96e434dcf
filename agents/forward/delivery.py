"""One mail's way to Loops: called with the same key until an answer settles it, or concerns it alone, and what settled it in the ledger."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import structlog

from agents.audit.record import AuditRecord
from agents.forward.decide import CheckKey, Hold, WaitForLoops, judge, key_is_forgotten, recipient
from agents.forward.key import ApiKey
from schemas.loops import LoopsPayload
from schemas.reasons import Reason
from streams.errors import LoopsUnavailable
from streams.kafka.dead_letters import ConsumedRecord, DeadLetters
from streams.logging import mask_email
from streams.loops.client import Accepted, AlreadyAccepted, Denied, EventSender, RateLimited, Refused, Reply, Unavailable, Unrecognised
from streams.loops.rate_limit import Limiter
from streams.runtime.waiting import Waiting
from streams.stores.ledger import Classification, Entry, Ledger, LedgerRow, Wait

CONCURRENT_CALLS = 32
"""Calls, of different teams, under way or in line at once."""

OUTCOMES: dict[Classification, Reason] = {
    Classification.SENT: Reason.SENT,
    Classification.ALREADY_SENT: Reason.ALREADY_SENT,
    Classification.REFUSED: Reason.REFUSED,
    Classification.NO_RECIPIENT: Reason.NO_RECIPIENT,
    Classification.PLACEHOLDER_RECIPIENT: Reason.PLACEHOLDER_RECIPIENT,
    Classification.EXPIRED: Reason.EXPIRED,
    Classification.SUPPRESSED: Reason.SUPPRESSED,
    Classification.IN_DOUBT: Reason.IN_DOUBT,
}

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Unsettled:
    """The last answer concerns this mail alone. ``answer`` is some words, of few different ones; ``error`` more of them, without addresses."""

    answer: str
    error: str
    attempts: int


@dataclass(slots=True)
class _Attempts:
    """What a mail has met so far in this process. ``answers`` is how many events Loops had answered at its last failure."""

    is_held: bool
    failure: str | None = None
    answers: int | None = None
    calls: int = 0


class Deliveries:
    """Calls Loops for mails, those of different teams at once. Several partitions share it."""

    def __init__(
        self,
        ledger: Ledger,
        loops: EventSender,
        limiter: Limiter,
        key: ApiKey,
        dead_letters: DeadLetters,
        waiting: Waiting,
        clock: Callable[[], datetime],
    ) -> None:
        """``waiting`` is how Loops is waited for when nobody gets an answer, ``key`` while it rejects the key."""
        self._ledger = ledger
        self._loops = loops
        self._limiter = limiter
        self._key = key
        self._dead_letters = dead_letters
        self._waiting = waiting
        self._clock = clock
        self._calls = asyncio.Semaphore(CONCURRENT_CALLS)
        self._answers = 0  # events that Loops has accepted or refused
        self.settled = 0
        """Mails that have got their outcome so far."""

    async def deliver(
        self, record: ConsumedRecord, mail: AuditRecord, content: LoopsPayload, on_unsettled: Callable[[], object], *, is_held: bool
    ) -> Reason | Unsettled:
        """Call Loops until an answer settles the mail, which is written down, or concerns it alone. Waits while Loops answers nobody, or
        rejects the key.

        Calls ``on_unsettled`` as soon as an answer does not settle it. ``is_held``: the mail comes from a retry topic.
        """
        return await self._waiting.until_available(partial(self._attempt, record, mail, content, on_unsettled, _Attempts(is_held)))

    async def close(self, mail: AuditRecord, classification: Classification, error: str | None = None) -> Reason:
        """Write a mail's final row, and return the outcome."""
        await self._ledger.put(self._entry(mail, classification, error))
        if classification is Classification.IN_DOUBT:
            _log.error("mail_in_doubt", audit_id=str(mail.id), kind=mail.kind.value)
        self.settled += 1
        return OUTCOMES[classification]

    async def _attempt(
        self,
        record: ConsumedRecord,
        mail: AuditRecord,
        content: LoopsPayload,
        on_unsettled: Callable[[], object],
        attempts: _Attempts,
    ) -> Reason | Unsettled:
        """Make one call, and another when the key was rejected in between. Raises LoopsUnavailable when its answer concerns every mail."""
        while True:
            await self._key.accepted()
            async with self._calls:
                row = await self._ledger.put(self._entry(mail, Classification.IN_FLIGHT, attempts.failure))
                if row is None:
                    return Reason.ALREADY_FINAL
                attempts.calls = row.attempts
                reply = await self._call(content, row)
            if reply is None:
                return await self.close(mail, Classification.IN_DOUBT, attempts.failure)
            match reply.answer:
                case Accepted():
                    self._answers += 1
                    return await self.close(mail, Classification.SENT)
                case AlreadyAccepted():
                    self._answers += 1
                    return await self.close(mail, Classification.ALREADY_SENT)
                case Refused(status, message):
                    self._answers += 1
                    error = f"Loops refuses the event ({status}: {message})."
                    _log.warning("mail_refused", audit_id=str(mail.id), kind=mail.kind.value, error=error)
                    await self._dead_letters.write(record, Reason.REFUSED, error)
                    return await self.close(mail, Classification.REFUSED, error)
                case RateLimited():
                    raise AssertionError("waited out in _call")
                case answer:
                    on_unsettled()
                    unsettled = await self._unsettled(answer, attempts)
                    if unsettled is not None:
                        return unsettled

    async def _unsettled(self, answer: Denied | Unrecognised | Unavailable, attempts: _Attempts) -> Unsettled | None:
        """Return that the answer concerns this mail alone, or None when it was for a key that is accepted again. Raises LoopsUnavailable."""
        others_answered = attempts.answers is not None and self._answers > attempts.answers
        attempts.answers = self._answers
        attempts.failure = _words(answer)
        verdict = judge(answer, others_answered=others_answered, is_held=attempts.is_held, key_accepted=False)
        if isinstance(verdict, CheckKey):
            if not await self._key.confirm():
                return None
            verdict = judge(answer, others_answered=others_answered, is_held=attempts.is_held, key_accepted=True)
        match verdict:
            case Hold(words):
                if self._waiting.is_open and self._waiting.callers > 1 and not isinstance(answer, Denied):
                    # It probes for all. That the key is accepted does not say that events are: another is to find out.
                    raise LoopsUnavailable(f"Loops can not be reached: {words}; mails wait until it answers.")
                return Unsettled(words, attempts.failure, attempts.calls)
            case WaitForLoops(error):
                raise LoopsUnavailable(error)
            case CheckKey():
                raise AssertionError("it was checked")

    async def _call(self, content: LoopsPayload, row: LedgerRow) -> Reply | None:
        """Make the call when the limit lets it, and again after each 429; None when Loops has forgotten the key before that."""
        while not key_is_forgotten(row, self._clock()):
            started = await self._limiter.start()
            answered = False
            try:
                reply = await self._loops.send(content, str(row.audit_id))
                answered = reply.arrived
            finally:
                self._limiter.finish(started, answered=answered)
            if isinstance(reply.answer, RateLimited):
                self._limiter.reject(reply.answer.retry_after)
                continue
            if answered:
                self._limiter.observe(reply.rate_limit, reply.rate_remaining)
            return reply
        return None

    def _entry(self, mail: AuditRecord, classification: Classification, error: str | None) -> Entry:
        return entry_of(mail, classification, self._clock(), error)


def entry_of(mail: AuditRecord, classification: Classification, at: datetime, error: str | None = None, wait: Wait | None = None) -> Entry:
    """Return what is written of a mail in the ledger."""
    email = recipient(mail)
    return Entry(mail.id, mail.team_id, mail.kind.value, mask_email(email) if email else None, classification, at, error, wait)


def _words(answer: Denied | Unrecognised | Unavailable) -> str:
    """What the ledger says of an answer that settles nothing."""
    match answer:
        case Unavailable(why):
            return why
        case Unrecognised(status, detail):
            return f"answer {status}: {detail}"
        case Denied(status):
            return f"answer {status}"
