"""The forward stage: ``audit.events`` → one mail each at Loops, and a row of the ledger ``forwarder_sent`` that says what became of it.

Order of the steps for one mail, and what a crash after each leaves:

1. ledger row ``in_flight`` committed   → read again: the row is younger than Loops' memory of the key, so the call is made, with the same key;
2. Loops accepted the call              → read again: the same key gets a 409, and the row says ``already_sent``;
3. dead letter acknowledged (a refusal) → read again: refused again, a second dead letter;
4. ledger row final                     → read again: the row is found, no call is made;
5. the offset is committed              → done.

A mail whose row the ledger refuses is a dead letter, ``rejected``; no call is made before its row is there.
A row that is still ``in_flight`` when Loops has forgotten the key becomes ``in_doubt``: nobody sends it again without an operator.
Mails of one team go out in the order of their records. With ``FORWARD=off`` nothing is sent and each new mail is recorded as
``suppressed``, so that switching it on later does not bring old mails.
"""

import asyncio
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Protocol

import structlog

from agents.audit.record import AuditRecord, DeadLetter, read_audit_record
from agents.forward.decide import Close, Policy, Send, Skip, decide, key_is_forgotten, recipient
from schemas.loops import LoopsPayload
from schemas.reasons import Reason
from streams.errors import LoopsUnavailable, RowRejected
from streams.kafka.dead_letters import ConsumedRecord, DeadLetters
from streams.logging import mask_email
from streams.loops.client import Accepted, AlreadyAccepted, EventSender, KeyRejected, RateLimited, Refused, Reply, Unavailable, key_rejected
from streams.runtime.waiting import Backoff, Waiting
from streams.stores.ledger import Classification, Entry, Ledger, LedgerRow

STAGE = "forward"


RETRY_BACKOFF = Backoff(first_seconds=0.2, cap_seconds=10.0)
"""Between the tries of one mail while Loops answers others: ``Waiting``'s ``retry_backoff``."""

CONCURRENT_CALLS = 32
"""Calls, of different teams, under way or in line at once."""

_log = structlog.get_logger(__name__)


_REASONS: dict[Classification, Reason] = {
    Classification.SENT: Reason.SENT,
    Classification.ALREADY_SENT: Reason.ALREADY_SENT,
    Classification.REFUSED: Reason.REFUSED,
    Classification.NO_RECIPIENT: Reason.NO_RECIPIENT,
    Classification.PLACEHOLDER_RECIPIENT: Reason.PLACEHOLDER_RECIPIENT,
    Classification.EXPIRED: Reason.EXPIRED,
    Classification.SUPPRESSED: Reason.SUPPRESSED,
    Classification.IN_DOUBT: Reason.IN_DOUBT,
}
_SETTLES = frozenset(_REASONS.values()) - {Reason.IN_DOUBT}
"""Outcomes after which another record with the same id finds a final row."""


