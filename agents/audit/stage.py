"""The audit stage: ``audit.events`` → table ``audit_log``.

Order of the steps for one batch of one partition, and what a crash after each leaves:

1. rows committed in PostgreSQL      → the batch is read again, each row is found there already, nothing changes;
2. dead letters acknowledged         → the batch is read again, the same dead letters are written a second time;
3. the offset is committed           → done.

At-least-once delivery with an idempotent effect: one row for each audit id, whatever is repeated.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Protocol

import structlog

from agents.audit.decide import decide
from agents.audit.record import DeadLetter
from schemas.reasons import Reason
from streams.kafka.dead_letters import ConsumedRecord, DeadLetters
from streams.stores.audit_log import AuditRow, RowResult, RowStatus

STAGE = "audit"

_DEAD_LETTERS_AT_ONCE = 100

_log = structlog.get_logger(__name__)


class AuditLog(Protocol):
    """Where rows go: ``PostgresAuditLog``, or a test's own."""

    async def write(self, rows: Sequence[AuditRow]) -> list[RowResult]:
        """Return one result for each row, in order, once all is committed."""


class AuditWriter:
    """Writes the rows of batches. Several partitions may be handled at once."""

    def __init__(self, audit_log: AuditLog, dead_letters: DeadLetters) -> None:
        self._audit_log = audit_log
        self._dead_letters = dead_letters
        self.progress = 0
        """Batches written so far."""

    async def handle(self, records: Sequence[ConsumedRecord]) -> Counter[Reason]:
        """Write the rows of one partition's ``records``, which are in offset order, and return how many ended how.

        Returns only when all is durable; waits while PostgreSQL or Kafka is away. Each record has exactly one outcome.
        Raises TierstreamError only for what no waiting can mend.
        """
        dead: list[tuple[ConsumedRecord, DeadLetter]] = []
        readable: list[ConsumedRecord] = []
        rows: list[AuditRow] = []
        for record in records:
            decision = decide(record.value)
            if isinstance(decision, DeadLetter):
                dead.append((record, decision))
            else:
                readable.append(record)
                rows.append(decision)
        results = await self._audit_log.write(rows)
        statuses = Counter([result.status for result in results])
        if statuses[RowStatus.CONFLICT] or statuses[RowStatus.REJECTED]:
            dead += _unwritten(readable, rows, results)
        for start in range(0, len(dead), _DEAD_LETTERS_AT_ONCE):
            some = dead[start : start + _DEAD_LETTERS_AT_ONCE]
            await asyncio.gather(*(self._dead_letters.write(record, dead_letter.reason, dead_letter.error) for record, dead_letter in some))
        outcomes = Counter([dead_letter.reason for _, dead_letter in dead])
        for status, reason in ((RowStatus.INSERTED, Reason.WRITTEN), (RowStatus.ALREADY_THERE, Reason.ALREADY_WRITTEN)):
            if statuses[status]:
                outcomes[reason] = statuses[status]
        self.progress += 1
        return outcomes


def _unwritten(
    records: Sequence[ConsumedRecord], rows: Sequence[AuditRow], results: Sequence[RowResult]
) -> Iterator[tuple[ConsumedRecord, DeadLetter]]:
    for record, row, (status, error) in zip(records, rows, results, strict=True):
        if status is RowStatus.CONFLICT:
            _log.critical(
                "audit_id_conflict",
                audit_id=str(row.id),
                kind=row.kind,
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
            )
            yield (
                record,
                DeadLetter(Reason.ID_CONFLICT, f"audit_log holds other content under the id {row.id}; find out who gave it out twice."),
            )
        elif status is RowStatus.REJECTED:
            yield record, DeadLetter(Reason.REJECTED, error or "PostgreSQL refuses the row.")
