"""What a stage with a table makes of one record: worked in by ``streams.engine.exactly_once``, decided again by ``streams.engine.replay``.

A stage decides with ``effect``, on rows as it reads them; the table and its changelog hold them packed. ``step_of`` is the same for one
record that stands alone, with everything rendered.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from schemas.reasons import Reason
from streams.engine.transactions import Headers, Output
from streams.kafka.partitioner import partition_of
from streams.kafka.records import Record
from streams.topics import MAX_RECORD_BYTES

MAX_OUTPUT_BYTES = MAX_RECORD_BYTES - 65_536
"""Key, value and headers of the largest record a stage may produce; the rest is room for a dead letter's own headers and for
the batch round the record."""

SMALL_BYTES = 65_536
"""A record of at most this, decided on beside a row of at most five times this, gives nothing that is too large, even where each
character of the row is written as six. So a row is measured only once it, or what was added to it in this slice, is more than this:
until then it is this, as much again, and at most twice this of one run. All others are measured."""


class Effect(msgspec.Struct, frozen=True, gc=False):
    """What a stage makes of one record: the outcome, what to produce, and what to keep under the record's key.

    ``row`` is as ``TableStage.unpack`` gives it; None keeps the row as it is. ``current``, which comes with a row alone, renders the
    key's newest record of a compacted topic: of a stage that works by key only the last of a key is rendered within one transaction, for no
    reader could see an earlier one. ``error`` makes the record a dead letter.
    """

    reason: Reason
    outputs: Sequence[Output] = ()
    row: Any = None
    current: Callable[[], Output] | None = None
    error: str | None = None


class Run(msgspec.Struct, frozen=True, gc=False):
    """What a stage makes of ``records`` records of one key: the same as their effects, one after the other.

    ``outcomes`` counts them by reason; ``row`` is the one after the last of them; ``current`` renders what the last one that had one
    would have rendered. ``growth_bytes`` is the size of those records that may have made the row larger; a run ends once that is more than
    ``SMALL_BYTES``, for only between two runs is the size of the row checked.
    """

    records: int
    outcomes: Mapping[Reason, int]
    outputs: Sequence[Output]
    row: Any
    growth_bytes: int = 0
    current: Callable[[], Output] | None = None


def _nothing() -> Iterable[Output]:
    return ()


class SettingsChange(msgspec.Struct, frozen=True):
    """What it means for the rows of one partition that they were decided with other settings than the stage has now.

    ``affected`` rows would change for readers of the outputs; ``outputs`` renders the records that say so, and is called once more after a
    rollback. With ``refusal`` a worker that may not accept the change ends: the sentence is made from the affected rows and all
    rows, each summed over all partitions of the worker; while none of them is affected, nothing is refused.
    """

    affected: int = 0
    outputs: Callable[[], Iterable[Output]] = _nothing
    refusal: Callable[[int, int], str] | None = None


class TableStage(Protocol):
    """A stage that decides on records with a table beside it. To be inherited from."""

    name: str
    settings: bytes = b""
    """What rows or outputs depend on among the settings: kept in each changelog partition, and compared when it is taken over. Empty:
    nothing."""
    by_key: bool = False
    """Whether a slice is to be decided on key by key: for a stage with large rows, or with a fast path through several records."""

    def effect(self, record: Record, row: Any) -> Effect:
        """Decide on one record; ``row`` is what the table holds under its key, or None. Pure: the same two give the same effect."""

    def run(self, records: Sequence[Record], start: int, row: Any) -> Run | None:
        """Decide on as many of ``records``, all of one key that has a row, from ``start`` on as a faster path than ``effect`` leads
        to the same; None when it does not lead past the first. Takes no record of more than ``SMALL_BYTES``. Pure.

        A stage that inherits this has no fast path.
        """
        return None

    def pack(self, row: Any) -> bytes:
        """Return ``row`` as table and changelog hold it."""

    def unpack(self, key: bytes, packed: bytes) -> Any:
        """Return the row of ``key`` that ``pack`` made."""

    def due_at(self, packed: bytes) -> int:
        """Return the earliest coming time that a packed row waits for, in Unix seconds; 0 for none. Cheap, and pure.

        A stage that inherits this has no coming times, and pays nothing for those of others.
        """
        return 0

    def due_records(self, key: bytes, packed: bytes, now: int) -> Sequence[Output]:
        """Return the records that say what has passed at ``now`` (Unix seconds) of what the row of ``key`` waits for. Pure.

        They are input of this stage, to be decided on like any other, which must make ``due_at`` another time: they go to the row's own
        partition of the topic that they name. The same ones may be produced twice, so their ids must follow from the row alone.
        """
        return ()

    def settings_changed(self, former: bytes, rows: Mapping[bytes, bytes]) -> SettingsChange:
        """Say what follows for the packed ``rows`` of one partition from ``settings`` being other ones than the ``former`` ones.

        Called in a thread of its own, once for each restore, before any input is worked in; ``rows`` are not changed until its outputs are
        committed. A stage that inherits this needs nothing done.
        """
        return SettingsChange()


class Step(NamedTuple):
    """An effect, rendered: the outcome, all records to produce, the key and packed row to keep. ``error`` makes it a dead letter."""

    reason: Reason
    outputs: Sequence[Output] = ()
    key: bytes | None = None
    row: bytes | None = None
    error: str | None = None


def step_of(stage: TableStage, record: Record, rows: Mapping[bytes, bytes]) -> Step:
    """Decide on one record beside the packed ``rows``. Pure; raises whatever the stage raises."""
    key = record.key
    packed = None if key is None else rows.get(key)
    row = None if key is None or packed is None else stage.unpack(key, packed)
    return rendered(stage, record, stage.effect(record, row))


def rendered(stage: TableStage, record: Record, effect: Effect) -> Step:
    """Return ``effect`` as the step that it is for its record alone."""
    outputs = effect.outputs if effect.current is None else (*effect.outputs, effect.current())
    if effect.row is None:
        return Step(effect.reason, outputs, error=effect.error)
    return Step(effect.reason, outputs, record.key, stage.pack(effect.row), effect.error)


def rerouted(record: Record, partitions: int) -> Effect | None:
    """Return the effect that sends a record to the partition of its key, or None when it is there. A key with a row is at home."""
    if record.key is None:
        return None
    home = partition_of(record.key, partitions)
    if home == record.partition:
        return None
    # The partition is named: on a topic that was given more partitions, the producer's own choice would send it round for ever.
    return Effect(Reason.REROUTED, (Output(record.topic, record.key, record.value, record.headers, home),))


def fitting(step: Step) -> Step:
    """Return ``step``, or the one that says that something of it is larger than Kafka takes."""
    for output in step.outputs:
        # Only a rerouted record has headers that are not our own, and hence of any size.
        size = bytes_of(output.key, output.value, output.headers) if step.reason is Reason.REROUTED else len(output.value or b"")
        if size > MAX_OUTPUT_BYTES:
            return Step(Reason.TOO_LARGE, error=f"What follows from it is larger than {MAX_OUTPUT_BYTES} bytes.")
    if step.row is not None and len(step.row) > MAX_OUTPUT_BYTES:
        return Step(Reason.TOO_LARGE, error=f"The row that follows from it is larger than {MAX_OUTPUT_BYTES} bytes.")
    return step


def bytes_of(key: bytes | None, value: bytes | None, headers: Headers) -> int:
    """Return the size of a record, without its batch."""
    return len(key or b"") + len(value or b"") + sum(len(name) + len(text or b"") for name, text in headers)