class Limiter(Protocol):
    """The part of ``RateLimiter`` that the forwarder needs."""

    async def start(self) -> float: ...
    def finish(self, started: float, *, answered: bool = True) -> None: ...
    def observe(self, limit: float | None, remaining: float | None) -> None: ...
    def reject(self, retry_after: float | None) -> None: ...


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Forwarder:
    """Sends the mails of batches. Several partitions may be handled at once; they share the limit and the ledger."""

    def __init__(
        self,
        ledger: Ledger,
        loops: EventSender,
        limiter: Limiter,
        dead_letters: DeadLetters,
        policy: Policy,
        waiting: Waiting,
        *,
        clock: Callable[[], datetime] = _utc_now,
    ) -> None:
        """``waiting`` is how Loops is waited for; the ledger and the dead letters do their own waiting."""
        self._ledger = ledger
        self._loops = loops
        self._limiter = limiter
        self._dead_letters = dead_letters
        self._policy = policy
        self._waiting = waiting
        self._clock = clock
        self._calls = asyncio.Semaphore(CONCURRENT_CALLS)
        self.progress = 0
        """Mails that have got their outcome so far."""

    async def handle(self, records: Sequence[ConsumedRecord], _go_on: Callable[[], None] = lambda: None) -> Counter[Reason]:
        """Settle the mails of one partition's ``records``, which are in offset order, and return how many ended how.

        Returns only when each has its final row in the ledger, or its dead letter. Waits while PostgreSQL, Kafka or Loops is
        away; teams do not wait for each other. Raises LoopsKeyRejected, and the rows of calls under way stay ``in_flight``.
        """
        outcomes: Counter[Reason] = Counter()
        mails: dict[uuid.UUID | None, list[tuple[ConsumedRecord, AuditRecord]]] = {}
        teams: dict[uuid.UUID, uuid.UUID | None] = {}
        for record in records:
            match read_audit_record(record.value):
                case AuditRecord() as audit_record:
                    # Records with one id belong together, whatever team they name.
                    team = teams.setdefault(audit_record.id, audit_record.team_id)
                    mails.setdefault(team, []).append((record, audit_record))
                case DeadLetter(reason, error):
                    await self._dead_letters.write(record, reason, error)
                    outcomes[reason] += 1
        rows = await self._ledger.rows(list(teams))
        try:
            async with asyncio.TaskGroup() as group:
                running = [group.create_task(self._settle_in_order(team_mails, rows)) for team_mails in mails.values()]
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from failures
        for task in running:
            outcomes += task.result()
        return outcomes

    async def _settle_in_order(self, mails: list[tuple[ConsumedRecord, AuditRecord]], rows: dict[uuid.UUID, LedgerRow]) -> Counter[Reason]:
        outcomes: Counter[Reason] = Counter()
        settled: dict[uuid.UUID, Reason] = {}
        for record, audit_record in mails:
            reason = settled.get(audit_record.id)
            if reason is None:
                reason = settled[audit_record.id] = await self._settle(record, audit_record, rows.get(audit_record.id))
            elif reason in _SETTLES:
                reason = Reason.ALREADY_FINAL
            outcomes[reason] += 1
        return outcomes

    async def _settle(self, record: ConsumedRecord, audit_record: AuditRecord, row: LedgerRow | None) -> Reason:
        match decide(audit_record, row, self._clock(), self._policy):
            case Skip(reason):
                return reason
            case decision:
                try:
                    return await self._carry_out(decision, record, audit_record)
                except RowRejected as error:
                    # Whatever Loops was told stands there under its key; without its row nothing more can be done here.
                    await self._dead_letters.write(record, Reason.REJECTED, str(error))
                    self.progress += 1
                    return Reason.REJECTED

    async def _carry_out(self, decision: Close | Send, record: ConsumedRecord, audit_record: AuditRecord) -> Reason:
        match decision:
            case Close(classification):
                return await self._close(audit_record, classification)
            case Send(content):
                return await self._deliver(record, audit_record, content)

    async def _deliver(self, record: ConsumedRecord, audit_record: AuditRecord, content: LoopsPayload) -> Reason:
        """Call Loops until it gives an answer that counts, and write that down."""
        failure: str | None = None

        async def attempt() -> Reason:
            nonlocal failure
            async with self._calls:
                row = await self._ledger.put(self._entry(audit_record, Classification.IN_FLIGHT, failure))
                if row is None:
                    return Reason.ALREADY_FINAL
                reply = await self._call(content, row)
            if reply is None:
                return await self._close(audit_record, Classification.IN_DOUBT, failure)
            match reply.answer:
                case Accepted():
                    return await self._close(audit_record, Classification.SENT)
                case AlreadyAccepted():
                    return await self._close(audit_record, Classification.ALREADY_SENT)
                case Refused(status, message):
                    error = f"Loops refuses the event ({status}: {message})."
                    _log.warning("mail_refused", audit_id=str(audit_record.id), kind=audit_record.kind.value, error=error)
                    await self._dead_letters.write(record, Reason.REFUSED, error)
                    return await self._close(audit_record, Classification.REFUSED, error)
                case KeyRejected(status):
                    raise key_rejected(status)
                case Unavailable(why):
                    failure = why
                    raise LoopsUnavailable(f"Loops can not be reached: {why}; mails wait until it answers.")
                case RateLimited():
                    raise AssertionError("waited out in _call")

        return await self._waiting.until_available(attempt)

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

    async def _close(self, audit_record: AuditRecord, classification: Classification, error: str | None = None) -> Reason:
        await self._ledger.put(self._entry(audit_record, classification, error))
        if classification is Classification.IN_DOUBT:
            _log.error("mail_in_doubt", audit_id=str(audit_record.id), kind=audit_record.kind.value)
        self.progress += 1
        return _REASONS[classification]

    def _entry(self, audit_record: AuditRecord, classification: Classification, error: str | None) -> Entry:
        email = recipient(audit_record)
        return Entry(
            audit_record.id,
            audit_record.team_id,
            audit_record.kind.value,
            mask_email(email) if email else None,
            classification,
            self._clock(),
            error,
        )
