"""The forward stage: ``audit.events`` → one mail each at Loops, and a row of the ledger ``forwarder_sent`` that says what became of it.

Order of the steps for one mail, and what a crash after each leaves:

1. ledger row ``in_flight`` committed   → read again: the row is younger than Loops' memory of the key, so the call is made, with the same key;
2. Loops accepted the call              → read again: the same key gets a 409, and the row says ``already_sent``;
3. dead letter acknowledged (a refusal) → read again: refused again, a second dead letter;
4. ledger row final                     → read again: the row is found, no call is made;
5. the offset is committed              → done.

Where the answer concerns the mail alone, 3 and 4 are:

3. record on a retry topic acknowledged → read again: tried again, and a second record; which of the two comes first counts;
4. ledger row says that it waits        → read again: the row is found, no call is made.

A mail whose row the ledger refuses is a dead letter, ``rejected``; no call is made before its row is there.
A row that is still ``in_flight`` when Loops has forgotten the key becomes ``in_doubt``: nobody sends it again without an operator.
Mails of one team go out in the order of their records on ``audit.events``. While one waits, the later ones wait behind it on its retry
topic, and the ledger rows say so to whoever reads the partition. With ``FORWARD=off`` nothing is sent and each new mail is recorded as
``suppressed``, so that switching it on later does not bring old mails.
"""

import asyncio
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import structlog

from agents.audit.record import AuditRecord, DeadLetter, read_audit_record
from agents.forward.decide import Behind, Close, Policy, Send, Skip, decide, place_in_team
from agents.forward.delivery import OUTCOMES, Deliveries, Unsettled, entry_of
from agents.forward.held import HeldMails
from agents.forward.key import ApiKey
from agents.forward.retries import Retries, Retry, Tier, read_retry
from agents.forward.turns import Turns
from schemas.reasons import Reason
from streams.engine.backlog import Backlog, Line
from streams.errors import RowRejected
from streams.kafka.dead_letters import ConsumedRecord, DeadLetters
from streams.loops.client import EventSender
from streams.loops.rate_limit import Limiter
from streams.runtime.waiting import Backoff, Waiting
from streams.stores.ledger import Asked, Classification, Ledger, LedgerRow, Wait

STAGE = "forward"

RETRY_BACKOFF = Backoff(first_seconds=0.2, cap_seconds=10.0)
"""Between the tries of one mail while Loops answers others: ``Waiting``'s ``retry_backoff``."""

BEHIND = "behind another"
"""What a mail waits for that is not the first of its team's that wait."""

_SETTLES = frozenset(OUTCOMES.values()) - {Reason.IN_DOUBT}
"""Outcomes after which another record with the same id finds a final row."""

_UNSETTLED = (Reason.WAITS, Reason.SUPERSEDED)

_log = structlog.get_logger(__name__)


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class _Mail:
    """An audit event with a mail: its record as it was on ``audit.events``, and, from a retry topic, what its waiting was."""

    record: ConsumedRecord
    event: AuditRecord
    retry: Retry | None

    @property
    def place(self) -> tuple[int, int]:
        """What orders the mails of a team."""
        return self.record.partition, self.record.offset


_Rows = dict[uuid.UUID, LedgerRow]


