"""The forward stage: ``audit.events`` → one mail each at Loops, and a row of the ledger ``forwarder_sent`` that says what became of it.

Order of the steps for one mail, and what a crash after each leaves:

1. ledger row ``in_flight`` committed   → read again: the row is younger than Loops' memory of the key, so the call is made, with the same key;
2. Loops accepted the call              → read again: the same key gets a 409, and the row says ``already_sent``;
3. dead letter acknowledged (a refusal) → read again: refused again, a second dead letter;
4. ledger row final                     → read again: the row is found, no call is made;
5. the offset is committed              → done.

A mail whose row the ledger refuses is a dead letter, ``rejected``; no call is made before its row is there.
A row that is still ``in_flight`` when Loops has forgotten the key becomes ``in_doubt``: nobody sends it again without an operator.
Mails of one team go out in the order of their records. A mail whose answer concerns it alone waits by itself (``delivery.py``), and
its team's later mails behind it; the partition's next records go on beside them, within a bound, and the offset is not committed past
it. With ``FORWARD=off`` nothing is sent and each new mail is recorded as
``suppressed``, so that switching it on later does not bring old mails.
"""

import asyncio
import uuid
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import UTC, datetime

from agents.audit.record import AuditRecord, DeadLetter, read_audit_record
from agents.forward.decide import Close, Policy, Send, Skip, decide
from agents.forward.delivery import HELD_BACKOFF, OUTCOMES, Deliveries, Limiter
from schemas.reasons import Reason
from streams.engine.backlog import Backlog, Line
from streams.errors import RowRejected
from streams.kafka.dead_letters import ConsumedRecord, DeadLetters
from streams.loops.client import EventSender
from streams.runtime.waiting import Backoff, Waiting
from streams.stores.ledger import Ledger, LedgerRow

STAGE = "forward"

RETRY_BACKOFF = Backoff(first_seconds=0.2, cap_seconds=10.0)
"""Between the tries of one mail while Loops answers others: ``Waiting``'s ``retry_backoff``."""

_SETTLES = frozenset(OUTCOMES.values()) - {Reason.IN_DOUBT}
"""Outcomes after which another record with the same id finds a final row."""

