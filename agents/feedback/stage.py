"""The feedback stage: ``loops.webhooks`` → the ledger ``forwarder_sent``, and the addresses that get no more mail.

Order of the steps for one webhook, and what a crash after each leaves:

1. what it says, and what follows for its ledger row, committed as one → read again: the same facts, nothing changes;
2. dead letter acknowledged (a body that is none of Loops')             → read again: a second dead letter;
3. the offset is committed                                              → done.

Webhooks are keyed by their own id, so those of one mail are worked in by any worker, in any order: ``streams.stores.feedback`` says why that makes
no difference. A report on a mail whose call has no answer yet waits for it, beside the others, and the offset is not committed past it.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Protocol

from agents.audit.record import DeadLetter
from agents.feedback.decide import read_report
from schemas.reasons import Reason
from streams.engine.backlog import Backlog, Line
from streams.errors import RowRejected
from streams.kafka.dead_letters import ConsumedRecord, DeadLetters
from streams.metrics import FEEDBACK
from streams.runtime.waiting import Backoff
from streams.stores.feedback import InFlight, Matched, Noted, Report, Unmatched

STAGE = "feedback"

IN_FLIGHT_BACKOFF = Backoff(first_seconds=0.5, cap_seconds=60.0)
"""Between the looks at a mail that is in flight. First: an answer of Loops takes less. Cap: a mail may be so for 24 hours."""


class FeedbackStore(Protocol):
    """Where reports go: ``PostgresFeedback``, or a test's own."""

    async def note(self, report: Report) -> Noted:
        """Take one report in, once it is committed, and return which mail it is about."""


class FeedbackHandler:
    """Works in what Loops reports. Several partitions may be handled at once."""

    def __init__(
        self,
        store: FeedbackStore,
        dead_letters: DeadLetters,
        *,
        backoff: Backoff = IN_FLIGHT_BACKOFF,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        new_backlog: Callable[[], Backlog] = Backlog,
    ) -> None:
        self._store = store
        self._dead_letters = dead_letters
        self._backoff = backoff
        self._sleep = sleep
        self._backlogs: defaultdict[tuple[str, int], Backlog] = defaultdict(new_backlog)
        self._waiting = 0
        self.progress = 0
        """Webhooks that have got their outcome so far."""

    @property
    def full(self) -> Collection[tuple[str, int]]:
        """The (topic, partition)s of which as many reports wait as may."""
        return [place for place, backlog in self._backlogs.items() if backlog.is_full]

    def describe(self) -> str:
        """Say how many reports wait for the answer to their mail's call; nothing when none does."""
        return f"reports on mails that are in flight still: {self._waiting}" if self._waiting else ""

    async def handle(self, records: Sequence[ConsumedRecord], let_go: Callable[[], object] = lambda: None) -> Counter[Reason]:
        """Take one partition's ``records`` in and return how many ended how, once all is durable. Waits while PostgreSQL or Kafka is away.

        Calls ``let_go`` once nothing is left but reports on mails in flight, and not too many.
        """
        outcomes: Counter[Reason] = Counter()
        waiting: list[tuple[ConsumedRecord, Report]] = []
        for record in records:
            report = read_report(record.value, _webhook_id(record))
            reason = await self._settle(record, report)
            if reason is not None:
                outcomes[reason] += 1
            elif isinstance(report, Report):
                waiting.append((record, report))
        if waiting:
            backlog = self._backlogs[records[0].topic, records[0].partition]
            backlog.begin(let_go)
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(self._settle_later(backlog.open(1), record, report)) for record, report in waiting]
            except BaseExceptionGroup as failures:
                raise failures.exceptions[0] from failures
            outcomes += Counter(task.result() for task in tasks)
        return outcomes

    async def _settle_later(self, line: Line, record: ConsumedRecord, report: Report) -> Reason:
        self._waiting += 1
        line.waits()
        tries = 0
        try:
            while True:
                await self._sleep(self._backoff.delay(tries))
                tries += 1
                if (reason := await self._settle(record, report)) is not None:
                    return reason
        finally:
            self._waiting -= 1
            line.close()

    async def _settle(self, record: ConsumedRecord, report: Report | Reason | DeadLetter) -> Reason | None:
        """Return the outcome of one webhook, once it is durable; None while its mail is in flight."""
        match report:
            case Report():
                reason = await self._note(record, report)
            case DeadLetter(reason, error):
                await self._dead_letters.write(record, reason, error)
            case reason:
                pass
        if reason is not None:
            FEEDBACK.labels(reason.value).inc()
            self.progress += 1
        return reason

    async def _note(self, record: ConsumedRecord, report: Report) -> Reason | None:
        try:
            noted = await self._store.note(report)
        except RowRejected as error:
            await self._dead_letters.write(record, Reason.REJECTED, str(error))
            return Reason.REJECTED
        match noted:
            case InFlight():
                return None
            case Matched():
                return Reason.MATCHED
            case Unmatched(reason):
                return reason
            case None:
                return Reason.ADDRESS_NOTED


def _webhook_id(record: ConsumedRecord) -> str:
    return (record.key or b"").decode("utf-8", "replace").replace("\0", "")
