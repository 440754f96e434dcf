"""Dead letters against what was parked. Pure: the entries of one input record of one stage in, sentences out.

normalise and classify write a dead letter in the transaction that counts it: once. audit and forward write it before they commit:
at least once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from streams.operate.verify.evidence import STAGES, Entry, Source, place
from streams.operate.verify.outputs import BEFORE, OLDER, Lane, Span, may_be_deleted
from streams.operate.verify.report import Check


@dataclass(frozen=True, slots=True)
class Decided:
    """The input that a replay decided again: the offsets from ``start`` up to, but not with, ``limit``."""

    start: int
    limit: int
    is_whole: bool


@dataclass(frozen=True, slots=True)
class ParkedRecords:
    """The judge of ``dead.letters``. ``ranges`` says by stage, topic and partition (indexes) what was decided again; ``committed``
    how far the stages without a table have come on ``audit.events``."""

    check: Check
    span: Span
    oldest: Mapping[Lane, int]
    ranges: Mapping[tuple[int, int, int], Decided]
    committed: Mapping[int, Mapping[int, int]]

    def judge(self, group: Sequence[Entry]) -> None:
        """Compare the dead letters of one input record with what became of it."""
        parked = [entry for entry in group if entry.source == Source.DECIDED]
        dead_letters = [entry for entry in group if entry.source == Source.PARKED]
        self.check.compared += len(dead_letters)
        if not dead_letters:
            self._judge_missing(parked[0])
        elif dead_letters[0].stage not in self.committed:
            self._judge_dead_letters(dead_letters, len(parked))

    def _judge_missing(self, parked: Entry) -> None:
        committed = self.committed.get(parked.stage)
        if committed is not None and parked.offset >= committed.get(parked.partition, 0):
            self.check.pending[f"not worked in by {STAGES[parked.stage]}"] += 1
        elif may_be_deleted(parked, self.span, self.oldest) or (committed is not None and self.span.is_cut(parked.target)):
            # audit and forward write several at once, in no order.
            self.check.unchecked[OLDER] += 1
        else:
            self.check.differs("missing", f"dead.letters lacks {place(parked)}, which {STAGES[parked.stage]} parks.")

    def _judge_dead_letters(self, dead_letters: list[Entry], parked: int) -> None:
        this = dead_letters[0]
        stage = STAGES[this.stage]
        decided = self.ranges.get((this.stage, this.topic, this.partition))
        if decided is None:
            self.check.differs("unexplained", f"dead.letters holds {place(this)}, which {stage} does not read.")
        elif this.offset >= decided.limit:
            self.check.pending["decided meanwhile"] += 1
        elif this.offset < decided.start or not decided.is_whole:
            self.check.unchecked[BEFORE] += 1
        elif not parked:
            self.check.differs("unexplained", f"dead.letters holds {place(this)}, which {stage} does not park.")
        elif len(dead_letters) > parked:
            self.check.differs("doubled", f"dead.letters holds {place(this)} of {stage} {len(dead_letters)} times.")
