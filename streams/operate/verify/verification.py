"""``tierstream verify``: the accounting proven from the topics and the database. Everything is read, nothing is written.

It may run while the stages run. What stands on the output topics when it begins was decided before the positions that are read
next, and what was decided up to those positions stands there when the topics are read to their ends. What lies between is reported as
pending; all the rest must agree. Hence this order, which nothing may change:

1. ends of the output topics, and the offsets that the groups have committed;
2. classify's partitions, then normalise's: the table with its positions, and the input decided again up to them;
3. the database, as of one moment;
4. ``dead.letters``, then ``audit.events`` and the rest of ``team.events``, to their ends.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

from agents.classify.stage import ClassifyStage
from agents.normalise.again import NormaliseAgain
from agents.normalise.plans import load_rules
from streams.kafka.dead_letters import is_dead_letter
from streams.kafka.partitioner import partition_of
from streams.operate.logs import Bounds, Logs
from streams.operate.verify.accounts import AUDIT, FORWARD, Accounts, Reach
from streams.operate.verify.dead_letters import ParkedRecords
from streams.operate.verify.evidence import ANYWHERE, NOBODY, STAGES, TOPICS, Entry, Evidence, Source
from streams.operate.verify.outputs import Outputs, Span, oldest_found
from streams.operate.verify.report import Report
from streams.operate.verify.snapshot import Snapshot, SnapshotWriter
from streams.operate.verify.tables import Deciding, Found, Shuffle, StageName, TableChecks
from streams.operate.verify.traces import (
    Decision,
    dead_letter,
    dead_letter_headers_of,
    ledger_line,
    parked,
    parked_event,
    recorded_event,
    stored_row,
)
from streams.settings import Settings
from streams.stores.accounts import LedgerLine
from streams.stores.audit_log import AuditRow
from streams.topics import (
    AUDIT_EVENTS,
    CLASSIFY_CHANGELOG,
    DEAD_LETTERS,
    NORMALISE_CHANGELOG,
    RAZORPAY_WEBHOOKS,
    SUBSCRIPTION_LINKS,
    TEAM_EVENTS,
    Topic,
)

_ORDER: tuple[StageName, ...] = ("classify", "normalise")
"""classify's positions first: then every fact below them was decided before normalise's, which a snapshot relies on."""

OnProgress = Callable[[str, int, int], None]
"""Called with what is being done, the records done so far, and their total."""

_REPORT_EVERY = 2_000
_WITHOUT_TABLE = (AUDIT, FORWARD)
_AUDIT_TOPIC = TOPICS.index(AUDIT_EVENTS.name)


class Accounting(Protocol):
    """The tables, as of one moment. ``StoredAccounts``, or a test's own."""

    def audit_rows(self) -> Iterator[AuditRow]:
        """Yield every row of ``audit_log``."""

    def ledger(self) -> Iterator[LedgerLine]:
        """Yield what ``forwarder_sent`` says of every mail."""


@dataclass(frozen=True, slots=True)
class Options:
    """What else to do: ``orders`` random orders of each team's facts, begin from a snapshot, write one when all agrees."""

    orders: int = 0
    seed: int = 0
    snapshot: Snapshot | None = None
    writer: SnapshotWriter | None = None


def verify(settings: Settings, logs: Logs, stores: Accounting, options: Options, on_progress: OnProgress) -> Report:
    """Compare everything and return the report. ``settings`` are those that the stages run with.

    With a ``writer``, and when nothing differs, the snapshot is put in its place. Raises TierstreamError.
    """
    if options.snapshot is not None:
        options.snapshot.must_fit(settings.topic_prefix, settings.partitions)
    with ExitStack() as stack:
        events, facts, dead_letters = (stack.enter_context(Evidence()) for _ in range(3))
        return _Verification(settings, logs, stores, options, on_progress, Found(events, facts, dead_letters)).run()


class _Progress:
    """Counts records, and reports the count at intervals."""

    def __init__(self, on_progress: OnProgress, total: int) -> None:
        self._on_progress, self._total = on_progress, total
        self._done = 0
        self.what = ""

    def tick(self) -> None:
        self._done += 1
        if self._done % _REPORT_EVERY == 0:
            self._on_progress(self.what, self._done, max(self._total, self._done))

    def begin(self, what: str) -> None:
        self.what = what
        self._on_progress(what, self._done, max(self._total, self._done))


