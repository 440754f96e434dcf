"""One slice of an input partition: what follows from its records, produced into the open transaction.

The cost of a record arises here, below ``Slices.fill`` and in the stage's ``effect`` or ``run``, and nowhere else
(``docs/adr/0007-hot-path.md``).
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Final

import msgspec
import structlog

from schemas.reasons import Reason
from streams.engine.changelog import TablePartition
from streams.engine.due_times import DueTimes
from streams.engine.table_stage import MAX_OUTPUT_BYTES, SMALL_BYTES, Effect, TableStage, bytes_of, fitting, rendered, rerouted
from streams.engine.transactions import ANY_PARTITION, NO_HEADERS, Output
from streams.errors import StageFailed
from streams.kafka.dead_letters import Origin, dead_letter_headers
from streams.kafka.records import Record
from streams.settings import Settings
from streams.topics import DEAD_LETTERS

SLICE_SECONDS = 0.5
"""Input of about this much work goes into one transaction, so that readers of the outputs wait no longer. Work is what this thread
computes, not the clock: two workers that share a core take as many records into a slice as one that has it to itself."""

MAX_STRETCH = 4
"""By the clock a slice may take so many times as long, where others use the machine as well: far less than a transaction may."""

MIN_RECORDS = 256
"""Records in a worker's first slice, before it knows how long one takes, and in any that has enough: so few end within a transaction's
time even where each takes some 10 ms."""

MAX_GROWTH = 4
"""A slice takes at most so many times the records of the last one."""

MAX_FAILURES_IN_A_ROW = 100
"""So many records in a row on which the stage raised are no poison but a broken release: the worker stops. Of records that are worked in
by key those of one key count once, for they come together."""

MAX_CACHED_ROWS = 50_000
"""Rows kept as they are read as well, some 1 kB each, over all partitions: those that were worked on last. All are kept packed."""

MAX_KEPT_KEY_BYTES = 1_024
"""A dead letter whose record is too large keeps a key of at most this."""

_REROUTED: Final = Reason.REROUTED  # an enum's member is looked up through a Python function: once, not for each record

log = structlog.get_logger(__name__)

Produce = Callable[[Iterable[Output]], None]
"""``TransactionalWriter.produce``."""


class _CachedRow:
    """A key as slices work on it. ``row`` is as the stage reads it, or None; what follows is of the present slice alone: bytes of the
    records that may have made the row larger, and what renders the key's newest record of a compacted topic."""

    __slots__ = ("current", "growth_bytes", "large", "row")

    def __init__(self, row: Any, large: bool) -> None:
        self.row = row
        self.large = large
        self.growth_bytes = 0
        self.current: Callable[[], Output] | None = None

    def keep(self, row: Any, growth_bytes: int, current: Callable[[], Output] | None) -> None:
        """Go on with ``row``; records of ``growth_bytes`` may have made it larger than the last one."""
        self.row = row
        self.growth_bytes += growth_bytes
        self.large = self.large or self.growth_bytes > SMALL_BYTES
        if current is not None:
            self.current = current

    def flush(self, packed: bytes) -> None:
        """End the slice: the row is written as ``packed``."""
        self.large = len(packed) > SMALL_BYTES
        self.growth_bytes = 0
        self.current = None


def slice_records(allowed: int, done: int, seconds: float) -> int:
    """Return how many records the next slice may take, after one that was allowed ``allowed``, and worked ``done`` in ``seconds``.

    A slice that was cut short by the end of its input says little of how long a full one takes: only that it may be too long, and a
    few records that took no time not even that.
    """
    fitting = int(done * SLICE_SECONDS / max(seconds, 1e-6))
    few = done < MIN_RECORDS and seconds < SLICE_SECONDS
    if done < allowed and (few or fitting > allowed):
        return allowed
    return max(MIN_RECORDS, min(fitting, allowed * MAX_GROWTH))


