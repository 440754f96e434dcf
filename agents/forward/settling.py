"""Ahead of the forwarder: mails of a team that belong together are held until it is known what becomes of them (``settle.py``).

Everything else passes through at once, but what follows a held mail of its team: a team's mails keep their order. The partition goes on
meanwhile, and its offset is not committed past what is held. Order of the steps for one window, and what a crash after each leaves:

1. its net mail has its outcome, or its place on a retry topic → read again: the window ends with it, for its row says so;
2. the ledger says ``suppressed`` of the others                → read again: their rows are final;
3. the offset is committed                                     → done.

A window ends when a record of its partition is younger, or when the time has passed and nothing more is to be read. So neither batches
nor a backlog decide about mails.
"""

import asyncio
import time
import uuid
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial

import orjson

from agents.audit.record import AuditRecord, read_audit_record
from agents.forward.delivery import entry_of
from agents.forward.settle import Change, Mail, Suppress, settle, settles, welcome, window
from schemas.kinds import Kind
from schemas.reasons import Reason
from streams.engine.backlog import Backlog, Line
from streams.engine.handler import BatchHandler, begun
from streams.errors import RowRejected
from streams.kafka.dead_letters import DeadLetters
from streams.kafka.records import Record
from streams.stores.ledger import Classification, Ledger
from streams.stores.mail_history import MailHistory

IDLE_SECONDS = 2.0
"""A partition of which nothing was read for so long, though it might have been, has nothing more: many times what a fetch takes."""

_CLAIMED = Kind.CLAIMED.value.encode()


@dataclass(slots=True, eq=False)
class _Held:
    """One record that is held, and its outcome."""

    record: Record
    event: AuditRecord
    line: Line
    outcome: "asyncio.Future[Reason]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def at(self) -> float:
        return float(self.record.timestamp) / 1000

    def end(self, reason: Reason) -> None:
        if not self.outcome.done():
            self.outcome.set_result(reason)
            self.line.settled()


@dataclass(slots=True, eq=False)
class _Partition:
    """What is known of one partition. ``read_until`` is its youngest timestamp; ``free_since``, by the event loop's clock, from when on its next
    records may be read."""

    backlog: Backlog = field(default_factory=Backlog)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    read_until: float = 0.0
    next_offset: int = 0
    free_since: float = 0.0
    teams: dict[uuid.UUID, deque[_Held]] = field(default_factory=dict)
    tasks: dict[uuid.UUID, asyncio.Task[None]] = field(default_factory=dict)

    def begin(self, records: Sequence[Record], let_go: Callable[[], object]) -> None:
        """A batch begins; its lines are to be opened before anything is awaited."""
        if records[0].offset < self.next_offset:
            self.read_until = 0.0  # read again, and what lies behind may not be there yet
        self.next_offset = records[-1].offset + 1
        self.read_until = max(self.read_until, max(record.timestamp for record in records) / 1000)
        self.free_since = float("inf")
        self.backlog.begin(partial(self._free, let_go))
        self.moved.set()

    def _free(self, let_go: Callable[[], object]) -> None:
        self.free_since = asyncio.get_running_loop().time()
        self.moved.set()
        let_go()


