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

SLICE_SECONDS = 0.25
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


class Slices:
    """Fills slices of one partition. ``table`` is changed in place: once a slice is filled, it is ahead of the log until the commit."""

    def __init__(self, settings: Settings, stage: TableStage, changelog: str, table: TablePartition) -> None:
        self._partitions = settings.partitions
        self._stage = stage
        self._changelog = changelog
        self._table = table
        self._dead_letters = DEAD_LETTERS.full_name(settings)
        self._failures = 0
        self._hot: dict[bytes | None, Any] = {}
        self._max_hot = MAX_HOT_ROWS // settings.partitions
        self._large: set[bytes | None] = set()

    def forget(self) -> None:
        """Keep nothing of the table's former content: it is about to be restored."""
        self._hot.clear()
        self._large.clear()

    def fill(self, records: Sequence[Record], start: int, produce: Produce) -> tuple[int, Counter[Reason]]:
        """Decide on records from ``start`` on, for as long as a slice may take, and produce what follows from them.

        Outputs are produced in the order of their records; then the newest record of each key of a compacted topic; then each
        changed row, once. Returns the index after the last record, and how many ended how.
        Raises StageFailed when the stage raises on too many records in a row.
        """
        rows, hot, large, effect_of = self._table.rows, self._hot, self._large, self._stage.effect
        if len(hot) > self._max_hot:
            hot.clear()
        outcomes: dict[Reason, int] = {}
        grown: dict[bytes, int] = {}  # key of a changed row → bytes of the records that changed it
        currents: dict[bytes | None, Callable[[], Output]] = {}
        until = time.monotonic() + SLICE_SECONDS
        end = start
        for record in islice(records, start, None):
            end += 1
            key = record.key
            row = hot.get(key)
            if row is None:
                row = self._unpacked(key)
            try:
                effect = effect_of(record, row) if row is not None else self._first_effect(record)
            except Exception as error:  # noqa: BLE001  # it is counted, told, and the record kept as a dead letter
                effect = self._failed(record, error)
            size = 0 if record.value is None else len(record.value)
            if size > SMALL_BYTES or effect.error is not None or effect.reason is _REROUTED or key in large:
                effect = self._fitting(record, effect)
            for output in effect.outputs:
                produce(output.topic, output.key, output.value, output.headers, output.partition)
            if effect.row is not None and key is not None:
                hot[key] = effect.row
                grown[key] = size = grown.get(key, 0) + size
                if size > SMALL_BYTES:
                    large.add(key)
            if effect.current is not None:
                currents[key] = effect.current
            reason = effect.reason
            outcomes[reason] = outcomes.get(reason, 0) + 1
            if self._failures and reason is not Reason.HANDLER_FAILED:
                self._failures = 0
            if not end % CLOCK_EVERY and time.monotonic() > until:
                break
        for current in currents.values():
            output = current()
            produce(output.topic, output.key, output.value, output.headers, output.partition)
        for key in grown:
            packed = rows[key] = self._stage.pack(hot[key])
            if len(packed) > SMALL_BYTES:
                large.add(key)
            produce(self._changelog, key, packed, NO_HEADERS, self._table.number)
        return end, Counter(outcomes)

    def _unpacked(self, key: bytes | None) -> Any:
        packed = None if key is None else self._table.rows.get(key)
        if key is None or packed is None:
            return None
        if len(packed) > SMALL_BYTES:
            self._large.add(key)
        row = self._hot[key] = self._stage.unpack(key, packed)
        return row

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
