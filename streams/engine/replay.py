"""Deciding again: what a stage with a table made of each record, worked out from its input topics. Nothing is produced.

A stage's ``effect`` is pure, so its input in log order gives the same outcomes and the same outputs as it did the first time. The
position rows in the stage's changelog hold how many of each outcome there were, which is what a replay can be checked against.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, MutableMapping
from typing import NamedTuple

from schemas.reasons import Reason
from streams.engine.changelog import POSITION_PREFIX, decode_position
from streams.engine.table_stage import Step, TableStage, fitting, rendered, rerouted, step_of
from streams.kafka.records import Record


class Replayed(NamedTuple):
    """One decision. ``before`` and ``after`` are the packed row that it concerns (None: there is none)."""

    record: Record
    step: Step
    before: bytes | None
    after: bytes | None


def replay(
    stage: TableStage, records: Iterable[Record], partitions: int, tables: MutableMapping[int, dict[bytes, bytes]] | None = None
) -> Iterator[Replayed]:
    """Decide ``records`` again and yield one decision each. ``tables`` holds the rows to begin with, by partition, and is kept up
    to date; without it, all begin empty.

    Records of one partition must come in offset order, from the topic's first on, or from where ``tables`` stands; partitions may
    be mixed in any way. Where a stage has several input topics, the order between them is the caller's: the log does not hold it.
    """
    if tables is None:
        tables = defaultdict(dict)
    for record in records:
        rows = tables[record.partition]
        decided = _step(stage, record, rows, partitions)
        key = record.key
        before = None if key is None else rows.get(key)
        if decided.key is not None and decided.row is not None:
            rows[decided.key] = decided.row
        yield Replayed(record, decided, before, None if key is None else rows.get(key))


def recorded_outcomes(changelog: Iterable[Record]) -> Counter[str]:
    """Return how many events the stage counted by reason: the sum of the newest position rows in the records of its changelog."""
    newest: dict[tuple[int, bytes], bytes] = {}
    for record in changelog:
        if record.key is not None and record.key.startswith(POSITION_PREFIX) and record.value is not None:
            newest[record.partition, record.key] = record.value
    total: Counter[str] = Counter()
    for value in newest.values():
        total.update(decode_position(value).outcomes)
    return total


def _step(stage: TableStage, record: Record, rows: dict[bytes, bytes], partitions: int) -> Step:
    """Decide as ``TransactionalWorker`` does."""
    elsewhere = None if record.key in rows else rerouted(record, partitions)
    if elsewhere is not None:
        return fitting(rendered(stage, record, elsewhere))
    try:
        return fitting(step_of(stage, record, rows))
    except Exception as error:  # noqa: BLE001  # whatever it raises is the outcome, and the worker has logged it
        return Step(Reason.HANDLER_FAILED, error=f"{type(error).__name__} in {stage.name}")