class Forwarder:
    """Sends the mails of batches. Several partitions may be handled at once; they share the limit and the ledger."""

    def __init__(
        self,
        ledger: Ledger,
        loops: EventSender,
        limiter: Limiter,
        dead_letters: DeadLetters,
        retries: Retries,
        tiers: Sequence[Tier],
        policy: Policy,
        waiting: Waiting,
        key: ApiKey,
        *,
        clock: Callable[[], datetime] = _utc_now,
        new_backlog: Callable[[], Backlog] = Backlog,
    ) -> None:
        """``tiers`` are the retry topics, the shortest wait first. ``waiting`` is how Loops is waited for when nobody gets an answer, and
        ``new_backlog`` makes that of a retry topic's partition. The ledger, the dead letters and the retries do their own waiting."""
        self._ledger = ledger
        self._dead_letters = dead_letters
        self._retries = retries
        self._tiers = tuple(tiers)
        self._retry_topics = frozenset(tier.topic for tier in tiers)
        self._policy = policy
        self._clock = clock
        self._deliveries = Deliveries(ledger, loops, limiter, key, dead_letters, waiting, clock)
        self._backlogs: defaultdict[tuple[str, int], Backlog] = defaultdict(new_backlog)
        self._held = HeldMails()
        self._turns = Turns()
        self._retry_turn = asyncio.Lock()
        self._moved = 0

    @property
    def progress(self) -> int:
        """Mails that have got their outcome, or were put on a retry topic, so far."""
        return self._deliveries.settled + self._moved

    @property
    def full(self) -> Collection[tuple[str, int]]:
        """The (topic, partition)s of which as many mails wait in memory as may."""
        return [part for part, backlog in self._backlogs.items() if backlog.is_full]

    def describe(self) -> str:
        """Say which mails wait for a retry and why, without addresses; nothing when none does."""
        return self._held.describe()

    async def handle(self, records: Sequence[ConsumedRecord], let_go: Callable[[], object] = lambda: None) -> Counter[Reason]:
        """Settle the mails of ``records``, of one partition of one topic and in offset order, and return how many ended how.

        Returns only when each has its final row in the ledger, its dead letter, or its record on a retry topic and a row that says so.
        Waits while PostgreSQL, Kafka or Loops is away, or the key is rejected; teams do not wait for each other. Those of a retry topic
        wait until they are due. Calls ``let_go`` once all that is left waits for something, and the next records may be begun beside it:
        only answers to other mails tell whether Loops fails one or all.
        """
        if records[0].topic in self._retry_topics:
            return await self._handle_waiting(records, let_go)
        outcomes: Counter[Reason] = Counter()
        mails: dict[uuid.UUID | None, list[_Mail]] = {}
        teams: dict[uuid.UUID, uuid.UUID | None] = {}
        for mail in await self._read(records, outcomes):
            # Records with one id belong together, whatever team they name.
            mails.setdefault(teams.setdefault(mail.event.id, mail.event.team_id), []).append(mail)
        if not mails:
            return outcomes
        rows = await self._ledger.rows([Asked(audit_id, team) for audit_id, team in teams.items()])
        waiting = {row.team_id for row in rows.values() if row.wait is not None}
        backlog = self._backlogs[records[0].topic, records[0].partition]
        backlog.begin(let_go)
        lines = {team: backlog.open(len(own)) for team, own in mails.items()}
        work = [(line, self._settle_team(line, team, mails[team], None if team in waiting else rows)) for team, line in lines.items()]
        return await _together(outcomes, work)

    async def _read(self, records: Sequence[ConsumedRecord], outcomes: Counter[Reason]) -> list[_Mail]:
        mails: list[_Mail] = []
        for record in records:
            original, retry = read_retry(record) if record.topic in self._retry_topics else (record, None)
            match read_audit_record(record.value):
                case AuditRecord() as event:
                    mails.append(_Mail(original, event, retry))
                case DeadLetter(reason, error):
                    await self._dead_letters.write(original, reason, error)
                    outcomes[reason] += 1
        return mails

    async def _settle_team(self, line: Line, team: uuid.UUID | None, mails: Iterable[_Mail], rows: _Rows | None) -> Counter[Reason]:
        """Settle one team's mails of a batch, one after the other. Without ``rows``, some of the team wait: which, is asked for in its turn."""
        outcomes: Counter[Reason] = Counter()
        settled: dict[uuid.UUID, Reason] = {}
        if self._turns.is_taken(team):
            rows = None  # what they say may be over by then
            line.waits()
        async with self._turns.turn(team):
            if rows is None:
                rows = await self._ledger.rows([Asked(mail.event.id, team) for mail in mails])
            waiting = {row.audit_id: row for row in rows.values() if row.wait is not None and row.team_id == team}
            for mail in mails:
                reason = settled.get(mail.event.id)
                if reason is None:
                    reason = settled[mail.event.id] = await self._settle(mail, rows.get(mail.event.id), waiting, line)
                elif reason in _SETTLES:
                    reason = Reason.ALREADY_FINAL
                outcomes[reason] += 1
                line.settled()
        return outcomes

    async def _handle_waiting(self, records: Sequence[ConsumedRecord], let_go: Callable[[], object]) -> Counter[Reason]:
        """Settle mails of a retry topic, each when it is due, or sooner when the one that it waits behind has its outcome."""
        outcomes: Counter[Reason] = Counter()
        mails = await self._read(records, outcomes)
        backlog = self._backlogs[records[0].topic, records[0].partition]
        backlog.begin(let_go)
        lines = [backlog.open(1) for _ in mails]
        return await _together(outcomes, [(line, self._settle_when_due(line, mail)) for line, mail in zip(lines, mails, strict=True)])

    async def _settle_when_due(self, line: Line, mail: _Mail) -> Counter[Reason]:
        team, answer = mail.event.team_id, mail.retry.answer if mail.retry else "unknown"
        with self._held.holding(mail.event.id, mail.event.kind, answer):
            line.waits()
            reason: Reason | None = None
            while reason is None:
                seconds = (mail.retry.due - self._clock()).total_seconds() if mail.retry else 0.0
                is_due = await self._turns.until_due(team, mail.place, seconds)
                # One at a time: of the calls that Loops allows, most are for what goes. Ahead of the team's turn, for its new mails need that.
                async with self._retry_turn, self._turns.turn(team):
                    reason = await self._retry(mail, line, is_due=is_due)
            if reason not in _UNSETTLED:
                self._turns.rouse(team)
                _log.info("mail_released", audit_id=str(mail.event.id), outcome=reason.value)
            return Counter([reason])

    async def _retry(self, mail: _Mail, line: Line, *, is_due: bool) -> Reason | None:
        """Settle a mail that waited; None when another of its team is still ahead of it, and it is not due."""
        team, audit_id = mail.event.team_id, mail.event.id
        rows = await self._ledger.rows([Asked(audit_id, team)])
        row = rows.get(audit_id)
        if mail.retry is not None and row is not None and row.wait is not None and row.wait.round > mail.retry.round:
            return Reason.SUPERSEDED  # by a later record of the same mail
        waiting = {other.audit_id: other for other in rows.values() if other.wait is not None and other.team_id == team}
        if not is_due and place_in_team(audit_id, mail.place, waiting.values()) is not None:
            return None
        return await self._settle(mail, row, waiting, line)

    async def _settle(self, mail: _Mail, row: LedgerRow | None, waiting: _Rows, line: Line) -> Reason:
        """Settle one mail in its team's turn. ``waiting`` are the rows of the team's mails that wait; one that comes to wait is added."""
        if mail.retry is None and row is not None and row.wait is not None:
            return Reason.WAITS
        decision = decide(mail.event, row, self._clock(), self._policy)
        if isinstance(decision, Skip):
            return decision.reason
        try:
            return await self._carry_out(decision, mail, row, waiting, line)
        except RowRejected as error:
            # Whatever Loops was told stands there under its key; without its row nothing more can be done here.
            await self._dead_letters.write(mail.record, Reason.REJECTED, str(error))
            return Reason.REJECTED

    async def _carry_out(self, decision: Close | Send, mail: _Mail, row: LedgerRow | None, waiting: _Rows, line: Line) -> Reason:
        if isinstance(decision, Close):
            waiting.pop(mail.event.id, None)
            return await self._deliveries.close(mail.event, decision.classification)
        behind = place_in_team(mail.event.id, mail.place, waiting.values())
        if behind is not None:
            return await self._wait(mail, row, waiting, behind)
        is_held = mail.retry is not None
        outcome = await self._deliveries.deliver(mail.record, mail.event, decision.payload, line.waits, is_held=is_held)
        if isinstance(outcome, Unsettled):
            return await self._wait(mail, row, waiting, outcome)
        waiting.pop(mail.event.id, None)
        return outcome

    async def _wait(self, mail: _Mail, row: LedgerRow | None, waiting: _Rows, why: Unsettled | Behind) -> Reason:
        """Put a mail on a retry topic, and then say so in the ledger."""
        now, known = self._clock(), mail.retry
        step = known.step if known else 0
        done = max(known.round if known else 0, row.wait.round if row is not None and row.wait is not None else 0)
        first, last, attempts = (known.first_error, known.last_error, known.attempts) if known else ("", "", 0)
        if isinstance(why, Unsettled):
            tier = self._tiers[min(step, len(self._tiers) - 1)]
            topic, due, answer = tier.topic, tier.due(now), why.answer
            step, attempts, first, last = step + 1, why.attempts, first or why.error, why.error
        else:
            # With the first of its team, and due soon after it, so that it is tried by then even where nobody rouses it.
            topic = why.first.topic if why.first.due > now else self._tiers[0].topic
            due, answer = self._tiers[0].due(max(now, why.first.due)), BEHIND
        retry = Retry(done + 1, step, attempts, due, answer, first, last)
        await self._retries.write(topic, mail.record, retry, str(mail.event.team_id).encode())
        wait = Wait(topic, due, retry.round, *mail.place)
        error = last if isinstance(why, Unsettled) else None
        written = await self._ledger.put(entry_of(mail.event, Classification.IN_FLIGHT, now, error, wait))
        self._moved += 1
        if written is None:  # another has settled it meanwhile, or put it as far
            rows = await self._ledger.rows([Asked(mail.event.id, mail.event.team_id)])
            waiting.update({other.audit_id: other for other in rows.values() if other.wait is not None})
            return Reason.SUPERSEDED
        waiting[mail.event.id] = written
        _log.warning(
            "mail_held",
            audit_id=str(mail.event.id),
            kind=mail.event.kind.value,
            answer=answer,
            attempts=attempts,
            topic=topic,
            due=due.isoformat(timespec="seconds"),
        )
        return Reason.WAITS


async def _together(outcomes: Counter[Reason], work: Iterable[tuple[Line, Coroutine[object, object, Counter[Reason]]]]) -> Counter[Reason]:
    """Add the outcomes of ``work``, which goes on at the same time; each line is closed as its work ends, also before it began. Raises what
    the first of it raises."""
    tasks: list[asyncio.Task[Counter[Reason]]] = []
    try:
        async with asyncio.TaskGroup() as group:
            for line, each in work:
                task = group.create_task(each)
                task.add_done_callback(partial(_close, line))
                tasks.append(task)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    for task in tasks:
        outcomes += task.result()
    return outcomes


def _close(line: Line, _: object) -> None:
    line.close()
