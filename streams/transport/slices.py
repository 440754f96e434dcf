"""One slice of an input partition: what follows from its records, produced into the open transaction.

The hot path: what is done once a record is done in ``Slices.fill`` and in the stage's ``effect``, and nowhere else
(``docs/adr/0007-hot-path.md``).
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, Final

import msgspec
import structlog

from schemas.reasons import Reason
from streams.changelog import TablePartition
from streams.dead_letters import Origin, dead_letter_headers
from streams.errors import StageFailed
from streams.processing import Record
from streams.settings import Settings
from streams.steps import MAX_OUTPUT_BYTES, Effect, TableStage, bytes_of, fitting, rendered, rerouted
from streams.topics import DEAD_LETTERS
from streams.transport.transactions import NO_HEADERS, Output

SLICE_SECONDS = 0.5
"""Input of at most this much working time goes into one transaction, so that readers of the outputs wait no longer."""

CLOCK_EVERY = 256
"""Records between two looks at the clock."""

MAX_FAILURES_IN_A_ROW = 100
"""So many records in a row on which the stage raised are no poison but a broken release: the worker stops."""

SMALL_BYTES = 65_536
"""A record of at most this, decided on beside a row of at most this, gives nothing that is too large, even where each character of
the row is written as six. All others are measured."""

MAX_HOT_ROWS = 50_000
"""Rows kept as they are read as well, some 1 kB each, over all partitions: those that were worked on last. All are kept packed."""

MAX_KEPT_KEY_BYTES = 1_024
"""A dead letter whose record is too large keeps a key of at most this."""

_REROUTED: Final = Reason.REROUTED  # an enum's member is looked up through a Python function: once, not for each record

log = structlog.get_logger(__name__)

Produce = Callable[..., None]
"""``TransactionalWriter.produce``."""


class _Hot:
    """A key as slices work on it. ``row`` is as the stage reads it, or None; the rest is of the present slice alone: bytes of the
    records that changed the row, and what renders the key's newest record of a compacted topic."""

    __slots__ = ("changed_bytes", "current", "large", "row", "touched")

    def __init__(self, row: Any, large: bool) -> None:
        self.row = row
        self.large = large
        self.touched = False
        self.changed_bytes = 0
        self.current: Callable[[], Output] | None = None


