"""Decide what row a record of ``audit.events`` becomes. Pure."""

import json
import uuid
from datetime import datetime
from typing import Annotated, Literal

import msgspec

from agents.audit.record import KINDS, AuditRecord, DeadLetter, read_audit_record
from schemas.kinds import MAY_LACK_TEAM
from streams.stores.audit_log import AuditRow

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
    """What a row is made of, as the fast path reads it: same fields, same meaning as ``Envelope[AuditData]``."""

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
    if kind is None or (event.subject is None and kind not in MAY_LACK_TEAM) or not metadata.startswith("{"):
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