_Mails = deque[tuple[ConsumedRecord, AuditRecord]]


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
        held_backoff: Backoff = HELD_BACKOFF,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        new_backlog: Callable[[], Backlog] = Backlog,
    ) -> None:
        """``waiting`` is how Loops is waited for when nobody gets an answer, ``held_backoff`` how one mail waits while others do, and
        ``new_backlog`` makes a partition's. The ledger and the dead letters do their own waiting."""
        self._ledger = ledger
        self._dead_letters = dead_letters
        self._policy = policy
        self._clock = clock
        self._deliveries = Deliveries(ledger, loops, limiter, dead_letters, waiting, clock, held_backoff, sleep)
        self._backlogs: defaultdict[tuple[str, int], Backlog] = defaultdict(new_backlog)
        self._last: dict[uuid.UUID | None, asyncio.Task[Counter[Reason]]] = {}
        """By team: the last of its lines that has not ended."""

    @property
    def progress(self) -> int:
        """Mails that have got their outcome so far."""
        return self._deliveries.settled

    @property
    def full(self) -> Collection[tuple[str, int]]:
        """The (topic, partition)s of which as many mails wait as may."""
        return [part for part, backlog in self._backlogs.items() if backlog.is_full]

    def describe(self) -> str:
        """Say which mails wait by themselves and why, without addresses; nothing when none does."""
        full = ", ".join(str(number) for _, number in sorted(self.full))
        return self._deliveries.held.describe() + (f"; as many as may wait, so nothing more is begun, in partitions {full}" if full else "")

    async def handle(self, records: Sequence[ConsumedRecord], let_go: Callable[[], object] = lambda: None) -> Counter[Reason]:
        """Settle the mails of one partition's ``records``, which are in offset order, and return how many ended how.

        Returns only when each has its final row in the ledger, or its dead letter. Waits while PostgreSQL, Kafka or Loops is
        away; teams do not wait for each other. Calls ``let_go`` once the partition's next records may be begun, which keep each team's
        order. Raises LoopsKeyRejected, and the rows of calls under way stay ``in_flight``.
        """
        outcomes: Counter[Reason] = Counter()
        mails: dict[uuid.UUID | None, _Mails] = {}
        teams: dict[uuid.UUID, uuid.UUID | None] = {}
        for record in records:
            match read_audit_record(record.value):
                case AuditRecord() as audit_record:
                    # Records with one id belong together, whatever team they name.
                    team = teams.setdefault(audit_record.id, audit_record.team_id)
                    mails.setdefault(team, deque()).append((record, audit_record))
                case DeadLetter(reason, error):
                    await self._dead_letters.write(record, reason, error)
                    outcomes[reason] += 1
        if not mails:
            return outcomes
        rows = await self._ledger.rows(list(teams))
        backlog = self._backlogs[records[0].topic, records[0].partition]
        backlog.begin(let_go)
        try:
            async with asyncio.TaskGroup() as group:
                running = [self._open(group, backlog, team, team_mails, rows) for team, team_mails in mails.items()]
                del records, record, mails, teams, rows  # what waits for hours is not to keep the rest of its batch in memory
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from failures
        for task in running:
            outcomes += task.result()
        return outcomes

    def _open(
        self, group: asyncio.TaskGroup, backlog: Backlog, team: uuid.UUID | None, mails: _Mails, rows: dict[uuid.UUID, LedgerRow]
    ) -> asyncio.Task[Counter[Reason]]:
        """Begin the line of one team's mails of a batch, behind the one of its earlier mails."""
        own = {audit_record.id: row for _, audit_record in mails if (row := rows.get(audit_record.id)) is not None}
        line = backlog.open(len(mails))
        task = group.create_task(self._settle_in_order(line, self._last.get(team), mails, own))
        self._last[team] = task

        def ended(_: object) -> None:
            line.close()
            if self._last.get(team) is task:
                del self._last[team]

        task.add_done_callback(ended)
        return task

    async def _settle_in_order(
        self, line: Line, before: asyncio.Task[Counter[Reason]] | None, mails: _Mails, rows: dict[uuid.UUID, LedgerRow]
    ) -> Counter[Reason]:
        if before is not None and not before.done():
            line.waits()
            await asyncio.shield(before)
            rows = await self._ledger.rows([audit_record.id for _, audit_record in mails])
        outcomes: Counter[Reason] = Counter()
        settled: dict[uuid.UUID, Reason] = {}
        while mails:
            record, audit_record = mails.popleft()
            reason = settled.get(audit_record.id)
            if reason is None:
                reason = settled[audit_record.id] = await self._settle(record, audit_record, rows.get(audit_record.id), line)
            elif reason in _SETTLES:
                reason = Reason.ALREADY_FINAL
            outcomes[reason] += 1
            line.settled()
        return outcomes

    async def _settle(self, record: ConsumedRecord, audit_record: AuditRecord, row: LedgerRow | None, line: Line) -> Reason:
        match decide(audit_record, row, self._clock(), self._policy):
            case Skip(reason):
                return reason
            case decision:
                try:
                    return await self._carry_out(decision, record, audit_record, line)
                except RowRejected as error:
                    # Whatever Loops was told stands there under its key; without its row nothing more can be done here.
                    await self._dead_letters.write(record, Reason.REJECTED, str(error))
                    return Reason.REJECTED

    async def _carry_out(self, decision: Close | Send, record: ConsumedRecord, audit_record: AuditRecord, line: Line) -> Reason:
        match decision:
            case Close(classification):
                return await self._deliveries.close(audit_record, classification)
            case Send(content):
                return await self._deliveries.deliver(record, audit_record, content, line)
