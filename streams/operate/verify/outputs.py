"""What a replay decided against what the output topic holds. Pure: the entries of one id in, sentences out.

Three things are no difference: what retention has deleted, what was decided before the replay begins, and what was decided while
the verification ran. Each is distinguished from a real loss by the order of the log: one partition's decisions are written in their order,
so once one of them is found on a partition, all later ones must be there too.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from streams.operate.verify.evidence import BY_OPERATOR, REPLAYED, STAGES, Entry, Evidence, Source, id_text, place
from streams.operate.verify.report import Check

Lane = tuple[int, int, int, int]
"""What keeps its order: stage, input topic and partition, partition of the output."""

OLDER = "older than the log"
BEFORE = "decided before the replay begins"
MEANWHILE = "decided meanwhile"


@dataclass(frozen=True, slots=True)
class Span:
    """How far an output topic reaches, by partition.

    ``first``: its first offset, 0 when nothing was deleted. ``settled``: what lies below, a snapshot accounts for. ``sure``: what
    lies below was decided before the positions were taken.
    """

    name: str
    first: Mapping[int, int]
    settled: Mapping[int, int]
    sure: Mapping[int, int]

    @property
    def is_whole(self) -> bool:
        """Whether nothing was deleted."""
        return not any(self.first.values())

    def is_cut(self, target: int) -> bool:
        """Whether records were deleted from where an output belongs; ``target`` beyond the partitions means: from anywhere."""
        return self.first[target] > 0 if target in self.first else not self.is_whole


def oldest_found(evidence: Evidence, span: Span, written: Source) -> dict[Lane, int]:
    """Return, for each lane onto a partition that was cut, the input offset of the oldest decision that is still found there,
    as an entry of the source ``written``."""
    found: dict[Lane, int] = {}
    if span.is_whole:
        return found
    for group in evidence.by_id():
        if any(entry.source == written for entry in group):
            for entry in group:
                if entry.source == Source.DECIDED and span.is_cut(entry.target):
                    lane = lane_of(entry)
                    found[lane] = min(entry.offset, found.get(lane, entry.offset))
    return found


def lane_of(entry: Entry) -> Lane:
    """The lane of a DECIDED."""
    return entry.stage, entry.topic, entry.partition, entry.target


def may_be_deleted(entry: Entry, span: Span, oldest: Mapping[Lane, int]) -> bool:
    """Whether retention may have deleted the output of a DECIDED."""
    if not span.is_cut(entry.target):
        return False
    found = oldest.get(lane_of(entry))
    return found is None or entry.offset < found


@dataclass(frozen=True, slots=True)
class Outputs:
    """Compares one output topic. ``is_replayed`` says whether the decisions of a RECORD's writer were replayed from the beginning."""

    check: Check
    span: Span
    oldest: Mapping[Lane, int]
    is_replayed: Callable[[Entry], bool]

    def judge(self, group: Sequence[Entry]) -> bool:
        """Compare the entries of one id; return whether an output of it is missing (and that was reported)."""
        decided = [entry for entry in group if entry.source == Source.DECIDED]
        records = [entry for entry in group if entry.source == Source.RECORD and entry.state not in (REPLAYED, BY_OPERATOR)]
        self.check.compared += len(decided)
        fresh = [entry for entry in records if entry.offset >= self.span.settled.get(entry.partition, 0)]
        wanted, new, held = (Counter(entry.content for entry in entries) for entries in (decided, fresh, records))
        missing: list[Entry] = []
        extra: list[Entry] = []
        for content in dict.fromkeys((*wanted, *new)):
            short = wanted[content] - held[content]
            over = new[content] - wanted[content]
            if short > 0:
                missing += [entry for entry in decided if entry.content == content][-short:]
            elif over > 0:
                extra += [entry for entry in fresh if entry.content == content][-over:]
        missing = [entry for entry in missing if not self._is_excused(entry)]
        extra = [entry for entry in extra if not self._is_unjudged(entry)]
        self._report(missing, extra, len(decided), len(records))
        return bool(missing)

    def _is_excused(self, decided: Entry) -> bool:
        deleted = may_be_deleted(decided, self.span, self.oldest)
        self.check.unchecked[OLDER] += deleted
        return deleted

    def _is_unjudged(self, record: Entry) -> bool:
        if record.offset >= self.span.sure[record.partition]:
            self.check.pending[MEANWHILE] += 1
            return True
        if not self.is_replayed(record):
            self.check.unchecked[BEFORE] += 1
            return True
        return False

    def _report(self, missing: list[Entry], extra: list[Entry], decided: int, held: int) -> None:
        name = self.span.name
        if missing and extra:
            this, other = missing[0], extra[0]
            self.check.differs(
                "changed",
                f"{id_text(this.id)} stands with other content ({place(other)}) than {STAGES[this.stage]} decides from {place(this)}.",
            )
        elif missing:
            this = missing[0]
            self.check.differs("missing", f"{name} lacks {id_text(this.id)}, which {STAGES[this.stage]} decides from {place(this)}.")
        elif extra and decided:
            this = extra[0]
            self.check.differs("doubled", f"{name} holds {id_text(this.id)} {held} times instead of {decided} ({place(this)}).")
        elif extra:
            this = extra[0]
            self.check.differs("unexplained", f"{name} holds {id_text(this.id)} ({place(this)}), which no decision explains.")
