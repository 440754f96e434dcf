"""What operators do on the command line, as audit events with the actor ``cli``: who did what, to which record, and why. Pure."""

import getpass
from collections.abc import Mapping

from schemas.envelope import HEADERS, derived_id
from schemas.kinds import OPERATOR_KINDS, Kind
from schemas.serialize import AUDIT_SCHEMA, envelope, rfc3339
from streams.kafka.producer import Record
from streams.settings import Settings
from streams.topics import AUDIT_EVENTS

ACTOR = "cli"
SOURCE = "tierstream/operate"
STAGE = "operate"


def operator_name() -> str:
    """Return the login name of whoever runs the command; ``unknown`` where the system has none for the user id."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def operator_event_id(kind: Kind, action_id: str, team_id: str | None) -> str:
    """Return the id of the audit event of an action: the same one however often the action is resumed."""
    return derived_id(STAGE, ACTOR, action_id, team_id, kind)


def operator_event(
    settings: Settings,
    kind: Kind,
    action_id: str,
    *,
    team_id: str | None,
    summary: str,
    because: str,
    by: str,
    at: float,
    details: Mapping[str, object],
) -> Record:
    """Return the record for ``audit.events`` that says what an operator did. Pure.

    ``action_id`` names the action, such as ``dead.letters:3:17#1``: the event's id derives from it, so that an action which is resumed
    after a crash writes the same row again. ``at`` is Unix seconds. ``details`` go into the metadata and hold no addresses.
    """
    assert kind in OPERATOR_KINDS
    time = rfc3339(at)
    value = envelope(
        id=operator_event_id(kind, action_id, team_id),
        source=SOURCE,
        type=kind,
        team_id=team_id,
        time=time,
        causation=action_id,
        correlation=action_id,
        schema=AUDIT_SCHEMA,
        data={
            "actor": ACTOR,
            "summary": summary,
            "metadata": {"because": because, "by": by, **details},
            "created_at": time,
        },
    )
    return Record(AUDIT_EVENTS.full_name(settings), value, (team_id or action_id).encode(), HEADERS)