class Settling:
    """Gives the forwarder the mails of ``topic`` that are left of those that belong together. A batch of another topic is the forwarder's."""

    def __init__(
        self,
        forwarder: BatchHandler,
        ledger: Ledger,
        history: MailHistory,
        dead_letters: DeadLetters,
        topic: str,
        seconds: float,
        *,
        idle_seconds: float = IDLE_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``seconds`` is how long a team's changes settle; with 0 they do not, and only claims are looked at. ``clock`` gives Unix seconds."""
        self._forwarder = forwarder
        self._ledger = ledger
        self._history = history
        self._dead_letters = dead_letters
        self._topic = topic
        self._seconds = seconds
        self._idle_seconds = idle_seconds
        self._clock = clock
        self._partitions: defaultdict[int, _Partition] = defaultdict(_Partition)
        self._suppressed = 0

    @property
    def progress(self) -> int:
        """Mails that have got their outcome so far."""
        return self._forwarder.progress + self._suppressed

    @property
    def full(self) -> Collection[tuple[str, int]]:
        """The (topic, partition)s of which as many mails wait as may."""
        held = ((self._topic, number) for number, partition in self._partitions.items() if partition.backlog.is_full)
        return {*self._forwarder.full, *held}

    def describe(self) -> str:
        """Say what waits, without addresses; nothing when nothing does."""
        held = sum(len(queue) for partition in self._partitions.values() for queue in partition.teams.values())
        settling = f"mails held until their teams' changes settle: {held}" if held and self._seconds else ""
        return "; ".join(filter(None, (self._forwarder.describe(), settling)))

    async def handle(self, records: Sequence[Record], let_go: Callable[[], object] = lambda: None) -> Counter[Reason]:
        """Work in the records of one partition; see ``BatchHandler.handle``."""
        if records[0].topic != self._topic:
            return Counter(await self._forwarder.handle(records, let_go))
        partition = self._partitions[records[0].partition]
        if not self._seconds and not partition.teams and not any(_CLAIMED in (record.value or b"") for record in records):
            return Counter(await self._forwarder.handle(records, let_go))
        partition.begin(records, let_go)
        passing, passing_line = [], partition.backlog.open(0)
        line = partition.backlog.open(len(records))
        held: list[_Held] = []
        for record in records:
            event = read_audit_record(record.value)
            if isinstance(event, AuditRecord) and self._is_held(partition, event):
                held.append(_Held(record, event, line))
                self._hold(partition, held[-1])
            else:
                passing.append(record)
        line.settled(len(passing))
        passed = asyncio.create_task(self._pass(partition, passing, passing_line.close))
        for team in {each.event.team_id for each in held}:
            self._begin(partition, team)
        line.waits()
        try:
            outcomes = await passed
            outcomes.update(await asyncio.gather(*(each.outcome for each in held)))
            return outcomes
        finally:
            passed.cancel()
            for each in held:
                if not each.outcome.done() or each.outcome.cancelled():
                    self._give_up(partition, each.event.team_id)
            line.close()

    def _is_held(self, partition: _Partition, event: AuditRecord) -> bool:
        if event.team_id is None:
            return False
        return event.team_id in partition.teams or event.kind is Kind.CLAIMED or (self._seconds > 0 and settles(event))

    def _hold(self, partition: _Partition, held: _Held) -> None:
        assert held.event.team_id is not None
        partition.teams.setdefault(held.event.team_id, deque()).append(held)

    def _begin(self, partition: _Partition, team: uuid.UUID | None) -> None:
        if team is not None and team in partition.teams and team not in partition.tasks:
            partition.tasks[team] = asyncio.create_task(self._settle_team(partition, team))

    def _give_up(self, partition: _Partition, team: uuid.UUID | None) -> None:
        """The partition is read again by its next owner: what is held of a team is let go of."""
        if team is not None and (task := partition.tasks.get(team)) is not None:
            task.cancel()

    async def _settle_team(self, partition: _Partition, team: uuid.UUID) -> None:
        """Work in what is held of a team, until nothing is."""
        queue = partition.teams[team]
        failure: BaseException | None = None
        try:
            while queue:
                head = queue[0]
                if self._seconds and settles(head.event):
                    await self._until(partition, head.at + self._seconds)
                    places = window([Change(each.event, each.at) for each in queue], self._seconds)
                    await self._settle_window(partition, [queue[place] for place in places])
                elif head.event.kind is Kind.CLAIMED:
                    known = await self._history.history([head.event.id], [team])
                    decision = welcome(head.event, known.classifications.get(head.event.id), known.welcomes)
                    await self._carry_out(partition, head, decision)
                else:
                    await self._carry_out(partition, head, Mail(head.event))
                # Those behind may have come since, and the queue is the team's.
                left = [each for each in queue if not each.outcome.done()]
                queue.clear()
                queue.extend(left)
        except BaseException as error:
            failure = error
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            del partition.teams[team], partition.tasks[team]
            for each in queue:
                if not each.outcome.done():
                    if failure is None or isinstance(failure, asyncio.CancelledError):
                        each.outcome.cancel()
                    else:
                        each.outcome.set_exception(failure)

    async def _settle_window(self, partition: _Partition, group: Sequence[_Held]) -> None:
        by_id: dict[uuid.UUID, _Held] = {}
        for each in group:
            by_id.setdefault(each.event.id, each)
        known = await self._history.history(list(by_id), ())
        for decision in settle([Change(each.event, each.at, known.classifications.get(id)) for id, each in by_id.items()]):
            await self._carry_out(partition, by_id[decision.event.id], decision)
        for each in group:
            each.end(Reason.ALREADY_FINAL)  # a record that came twice; the others have theirs

    async def _carry_out(self, partition: _Partition, held: _Held, decision: Mail | Suppress) -> None:
        match decision:
            case Mail(event):
                record = held.record if event is held.event else _as_record(held.record, event)
                (reason,) = (await self._pass(partition, [record])).elements()
                held.end(reason)
            case Suppress(event, why):
                held.end(await self._suppress(held.record, event, why))

    async def _suppress(self, record: Record, event: AuditRecord, why: str) -> Reason:
        now = datetime.fromtimestamp(self._clock(), UTC)
        try:
            row = await self._ledger.put(entry_of(event, Classification.SUPPRESSED, now, why))
        except RowRejected as error:
            await self._dead_letters.write(record, Reason.REJECTED, str(error))
            return Reason.REJECTED
        self._suppressed += 1
        return Reason.ALREADY_FINAL if row is None else Reason.SUPPRESSED

    async def _pass(self, partition: _Partition, records: Sequence[Record], gone: Callable[[], object] = lambda: None) -> Counter[Reason]:
        """Give records to the forwarder, once it has let go of those before. ``gone`` is called when it lets go of these."""
        outcomes: Counter[Reason] = Counter()
        if records:
            async with partition.turn:
                handling = await begun(self._forwarder, records)
            gone()
            try:
                outcomes.update(await handling)
            finally:
                handling.cancel()
        gone()
        return outcomes

    async def _until(self, partition: _Partition, end: float) -> None:
        """Wait until all of the partition's records up to ``end`` (Unix seconds) have been read."""
        while partition.read_until <= end:
            now = asyncio.get_running_loop().time()
            idle_at = now if partition.backlog.is_full else partition.free_since + self._idle_seconds
            wait = max(idle_at - now, end + self._idle_seconds - self._clock())
            if wait <= 0:
                return
            partition.moved.clear()
            try:
                async with asyncio.timeout(None if wait == float("inf") else wait):
                    await partition.moved.wait()
            except TimeoutError:
                continue


def _as_record(record: Record, event: AuditRecord) -> Record:
    """Return the record of an event's net change: wherever it is read again, it is mailed as that."""
    envelope = orjson.loads(record.value or b"")
    envelope["type"] = event.kind.value
    envelope["data"]["metadata"] = event.data.metadata
    return replace(record, value=orjson.dumps(envelope))
