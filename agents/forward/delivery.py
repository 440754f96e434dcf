"""One mail's way to Loops: called with the same key until an answer settles it, and what settled it in the ledger."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Protocol

import structlog

from agents.audit.record import AuditRecord
from agents.forward.decide import CheckKey, Hold, WaitForLoops, judge, key_is_forgotten, recipient
from agents.forward.held import HeldMails
from schemas.loops import LoopsPayload
from schemas.reasons import Reason
from schemas.recipients import address_hash
from streams.engine.backlog import Line
from streams.errors import LoopsKeyRejected, LoopsUnavailable
from streams.kafka.dead_letters import ConsumedRecord, DeadLetters
from streams.logging import mask_email
from streams.loops.client import Accepted, AlreadyAccepted, Denied, EventSender, RateLimited, Refused, Reply, Unavailable, Unrecognised
from streams.runtime.waiting import Backoff, Waiting
from streams.stores.ledger import Classification, Entry, Ledger, LedgerRow

HELD_BACKOFF = Backoff(first_seconds=1.0, cap_seconds=300.0)
"""Between the tries of a mail that waits by itself. Cap: what answers so may be a firewall, which nobody mends within minutes."""

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


class Limiter(Protocol):
    """The part of ``RateLimiter`` that deliveries need."""

    async def start(self) -> float: ...
    def finish(self, started: float, *, answered: bool = True) -> None: ...
    def observe(self, limit: float | None, remaining: float | None) -> None: ...
    def reject(self, retry_after: float | None) -> None: ...


@dataclass(slots=True)
class _Attempts:
    """What a mail has met so far. ``answers`` is how many events Loops had answered at its last failure."""

    failure: str | None = None
    answers: int | None = None
    held: int = 0


class Deliveries:
    """Calls Loops for mails, those of different teams at once. Several partitions share it."""

    def __init__(
        self,
        ledger: Ledger,
        loops: EventSender,
        limiter: Limiter,
        dead_letters: DeadLetters,
        waiting: Waiting,
        clock: Callable[[], datetime],
        held_backoff: Backoff,
        sleep: Callable[[float], Awaitable[object]],
    ) -> None:
        """``waiting`` is how Loops is waited for when nobody gets an answer; ``held_backoff``, how one mail waits while others do."""
        self._ledger = ledger
        self._loops = loops
        self._limiter = limiter
        self._dead_letters = dead_letters
        self._waiting = waiting
        self._clock = clock
        self._held_backoff = held_backoff
        self._sleep = sleep
        self._calls = asyncio.Semaphore(CONCURRENT_CALLS)
        self._held_turn = asyncio.Lock()
        self._key_turn = asyncio.Lock()
        self._key_checks = 0
        self._key_error: LoopsKeyRejected | LoopsUnavailable | None = None
        self._answers = 0  # events that Loops has accepted or refused
        self.held = HeldMails()
        self.settled = 0
        """Mails that have got their outcome so far."""

    async def deliver(self, record: ConsumedRecord, mail: AuditRecord, content: LoopsPayload, line: Line) -> Reason:
        """Call Loops until an answer settles the mail, write that down, and return it. Raises LoopsKeyRejected.

        ``line`` is told as soon as an answer does not settle it.
        """
        attempts = _Attempts()
        attempt = partial(self._attempt, record, mail, content, line, attempts)
        outcome: Reason | Hold | None = None
        try:
            outcome = await self._waiting.until_available(attempt)
            while isinstance(outcome, Hold):
                self.held.hold(mail.id, mail.kind, outcome.answer)
                await self._sleep(self._held_backoff.delay(attempts.held))
                attempts.held += 1
                async with self._held_turn:  # one at a time: of the calls that Loops allows, most are for what goes
                    outcome = await self._waiting.until_available(attempt)
            return outcome
        finally:
            self.held.release(mail.id, outcome.value if isinstance(outcome, Reason) else None)

    async def close(self, mail: AuditRecord, classification: Classification, error: str | None = None) -> Reason:
        """Write a mail's final row, and return the outcome."""
        await self._ledger.put(self._entry(mail, classification, error))
        if classification is Classification.IN_DOUBT:
            _log.error("mail_in_doubt", audit_id=str(mail.id), kind=mail.kind.value)
        self.settled += 1
        return OUTCOMES[classification]

    async def _attempt(
        self, record: ConsumedRecord, mail: AuditRecord, content: LoopsPayload, line: Line, attempts: _Attempts
    ) -> Reason | Hold:
        """Make one call. Raises LoopsUnavailable when its answer concerns every mail, LoopsKeyRejected."""
        async with self._calls:
            row = await self._ledger.put(self._entry(mail, Classification.IN_FLIGHT, attempts.failure))
            if row is None:
                return Reason.ALREADY_FINAL
            if row.classification == Classification.SUPPRESSED:
                self.settled += 1
                return Reason.SUPPRESSED
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
            case unsettled:
                line.waits()
                return await self._unsettled(unsettled, attempts)

    async def _unsettled(self, answer: Denied | Unrecognised | Unavailable, attempts: _Attempts) -> Hold:
        others_answered = attempts.answers is not None and self._answers > attempts.answers
        attempts.answers = self._answers
        attempts.failure = _words(answer)
        is_held = attempts.held > 0
        verdict = judge(answer, others_answered=others_answered, is_held=is_held, key_accepted=False)
        if isinstance(verdict, CheckKey):
            await self._check_key()
            verdict = judge(answer, others_answered=others_answered, is_held=is_held, key_accepted=True)
        match verdict:
            case Hold():
                return verdict
            case WaitForLoops(error):
                raise LoopsUnavailable(error)
            case CheckKey():
                raise AssertionError("it was checked")

    async def _check_key(self) -> None:
        """Return when Loops accepts the key; callers that ask at once share an answer. Raises LoopsKeyRejected, LoopsUnavailable."""
        asked = self._key_checks
        async with self._key_turn:
            if self._key_checks == asked:
                started = await self._limiter.start()
                self._key_error = None
                try:
                    await self._loops.check_key()
                except (LoopsKeyRejected, LoopsUnavailable) as error:
                    self._key_error = error
                finally:
                    self._limiter.finish(started, answered=False)
                self._key_checks += 1
        if self._key_error is not None:
            raise self._key_error

    async def _call(self, content: LoopsPayload, row: LedgerRow) -> Reply | None:
        """Make the call when the limit lets it, and again after each 429; None when Loops has forgotten the key before that."""
        while not key_is_forgotten(row, self._clock()):
            started = await self._limiter.start()
            answered = False
            try:
                reply = await self._loops.send(content, row.idempotency_key)
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
        email = recipient(mail)
        return Entry(
            mail.id,
            mail.team_id,
            mail.kind.value,
            mask_email(email) if email else None,
            classification,
            self._clock(),
            error,
            address_hash(email) if email else None,
        )


def _words(answer: Denied | Unrecognised | Unavailable) -> str:
    """What the ledger says of an answer that settles nothing."""
    match answer:
        case Unavailable(why):
            return why
        case Unrecognised(status, detail):
            return f"answer {status}: {detail}"
        case Denied(status):
            return f"answer {status}"
