"""The account of each audit event: its record, its row, its mail. Pure: the entries of one id in, sentences out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from schemas.kinds import OPERATOR_KINDS, TRANSITIONS, Kind
from schemas.loops import LOOPS_MAP, NeverMailed
from streams.operate.verify.evidence import (
    IN_DOUBT,
    KINDS,
    MAIL_WAIVED,
    OPEN,
    REFUSED,
    ROW_WAIVED,
    STAGES,
    UNKNOWN_KIND,
    WAITS,
    Entry,
    Source,
    id_text,
)
from streams.operate.verify.outputs import BEFORE, Outputs
from streams.operate.verify.report import Check
from streams.operate.verify.snapshot import Known

AUDIT, FORWARD = STAGES.index("audit"), STAGES.index("forward")


@dataclass(frozen=True, slots=True)
class Reach:
    """How far the ends of the flow have come, and what can be said of rows that no event explains.

    ``audited`` and ``forwarded`` are the committed offsets on ``audit.events``. ``explains`` and ``explains_charges`` say whether
    the events are known from the beginning, so that a row without one is a difference; the latter of charges that can not be
    placed, which normalise emits as well as classify; ``explains_operators`` of what operators did, which no replay decides again.
    """

    audited: Mapping[int, int]
    forwarded: Mapping[int, int]
    explains: bool
    explains_charges: bool
    explains_operators: bool
    has_all_dead_letters: bool

    def judges(self, kind: Kind | None) -> bool:
        """Whether every event of this kind is known. None is a kind that this version does not know."""
        if kind in OPERATOR_KINDS:
            return self.explains_operators
        return self.explains_charges if kind is Kind.CHARGE_UNDELIVERABLE else self.explains


@dataclass(frozen=True, slots=True)
class Case:
    """What is known of one audit event."""

    id: str
    kind: Kind | None
    known: Entry | None
    events: tuple[Entry, ...]
    """Where it was decided and where it stands, and ``known``."""
    records: tuple[Entry, ...]
    row: Entry | None
    mail: Entry | None
    parked: frozenset[int]
    """The stages that gave it up."""

    @property
    def name(self) -> str:
        """The id and the kind."""
        return f"{self.id} ({self.kind or 'unknown kind'})"

    @property
    def is_mailed(self) -> bool:
        """Whether its kind has a mail."""
        return self.kind is not None and not isinstance(LOOPS_MAP[self.kind], NeverMailed)

    def has_passed(self, committed: Mapping[int, int]) -> bool:
        """Whether a stage that has committed these offsets has seen it. What the log no longer holds was there to be seen."""
        return not self.records or any(record.offset < committed.get(record.partition, 0) for record in self.records)


def case_of(group: Sequence[Entry]) -> Case:
    """Put the entries of one id together."""
    by_source: dict[int, list[Entry]] = {}
    for entry in group:
        by_source.setdefault(entry.source, []).append(entry)
    known, decided, records = (by_source.get(source, []) for source in (Source.KNOWN, Source.DECIDED, Source.RECORD))
    row, mail = (by_source.get(source, [None])[0] for source in (Source.ROW, Source.MAIL))
    speaker = next((entry for entry in group if entry.source != Source.PARKED), group[0])
    parked = frozenset(entry.stage for entry in by_source.get(Source.PARKED, []))
    events = (*known, *decided, *records)
    return Case(id_text(group[0].id), kind_of(speaker), known[0] if known else None, events, tuple(records), row, mail, parked)


def kind_of(entry: Entry) -> Kind | None:
    """Return the kind that an entry says, or None when this version does not know it."""
    return None if entry.kind == UNKNOWN_KIND else KINDS[entry.kind]


@dataclass(frozen=True, slots=True)
class Accounts:
    """The judge of ``audit.events``, ``audit_log`` and ``forwarder_sent`` together."""

    outputs: Outputs
    rows: Check
    mails: Check
    dead_letters: Check
    reach: Reach

    def judge(self, group: Sequence[Entry]) -> Known | None:
        """Compare the entries of one audit id; return what a snapshot keeps of it (None: it is not accounted for yet)."""
        case = case_of(group)
        is_lost = self.outputs.judge(group)
        self._judge_row(case, is_lost)
        self._judge_mail(case, is_lost)
        if case.parked and not case.events and self.reach.judges(case.kind):
            self.dead_letters.differs("unexplained", f"dead.letters holds the audit event {case.id}, which no decision explains.")
        return self._known(group, case)

    def _judge_row(self, case: Case, is_lost: bool) -> None:
        row, name = case.row, case.name
        self.rows.compared += row is not None
        if row is not None and case.events:
            if row.row not in {event.row for event in case.events}:
                self.rows.differs("changed", f"audit_log holds the row {name} with other content than its audit event.")
        elif row is not None:
            if self.reach.judges(case.kind):
                self.rows.differs("unexplained", f"audit_log holds the row {name}, which no audit event explains.")
            else:
                self.rows.unchecked[BEFORE] += 1
        elif case.events and not is_lost:
            if not case.has_passed(self.reach.audited):
                self.rows.pending["not audited yet"] += 1
            elif AUDIT not in case.parked and not (case.known and case.known.state & ROW_WAIVED):
                self.rows.differs("missing", f"audit_log lacks the row {name}.")

    def _judge_mail(self, case: Case, is_lost: bool) -> None:
        mail, name = case.mail, case.name
        self.mails.compared += mail is not None
        if mail is not None and case.events:
            self._judge_ledger(case, mail, name)
        elif mail is not None:
            if self.reach.judges(case.kind):
                self.mails.differs("unexplained", f"forwarder_sent holds {name}, which no audit event explains.")
            else:
                self.mails.unchecked[BEFORE] += 1
        elif case.events and case.is_mailed and not is_lost:
            if not case.has_passed(self.reach.forwarded):
                self.mails.pending["not forwarded yet"] += 1
            elif FORWARD not in case.parked and not (case.known and case.known.state & MAIL_WAIVED):
                self.mails.differs("missing", f"forwarder_sent lacks {name}.")

    def _judge_ledger(self, case: Case, mail: Entry, name: str) -> None:
        if not case.is_mailed:
            self.mails.differs("never mailed", f"forwarder_sent holds {name}, of a kind that is never mailed.")
        elif kind_of(mail) is not case.kind and not {kind_of(mail), case.kind} <= TRANSITIONS:  # changes that settled have the net one's
            self.mails.differs("kind", f"forwarder_sent holds {case.id} as {kind_of(mail) or 'unknown kind'}, and it is {case.kind}.")
        elif mail.state == OPEN:
            self.mails.pending["in flight"] += 1
        elif mail.state == WAITS:
            self.mails.pending["waits for a retry"] += 1
        elif mail.state == IN_DOUBT:
            self.mails.pending["in doubt"] += 1
        elif mail.state == REFUSED and self.reach.has_all_dead_letters and FORWARD not in case.parked:
            self.dead_letters.differs("missing", f"dead.letters lacks the mail {name}, which Loops refused.")

    def _known(self, group: Sequence[Entry], case: Case) -> Known | None:
        span, decided = self.outputs.span, any(entry.source in (Source.KNOWN, Source.DECIDED) for entry in group)
        if not decided and case.records and all(self._is_ahead(record, span.sure) for record in case.records):
            return None
        content = case.row or next(iter(case.records or case.events), None)
        state = case.known.state if case.known else 0
        if case.row is None and (AUDIT in case.parked or not case.events):
            state |= ROW_WAIVED
        if case.mail is None and (FORWARD in case.parked or not case.events):
            state |= MAIL_WAIVED
        return Known(group[0].id, content.row if content else bytes(8), KINDS.index(case.kind) if case.kind else UNKNOWN_KIND, state)

    def _is_ahead(self, record: Entry, sure: Mapping[int, int]) -> bool:
        """Whether its decision comes after the positions: the next replay decides it."""
        return record.offset >= sure[record.partition] and self.outputs.is_replayed(record)