class _Verification:
    """One run. What it reads goes to the evidence; the judges read that."""

    def __init__(self, settings: Settings, logs: Logs, stores: Accounting, options: Options, on_progress: OnProgress, found: Found) -> None:
        rules = load_rules(settings)
        self._settings, self._logs, self._stores, self._options, self._found = settings, logs, stores, options, found
        self._began = time.time()
        bounds = {topic: logs.bounds(topic) for topic in (RAZORPAY_WEBHOOKS, SUBSCRIPTION_LINKS, TEAM_EVENTS, AUDIT_EVENTS, DEAD_LETTERS)}
        self._sure = {topic: {number: each.end for number, each in bounds[topic].items()} for topic in (TEAM_EVENTS, AUDIT_EVENTS)}
        self._committed = {stage: logs.committed(STAGES[stage], AUDIT_EVENTS) for stage in _WITHOUT_TABLE}
        self._progress = _Progress(on_progress, sum(each.end - each.first for of_topic in bounds.values() for each in of_topic.values()))
        self._report = report = Report()
        self._normalise, self._plans_read_up_to = NormaliseAgain(settings, rules), dict[int, int]()
        stages: dict[StageName, Deciding] = {
            "normalise": Deciding(self._normalise, NORMALISE_CHANGELOG, (RAZORPAY_WEBHOOKS, SUBSCRIPTION_LINKS), self._catch_up_on_plans),
            "classify": Deciding(ClassifyStage(settings), CLASSIFY_CHANGELOG, (TEAM_EVENTS,)),
        }
        self._tables = TableChecks(settings, logs, report, stages, found)
        self._facts = report.check("team.events", "holds the facts that a replay of normalise decides, no more and no fewer")
        self._events = report.check("audit.events", "holds the events that a replay decides, byte for byte, no more and no fewer")
        self._rows = report.check("audit_log", "one row for each audit event, with its content, and no other")
        self._mails = report.check("forwarder_sent", "one row for each audit event with a mail, and no other")
        self._dead_letters = report.check("dead.letters", "one for each record that was parked, and no other")
        self._shuffle = None
        if options.orders:
            orders = report.check("orders", f"any order of a team's facts ends in the same row ({options.orders} orders a team)")
            self._shuffle = Shuffle(orders, settings.initial, options.orders, options.seed)

    def run(self) -> Report:
        """Read, compare, and write the snapshot if one is wanted and nothing differs."""
        options = self._options
        if options.snapshot is not None:
            for known in options.snapshot.known():
                self._found.events.add(Entry(known.id, Source.KNOWN, NOBODY, known.kind, known.state, row=known.row))
        for name in _ORDER:
            for partition in range(self._settings.partitions):
                self._progress.begin(f"{name}, partition {partition}")
                shuffle = self._shuffle if name == "classify" else None
                self._tables.verify(name, partition, options.snapshot, options.writer, self._progress.tick, shuffle)
        self._read_stores()
        spans = {topic: self._span(topic) for topic in (DEAD_LETTERS, AUDIT_EVENTS, TEAM_EVENTS)}
        self._read_dead_letters(spans[DEAD_LETTERS])
        self._read_events(spans[AUDIT_EVENTS])
        self._read_facts(spans[TEAM_EVENTS])
        self._progress.begin("comparing")
        self._judge({topic: span for topic, (span, _) in spans.items()})
        self._note_what_was_cut()
        if options.writer is not None and self._report.clean:
            ends = {topic.name: {number: each.end for number, each in bounds.items()} for topic, (_, bounds) in spans.items()}
            options.writer.finish(self._settings.topic_prefix, self._settings.partitions, self._began, ends)
        return self._report

    def _span(self, topic: Topic) -> tuple[Span, Mapping[int, Bounds]]:
        snapshot, bounds = self._options.snapshot, self._logs.bounds(topic)
        settled = snapshot.index.ends.get(topic.name, {}) if snapshot else {}
        return Span(topic.name, {number: each.first for number, each in bounds.items()}, settled, self._sure.get(topic, {})), bounds

    def _catch_up_on_plans(self) -> None:
        """Learn what was parked for its plan, up to now: what normalise had decided before its positions were read stands in dead.letters."""
        for number, bounds in self._logs.bounds(DEAD_LETTERS).items():
            for record in self._logs.read(DEAD_LETTERS, number, self._plans_read_up_to.get(number, bounds.first), bounds.end):
                self._normalise.note_dead_letter(record)
            self._plans_read_up_to[number] = bounds.end

    def _read_stores(self) -> None:
        self._progress.begin("audit_log")
        for row in self._stores.audit_rows():
            self._found.events.add(stored_row(row))
        self._progress.begin("forwarder_sent")
        for line in self._stores.ledger():
            self._found.events.add(ledger_line(line))

    def _read_dead_letters(self, span: tuple[Span, Mapping[int, Bounds]]) -> None:
        topics = {self._settings.topic_prefix + name: index for index, name in enumerate(TOPICS)}
        self._progress.begin(DEAD_LETTERS.name)
        for number, bounds in span[1].items():
            for record in self._logs.read(DEAD_LETTERS, number, *bounds):
                self._progress.tick()
                if not is_dead_letter(record):
                    continue  # the mark of an operator, whose audit event is checked like any other
                headers = dead_letter_headers_of(record, topics)
                if headers is None:
                    self._dead_letters.differs(
                        "no origin", f"dead.letters, partition {number}, offset {record.offset}, does not say whose it is."
                    )
                elif STAGES[headers.stage] in ("gateway", "feedback"):
                    self._dead_letters.compared += (
                        1  # the one's was never a record elsewhere, the other's is of Loops' reports: no decision of ours
                    )
                else:
                    self._found.dead_letters.add(dead_letter(headers))
                    event = parked_event(record, headers) if headers.stage in _WITHOUT_TABLE else None
                    if event is not None:
                        self._found.events.add(event)

    def _read_events(self, span: tuple[Span, Mapping[int, Bounds]]) -> None:
        self._progress.begin(AUDIT_EVENTS.name)
        for number, bounds in span[1].items():
            for record in self._logs.read(AUDIT_EVENTS, number, *bounds):
                self._progress.tick()
                event = recorded_event(record)
                if event is not None:
                    self._found.events.add(event)
                    continue
                target = ANYWHERE if record.key is None else partition_of(record.key, self._settings.partitions)
                for stage in _WITHOUT_TABLE:
                    self._found.dead_letters.add(parked(Decision(stage, _AUDIT_TOPIC, number, record.offset, target)))

    def _read_facts(self, span: tuple[Span, Mapping[int, Bounds]]) -> None:
        """Read what came to ``team.events`` since classify's partitions were verified."""
        for number, bounds in span[1].items():
            for record in self._logs.read(TEAM_EVENTS, number, max(bounds.first, self._tables.facts_read[number]), bounds.end):
                self._tables.note_fact(record)

    def _judge(self, spans: Mapping[Topic, Span]) -> None:
        tables, found, events = self._tables, self._found, spans[AUDIT_EVENTS]
        is_whole = {name: tables.is_whole(name) for name in _ORDER}

        def is_replayed(record: Entry) -> bool:
            if record.stage == STAGES.index("classify"):
                return tables.is_whole("classify", record.partition)  # a team's event is on the team's partition
            return is_whole["normalise"] if record.stage == STAGES.index("normalise") else True

        reach = Reach(
            audited=self._committed[AUDIT],
            forwarded=self._committed[FORWARD],
            explains=events.is_whole or is_whole["classify"],
            explains_charges=events.is_whole or all(is_whole.values()),
            explains_operators=events.is_whole,
            has_all_dead_letters=spans[DEAD_LETTERS].is_whole,
        )
        outputs = Outputs(self._events, events, oldest_found(found.events, events, Source.RECORD), is_replayed)
        accounts = Accounts(outputs, self._rows, self._mails, self._dead_letters, reach)
        for group in found.events.by_id():
            known = accounts.judge(group)
            if known is not None and self._options.writer is not None:
                self._options.writer.add_known(known)
        facts_span = spans[TEAM_EVENTS]
        facts = Outputs(self._facts, facts_span, oldest_found(found.facts, facts_span, Source.RECORD), is_replayed)
        for group in found.facts.by_id():
            facts.judge(group)
        dead_letters_span = spans[DEAD_LETTERS]
        oldest = oldest_found(found.dead_letters, dead_letters_span, Source.PARKED)
        dead_letters = ParkedRecords(self._dead_letters, dead_letters_span, oldest, tables.decided, self._committed)
        for group in found.dead_letters.by_id():
            dead_letters.judge(group)

    def _note_what_was_cut(self) -> None:
        if self._normalise.not_checked:
            self._report.notes.append(
                f"{self._normalise.not_checked} webhooks were parked as unknown_plan whose plan is in the plan file now; that it was not in it "
                "then can not be checked."
            )
        cut = self._tables.cut
        if not cut:
            return
        begins = sorted({topic for _, topic in cut})
        stages = sorted({f"{stage} ({len(numbers)} of {self._settings.partitions} partitions)" for (stage, _), numbers in cut.items()})
        older = "the snapshot is older than that; take one more often" if self._options.snapshot else "give a snapshot (--snapshot FILE)"
        self._report.notes.append(
            f"The log of {' and '.join(begins)} no longer reaches back to its beginning, so outcomes, table and outputs of "
            f"{' and '.join(stages)} could not be decided again and were not checked; {older}."
        )
