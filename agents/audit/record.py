"""Reading ``audit.events`` by the contract: from a record's bytes to one typed audit event, or what is wrong with it."""

import uuid
from dataclasses import dataclass

from pydantic import ValidationError

from schemas.audit import AuditData
from schemas.envelope import Envelope
from schemas.kinds import MAY_LACK_TEAM, Kind
from schemas.reasons import Reason
from schemas.validation import describe

_MAX_QUOTED_CHARACTERS = 100


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that can not be acted on. ``error`` is one sentence for an operator, without values of the record's data."""

    reason: Reason
    error: str


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One audit event. ``team_id`` is None only where ``kind`` allows it."""

    id: uuid.UUID
    kind: Kind
    team_id: uuid.UUID | None
    data: AuditData


def read_audit_record(value: bytes | None) -> AuditRecord | DeadLetter:
    """Return the audit event that ``value`` holds, or the dead letter that it becomes. Pure."""
    if value is None:
        return DeadLetter(Reason.MALFORMED, "The record has no value; audit.events takes CloudEvents envelopes only.")
    try:
        envelope = Envelope[AuditData].model_validate_json(value)
    except ValidationError as error:
        return DeadLetter(Reason.MALFORMED, describe(error))
    audit_id = parse_uuid(envelope.id)
    if audit_id is None:
        return DeadLetter(Reason.MALFORMED, "The envelope's id is no UUID, which audit_log needs as its key.")
    if envelope.type not in KINDS:
        return DeadLetter(
            Reason.UNKNOWN_KIND, f"The type {envelope.type[:_MAX_QUOTED_CHARACTERS]!r} is no kind of audit event that this version knows."
        )
    kind = KINDS[envelope.type]
    team_id = parse_uuid(envelope.subject)
    if team_id is None and (envelope.subject is not None or kind not in MAY_LACK_TEAM):
        return DeadLetter(Reason.UNKNOWN_TEAM, "The envelope's subject is no team id (a UUID).")
    return AuditRecord(audit_id, kind, team_id, envelope.data)


def parse_uuid(text: str | None) -> uuid.UUID | None:
    """Return the UUID that ``text`` spells, or None."""
    if text is None or len(text) > 45:
        return None
    try:
        return uuid.UUID(text)
    except ValueError:
        return None


KINDS: dict[str, Kind] = {kind.value: kind for kind in Kind}
