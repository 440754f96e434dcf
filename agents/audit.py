"""The audit stage: ``audit.events`` → table ``audit_log``.

Order of the steps for one batch of one partition, and what a crash after each leaves:

1. rows committed in PostgreSQL      → the batch is read again, each row is found there already, nothing changes;
2. dead letters acknowledged         → the batch is read again, the same dead letters are written a second time;
3. the offset is committed           → done.

At-least-once delivery with an idempotent effect: one row for each audit id, whatever is repeated.
"""

import asyncio
import json
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Annotated, Literal, Protocol

import msgspec
import structlog

from agents.audit_record import KINDS, AuditRecord, DeadLetter, may_lack_team, read_audit_record
from schemas.reasons import Reason
from streams.dead_letters import ConsumedRecord, DeadLetters
from streams.stores.audit_log import AuditRow, RowResult, RowStatus

STAGE = "audit"

_DEAD_LETTERS_AT_ONCE = 100

_log = structlog.get_logger(__name__)

_Moment = Annotated[datetime, msgspec.Meta(tz=True)]
_Text = Annotated[str, msgspec.Meta(min_length=1)]


class _Data(msgspec.Struct, frozen=True, gc=False):
    summary: str
    metadata: msgspec.Raw
    created_at: _Moment
    actor: str = "agent"
    user_id: uuid.UUID | None = None
    resource_type: str | None = None
    resource_id: uuid.UUID | None = None


class _Envelope(msgspec.Struct, frozen=True, gc=False):
    """What a row is made of, as the hot path reads it: same fields, same meaning as ``Envelope[AuditData]``."""

    id: uuid.UUID
    source: _Text
    type: str
    time: _Moment
    data: _Data
    specversion: Literal["1.0"] = "1.0"
    subject: uuid.UUID | None = None


_read = msgspec.json.Decoder(_Envelope).decode


Decision = AuditRow | DeadLetter
"""The row to be written, or why there is none."""


def decide(value: bytes | None) -> Decision:
    """Return the row that a record of ``audit.events`` becomes, or why it becomes none. Pure.

    A narrow msgspec model reads nearly all; whatever it does not take is read again with the contract's own, which decides.
    """
    if value is not None:
        try:
            row = _narrow(value)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            row = None
        if row is not None:
            return row
    record = read_audit_record(value)
    return record if isinstance(record, DeadLetter) else _row(record)


def _narrow(value: bytes) -> AuditRow | None:
    event = _read(value)
    data = event.data
    kind = KINDS.get(event.type)
    metadata = str(data.metadata, "utf-8")
    if kind is None or (event.subject is None and not may_lack_team(kind)) or not metadata.startswith("{"):
        return None
    return AuditRow(
        event.id,
        event.subject,
        data.user_id,
        data.actor,
        event.type,
        data.resource_type,
        data.resource_id,
        data.summary,
        metadata,
        data.created_at,
    )


def _row(record: AuditRecord) -> AuditRow:
    data = record.data
    metadata = json.dumps(data.metadata, ensure_ascii=False)  # whole numbers of any size; NaN, which is no JSON, PostgreSQL refuses
    return AuditRow(
        record.id,
        record.team_id,
        data.user_id,
        data.actor,
        record.kind.value,
        data.resource_type,
        data.resource_id,
        data.summary,
        metadata,
        data.created_at,
    )


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
            await asyncio.gather(*(self._dead_letters.write(record, letter.reason, letter.error) for record, letter in some))
        outcomes = Counter([letter.reason for _, letter in dead])
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