class Slices:
    """Fills slices of one partition. ``table`` is changed in place: once a slice is filled, it is ahead of the log until the commit."""

    def __init__(
        self, settings: Settings, stage: TableStage, changelog: str, table: TablePartition, due_times: DueTimes | None = None
    ) -> None:
        """``due_times`` notes each row that is written."""
        self._partitions = settings.partitions
        self._stage = stage
        self._changelog = changelog
        self._table = table
        self._due_times = DueTimes() if due_times is None else due_times
        self._dead_letters = DEAD_LETTERS.full_name(settings)
        self._failures = 0
        self._failed_key: bytes | None = None
        self._cached: dict[bytes | None, _CachedRow] = {}
        self._max_cached = MAX_CACHED_ROWS // settings.partitions
        self._in_runs = True
        self._under_way: set[tuple[bytes | None, bytes | None]] = set()
        """Key and value of the records for coming times that were produced and are not decided on yet."""

    def forget(self) -> None:
        """Keep nothing of the table's former content: it is about to be restored."""
        self._cached.clear()
        self._under_way.clear()

    def fill(self, records: Sequence[Record], start: int, most: int, until: float, produce: Produce) -> tuple[int, Counter[Reason]]:
        """Decide on ``most`` records from ``start`` on, or fewer where ``until`` comes sooner, and produce what follows from them.

        A stage that asks for it gets them key by key: a key's row and all that was made of it are then at hand, and no reader sees less
        than the whole slice. ``until`` is on the monotonic clock; a stage by key minds only ``most``. A key's outputs are produced in the order of its records, then its newest record of a compacted topic,
        then its row, if that changed. Returns the index after the last record, and how many ended how.
        Raises StageFailed when the stage raises on too many records in a row.
        """
        if len(self._cached) > self._max_cached:
            self._cached.clear()
        end = min(len(records), start + most)
        outcomes: dict[Reason, int] = {}
        part = islice(records, start, end)
        if self._stage.by_key:
            self._fill_by_key(part, produce, outcomes)
        else:
            end = start + self._fill_in_order(part, until, produce, outcomes)
        return end, Counter(outcomes)

    def fill_due(self, now: int, most: int, produce: Produce) -> int:
        """Produce the records for the coming times that have passed at ``now``, and return how many: no more begin once it is ``most``.

        One that is under way is not produced again, though what lies before it on the topic may have the row wait for another time and
        back. A row on which the stage raises is left to the next restore. Raises StageFailed when it raises on too many in a row.
        """
        rows, count, failures, under_way = self._table.rows, 0, 0, self._under_way
        if most <= 0:
            return 0
        for key in self._due_times.take(rows, now):
            try:
                records = self._stage.due_records(key, rows[key], now)
            except Exception as error:
                failures += 1
                log.exception("what has passed for a row could not be said", stage=self._stage.name, partition=self._table.number)
                if failures >= MAX_FAILURES_IN_A_ROW:
                    raise StageFailed(f"{self._stage.name} failed on {failures} rows in a row; the log above says where.") from error
                continue
            failures = 0
            records = [record for record in records if (record.key, record.value) not in under_way]
            under_way.update((record.key, record.value) for record in records)
            produce(self._at_home(record) for record in records)
            count += len(records)
            if count >= most:
                break
        return count

    def _fill_by_key(self, records: Iterable[Record], produce: Produce, outcomes: dict[Reason, int]) -> None:
        groups: defaultdict[bytes | None, list[Record]] = defaultdict(list)
        for record in records:
            groups[record.key].append(record)
        cached = self._cached
        for key, group in groups.items():
            known = cached.get(key) or self._load(key)
            if self._decide(group, known, produce, outcomes) and key is not None:
                produce(self._left(key, known))

    def _fill_in_order(self, records: Iterable[Record], until: float, produce: Produce, outcomes: dict[Reason, int]) -> int:
        """Decide on ``records``, or on those until the time is up, and return how many. Each row that changed is written once."""
        cached, done = self._cached, 0
        changed: dict[bytes, _CachedRow] = {}
        for done, record in enumerate(records, start=1):
            key = record.key
            known = cached.get(key) or self._load(key)
            if self._decide_one(record, known, produce, outcomes) and key is not None:
                changed[key] = known
            if not done % MIN_RECORDS and time.monotonic() > until:
                break
        for key, known in changed.items():
            produce(self._left(key, known))
        return done

    def _decide(self, records: Sequence[Record], known: _CachedRow, produce: Produce, outcomes: dict[Reason, int]) -> bool:
        """Decide on all ``records``, which are of one key, and produce what follows; say whether they changed its row."""
        at, changed = 0, False
        while at < len(records):
            run = None
            if self._in_runs and known.row is not None and not known.large:
                try:
                    run = self._stage.run(records, at, known.row)
                except Exception:
                    # One by one is right for every record, and counts one that the stage can not decide on.
                    log.exception("the fast path failed; records are decided on one by one from here", stage=self._stage.name)
                    self._in_runs = False
            if run is not None:
                at += run.records
                changed = True
                self._failures = 0
                for reason, count in run.outcomes.items():
                    outcomes[reason] = outcomes.get(reason, 0) + count
                if run.outputs:
                    produce(run.outputs)
                known.keep(run.row, run.growth_bytes, run.current)
            if at < len(records):  # the one that the run did not take
                changed |= self._decide_one(records[at], known, produce, outcomes)
                at += 1
        return changed

    def _decide_one(self, record: Record, known: _CachedRow, produce: Produce, outcomes: dict[Reason, int]) -> bool:
        """Decide on one record and produce what follows; say whether it changed the row."""
        row = known.row
        if self._under_way:
            self._under_way.discard((record.key, record.value))
        try:
            effect = self._stage.effect(record, row) if row is not None else self._first_effect(record)
        except Exception as error:  # noqa: BLE001  # it is counted, logged, and the record kept as a dead letter
            effect = self._failed(record, error)
        reason = effect.reason
        size = 0 if record.value is None else len(record.value)
        if size > SMALL_BYTES or known.large or effect.error is not None or reason is _REROUTED:
            effect = self._fitting(record, effect)
            reason = effect.reason
        if effect.outputs:
            produce(effect.outputs)
        outcomes[reason] = outcomes.get(reason, 0) + 1
        if self._failures and reason is not Reason.HANDLER_FAILED:
            self._failures = 0
        if effect.row is None or record.key is None:
            return False
        known.keep(effect.row, size, effect.current)
        return True

    def _load(self, key: bytes | None) -> _CachedRow:
        """Read the row of a key that is not cached, and cache it."""
        packed = None if key is None else self._table.rows.get(key)
        if key is None or packed is None:
            known = _CachedRow(None, large=False)
        else:
            known = _CachedRow(self._stage.unpack(key, packed), len(packed) > SMALL_BYTES)
        self._cached[key] = known
        return known

    def _left(self, key: bytes, known: _CachedRow) -> Sequence[Output]:
        """Return what a key leaves that changed: the newest record of its compacted topic, if there is one, and its row."""
        rows = self._table.rows
        former = rows.get(key)
        packed = rows[key] = self._stage.pack(known.row)
        self._due_times.note(rows, key, former)
        row = Output(self._changelog, key, packed, NO_HEADERS, self._table.number)
        outputs = (row,) if known.current is None else (known.current(), row)
        known.flush(packed)
        return outputs

    def _at_home(self, record: Output) -> Output:
        """Return a record to be produced to the partition that holds the row of its key."""
        return msgspec.structs.replace(record, partition=self._table.number) if record.partition == ANY_PARTITION else record

    def _first_effect(self, record: Record) -> Effect:
        """Decide on a record whose key has no row. One that has is at home; this one need not be."""
        return rerouted(record, self._partitions) or self._stage.effect(record, None)

    def _fitting(self, record: Record, effect: Effect) -> Effect:
        """Return ``effect``, or the dead letter that it becomes: for its error, or because it is too large."""
        step = fitting(rendered(self._stage, record, effect))
        if step.error is None:
            return effect
        dead_letter = self._dead_letter(record, step.reason, step.error)
        if step.reason is not effect.reason:
            return Effect(step.reason, (dead_letter,))
        return msgspec.structs.replace(effect, outputs=(*effect.outputs, dead_letter), error=None)

    def _failed(self, record: Record, error: Exception) -> Effect:
        """Return the effect of a record on which the stage raised: ``effect`` is pure, so a second try would fail alike."""
        if not (self._stage.by_key and self._failures and record.key == self._failed_key):
            self._failures += 1
        self._failed_key = record.key
        where = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
        log.error("a record could not be decided on", **where, kind=type(error).__name__, exc_info=self._failures == 1)
        if self._failures >= MAX_FAILURES_IN_A_ROW:
            raise StageFailed(f"{self._stage.name} failed on {self._failures} records in a row; the log above says where.") from error
        return Effect(Reason.HANDLER_FAILED, error=f"{type(error).__name__} in {self._stage.name}")

    def _dead_letter(self, record: Record, reason: Reason, error: str) -> Output:
        origin = Origin(self._stage.name, record.topic, record.partition, record.offset)
        key, value, kept = record.key, record.value, record.headers
        left_out = None
        if bytes_of(key, value, kept) > MAX_OUTPUT_BYTES:
            left_out = len(value or b"")
            error = f"{error} Its value of {len(value or b'')} bytes and its headers are left out here, for it is too large."
            key, value, kept = (key if len(key or b"") <= MAX_KEPT_KEY_BYTES else None), b"", ()
        return Output(self._dead_letters, key, value, dead_letter_headers(kept, origin, reason, error, left_out=left_out))
