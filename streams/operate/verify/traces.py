"""From records, rows and decisions to the traces that are compared (``streams.operate.verify.evidence``). Pure."""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from agents.audit import decide as audit
from agents.classify.outputs import SOURCE as CLASSIFY_SOURCE
from agents.normalise.stage import NORMALISE_SOURCE
from streams.kafka.dead_letters import REPLAYS
from streams.kafka.records import Record
from streams.operate.verify.evidence import (
    FINAL,
    IN_DOUBT,
    KINDS,
    NOBODY,
    OPEN,
    REFUSED,
    REPLAYED,
    STAGES,
    TOPICS,
    UNKNOWN_KIND,
    WAITS,
    Entry,
    Source,
    digest,
    id_bytes,
    origin_id,
    row_digest,
)
from streams.stores.accounts import LedgerLine
from streams.stores.audit_log import AuditRow
from streams.stores.ledger import Classification

_WRITERS: dict[str, int] = {NORMALISE_SOURCE: STAGES.index("normalise"), CLASSIFY_SOURCE: STAGES.index("classify")}
_KINDS: dict[str, int] = {kind.value: index for index, kind in enumerate(KINDS)}
_MAIL_STATES: dict[str, int] = {Classification.IN_FLIGHT: OPEN, Classification.IN_DOUBT: IN_DOUBT, Classification.REFUSED: REFUSED}
_AUDIT_EVENTS, _TEAM_EVENTS = TOPICS.index("audit.events"), TOPICS.index("team.events")
_NORMALISE = STAGES.index("normalise")


class Decision(NamedTuple):
    """Where a replay decided something: stage and input topic (indexes), partition, offset; and where its output belongs."""

    stage: int
    topic: int
    partition: int
    offset: int
    target: int


class _Head(msgspec.Struct, frozen=True, gc=False):
    id: str
    source: str


class LetterHeaders(NamedTuple):
    """Whose dead letter of which record it is (indexes)."""

    stage: int
    topic: int
    partition: int
    offset: int


_read_head = msgspec.json.Decoder(_Head).decode


def audit_row(value: bytes | None) -> AuditRow | None:
    """Return the row that a record of ``audit.events`` becomes, or None when it is unreadable."""
    decision = audit.decide(value)
    return decision if isinstance(decision, AuditRow) else None


def decided_event(value: bytes, where: Decision) -> Entry | None:
    """Return the trace of an audit event that a replay decided; None when no stage could read it."""
    row = audit_row(value)
    if row is None:
        return None
    return Entry(row.id.bytes, Source.DECIDED, where.stage, _KINDS[row.kind], 0, *where[1:], digest(value), row_digest(row))


def recorded_event(record: Record) -> Entry | None:
    """Return the trace of a record of ``audit.events``; None when no stage can read it."""
    value = record.value
    row = audit_row(value)
    if row is None or value is None:
        return None
    head = _head(value)
    stage = _WRITERS.get(head.source, NOBODY) if head else NOBODY
    place = (_AUDIT_EVENTS, record.partition, record.offset, record.partition)
    return Entry(row.id.bytes, Source.RECORD, stage, _KINDS[row.kind], _state(record), *place, digest(value), row_digest(row))


def decided_fact(value: bytes | None, where: Decision) -> Entry | None:
    """Return the trace of a fact of normalise's that a replay decided; None for what is none."""
    head = _fact(value)
    if head is None:
        return None
    return Entry(id_bytes(head.id), Source.DECIDED, where.stage, 0, 0, *where[1:], digest(value or b""))


def recorded_fact(record: Record) -> Entry | None:
    """Return the trace of a record of ``team.events`` that says that normalise wrote it; None for those of services."""
    head = _fact(record.value)
    if head is None:
        return None
    place = (_TEAM_EVENTS, record.partition, record.offset, record.partition)
    return Entry(id_bytes(head.id), Source.RECORD, _NORMALISE, 0, _state(record), *place, digest(record.value or b""))


def parked(where: Decision) -> Entry:
    """Return the trace of a record that became a dead letter, or must become one."""
    return Entry(origin_id(*where[:4]), Source.DECIDED, where.stage, 0, 0, *where[1:])


def dead_letter_headers_of(record: Record, topics: Mapping[str, int]) -> LetterHeaders | None:
    """Return whose dead letter ``record`` is; None when its headers do not say so. ``topics`` gives the index of a full name."""
    headers = {name: str(value, "utf-8", "replace") for name, value in record.headers if value is not None}
    try:
        partition, offset = int(headers["dlq-partition"]), int(headers["dlq-offset"])
        return LetterHeaders(STAGES.index(headers["dlq-stage"]), topics[headers["dlq-topic"]], partition, offset)
    except (KeyError, ValueError):
        return None


def dead_letter(headers: LetterHeaders) -> Entry:
    """Return the trace of a dead letter, under the record that it is of."""
    return Entry(origin_id(*headers), Source.PARKED, headers.stage, 0, 0, *headers[1:])


def parked_event(record: Record, headers: LetterHeaders) -> Entry | None:
    """Return the trace of a dead letter of ``audit.events``, under its audit event; None when its value does not say which."""
    row = audit_row(record.value)
    return None if row is None else Entry(row.id.bytes, Source.PARKED, headers.stage, _KINDS[row.kind], 0, *headers[1:])


def stored_row(row: AuditRow) -> Entry:
    """Return the trace of a row of ``audit_log``."""
    return Entry(row.id.bytes, Source.ROW, kind=_KINDS.get(row.kind, UNKNOWN_KIND), row=row_digest(row))


def ledger_line(line: LedgerLine) -> Entry:
    """Return the trace of a row of ``forwarder_sent``."""
    state = _MAIL_STATES.get(line.classification, FINAL)
    if state == OPEN and line.waits:
        state = WAITS
    return Entry(line.audit_id.bytes, Source.MAIL, kind=_KINDS.get(line.kind, UNKNOWN_KIND), state=state)


def _fact(value: bytes | None) -> _Head | None:
    if value is None or NORMALISE_SOURCE.encode() not in value:
        return None
    head = _head(value)
    return head if head is not None and head.source == NORMALISE_SOURCE else None


def _head(value: bytes) -> _Head | None:
    try:
        return _read_head(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _state(record: Record) -> int:
    return REPLAYED if any(name == REPLAYS for name, _ in record.headers) else 0
