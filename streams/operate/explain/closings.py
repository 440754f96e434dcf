"""What operators decided on dead letters: the marks on ``dead.letters``, with who and why from the audit rows. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

from schemas.kinds import Kind
from streams.kafka.dead_letters import RESOLVES
from streams.kafka.records import Record
from streams.operate.dead_letters.letters import ACTION, Action, DeadLetter, Mark, read
from streams.operate.dead_letters.outcomes import audit_id
from streams.operate.explain.entries import Closing, Json, moment_text
from streams.settings import Settings

_ACTIONS = {Kind.OPERATOR_REPLAYED.value: Action.REPLAYED.value, Kind.OPERATOR_DISCARDED.value: Action.DISCARDED.value}


def closings(records: Iterable[Record], operators: Mapping[str, Json], topic_prefix: str) -> dict[str, Closing]:
    """Return what closed each dead letter among ``records``, by its identity.

    ``operators`` holds the metadata of operators' audit events by ``decision``; one whose event is not there is shown without who and why.
    """
    found: dict[str, Closing] = {}
    for record in records:
        mark = read(record, topic_prefix)
        if isinstance(mark, Mark):
            at, action = _resolved(record)
            said = operators.get(decision(at, action), {})
            moment = moment_text(datetime.fromtimestamp(record.timestamp / 1000, UTC)) or ""
            found[mark.identity] = Closing(action, moment, said.get("by"), said.get("because"))
    return found


def decision(place: object, action: str) -> str:
    """Return the name of what was done with the dead letter at ``place``."""
    return f"{place}#{action}"


def audit_ids(settings: Settings, records: Sequence[Record]) -> Iterator[str]:
    """Yield the ids of the audit events of the decisions that are marked among ``records``, which hold the dead letters too."""
    letters: dict[str, DeadLetter] = {}
    for record in records:
        letter = read(record, settings.topic_prefix)
        if isinstance(letter, DeadLetter):
            letters[str(letter.place)] = letter
    for record in records:
        at, action = _resolved(record)
        if at in letters and action in _ACTIONS.values():
            yield audit_id(settings, letters[at], Action(action))


def action_of(kind: str) -> str | None:
    """Return what was done with a dead letter where an audit event is of such a kind."""
    return _ACTIONS.get(kind)


def _resolved(record: Record) -> tuple[str, str]:
    headers = {name: str(value, "utf-8", "replace") for name, value in record.headers if value is not None}
    return headers.get(RESOLVES, ""), headers.get(ACTION, "closed")