class Slices:
    """Fills slices of one partition. ``table`` is changed in place: once a slice is filled, it is ahead of the log until the commit."""

    def __init__(self, settings: Settings, stage: TableStage, changelog: str, table: TablePartition) -> None:
        self._partitions = settings.partitions
        self._stage = stage
        self._changelog = changelog
        self._table = table
        self._dead_letters = DEAD_LETTERS.full_name(settings)
        self._failures = 0
        self._hot: dict[bytes | None, _Hot] = {}
        self._max_hot = MAX_HOT_ROWS // settings.partitions

    def forget(self) -> None:
        """Keep nothing of the table's former content: it is about to be restored."""
        self._hot.clear()

    def fill(self, records: Sequence[Record], start: int, produce: Produce) -> tuple[int, Counter[Reason]]:
        """Decide on records from ``start`` on, for as long as a slice may take, and produce what follows from them.

        Outputs are produced in the order of their records; then the newest record of each key of a compacted topic; then each
        changed row, once. Returns the index after the last record, and how many ended how.
        Raises StageFailed when the stage raises on too many records in a row.
        """
        hot, effect_of = self._hot, self._stage.effect
        if len(hot) > self._max_hot:
            hot.clear()
        outcomes: dict[Reason, int] = {}
        touched: list[tuple[bytes, _Hot]] = []
        until = time.monotonic() + SLICE_SECONDS
        end = start
        for record in islice(records, start, None):
            end += 1
            key = record.key
            known = hot.get(key)
            if known is None:
                known = self._heated(key)
            row = known.row
            try:
                effect = effect_of(record, row) if row is not None else self._first_effect(record)
            except Exception as error:  # noqa: BLE001  # it is counted, told, and the record kept as a dead letter
                effect = self._failed(record, error)
            reason = effect.reason
            size = 0 if record.value is None else len(record.value)
            if size > SMALL_BYTES or known.large or effect.error is not None or reason is _REROUTED:
                effect = self._fitting(record, effect)
                reason = effect.reason
            for output in effect.outputs:
                produce(output.topic, output.key, output.value, output.headers, output.partition)
            if effect.row is not None and key is not None:
                known.row = effect.row
                known.changed_bytes += size
                known.large = known.large or known.changed_bytes > SMALL_BYTES
                if effect.current is not None:
                    known.current = effect.current
                if not known.touched:
                    known.touched = True
                    touched.append((key, known))
            outcomes[reason] = outcomes.get(reason, 0) + 1
            if self._failures and reason is not Reason.HANDLER_FAILED:
                self._failures = 0
            if not end % CLOCK_EVERY and time.monotonic() > until:
                break
        self._finish(touched, produce)
        return end, Counter(outcomes)

    def _heated(self, key: bytes | None) -> _Hot:
        """Read the row of a key that is not hot, and keep it so."""
        packed = None if key is None else self._table.rows.get(key)
        if key is None or packed is None:
            known = _Hot(None, large=False)
        else:
            known = _Hot(self._stage.unpack(key, packed), len(packed) > SMALL_BYTES)
        self._hot[key] = known
        return known

    def _finish(self, touched: Sequence[tuple[bytes, _Hot]], produce: Produce) -> None:
        """Produce what each changed key leaves: the newest record of its compacted topic, and its row."""
        for _, known in touched:
            if known.current is not None:
                output = known.current()
                produce(output.topic, output.key, output.value, output.headers, output.partition)
                known.current = None
        rows, pack = self._table.rows, self._stage.pack
        changelog, number = self._changelog, self._table.number
        for key, known in touched:
            packed = rows[key] = pack(known.row)
            known.large = known.large or len(packed) > SMALL_BYTES
            known.touched = False
            known.changed_bytes = 0
            produce(changelog, key, packed, NO_HEADERS, number)

    def _first_effect(self, record: Record) -> Effect:
        """Decide on a record whose key has no row. One that has is at home; this one need not be."""
        return rerouted(record, self._partitions) or self._stage.effect(record, None)

    def _fitting(self, record: Record, effect: Effect) -> Effect:
        """Return ``effect``, or the dead letter that it becomes: for its error, or because it is too large."""
        step = fitting(rendered(self._stage, record, effect))
        if step.error is None:
            return effect
        letter = self._dead_letter(record, step.reason, step.error)
        if step.reason is not effect.reason:
            return Effect(step.reason, (letter,))
        return msgspec.structs.replace(effect, outputs=(*effect.outputs, letter), error=None)

    def _failed(self, record: Record, error: Exception) -> Effect:
        """Return the effect of a record on which the stage raised: ``effect`` is pure, so a second try would fail alike."""
        self._failures += 1
        where = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
        log.error("a record could not be decided on", **where, kind=type(error).__name__, exc_info=self._failures == 1)
        if self._failures >= MAX_FAILURES_IN_A_ROW:
            raise StageFailed(f"{self._stage.name} failed on {self._failures} records in a row; the log above says where.") from error
        return Effect(Reason.HANDLER_FAILED, error=f"{type(error).__name__} in {self._stage.name}")

    def _dead_letter(self, record: Record, reason: Reason, error: str) -> Output:
        origin = Origin(self._stage.name, record.topic, record.partition, record.offset)
        key, value, kept = record.key, record.value, record.headers
        if bytes_of(key, value, kept) > MAX_OUTPUT_BYTES:
            error = f"{error} Its value of {len(value or b'')} bytes and its headers are left out here, for it is too large."
            key, value, kept = (key if len(key or b"") <= MAX_KEPT_KEY_BYTES else None), b"", ()
        return Output(self._dead_letters, key, value, dead_letter_headers(kept, origin, reason, error))
