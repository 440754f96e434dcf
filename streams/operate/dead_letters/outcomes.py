"""What is written for one dead letter that an operator decides on: the record again, its mark, the audit event. Pure."""

from dataclasses import dataclass
from typing import NamedTuple

from schemas.envelope import canonical_team_id
from schemas.kinds import Kind
from schemas.razorpay import MalformedWebhook, parse_webhook
from schemas.reasons import Reason
from streams.kafka.dead_letters import HEADER_PREFIX, REPLAYS
from streams.kafka.producer import Record
from streams.operate.actions import operator_event, operator_event_id
from streams.operate.dead_letters.letters import ORIGIN, Action, DeadLetter, mark_headers
from streams.operate.dead_letters.plan import SOURCES, Item
from streams.settings import Settings
from streams.topics import DEAD_LETTERS, RAZORPAY_WEBHOOKS

EVENT_ID, RECEIVED_AT = "razorpay-event-id", "received-at"

_KINDS = {Action.REPLAYED: Kind.OPERATOR_REPLAYED, Action.DISCARDED: Kind.OPERATOR_DISCARDED}
_TEXT = {
    Action.REPLAYED: "Dead letter ({}, {}) replayed from {}",
    Action.DISCARDED: "Dead letter ({}, {}) of {} discarded",
}


class Written(NamedTuple):
    """A record to be produced; ``value`` is None for a mark, and ``partition`` None where the key decides it."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    partition: int | None = None


@dataclass(frozen=True, slots=True)
class Decree:
    """What an operator does, who, and why. ``at`` is Unix seconds."""

    action: Action
    because: str
    by: str
    at: float


def outcome(settings: Settings, letter: DeadLetter, item: Item, decree: Decree) -> list[Written]:
    """Return what is written, together or not at all, for ``letter``, which is that of ``item``."""
    written = [_again(settings, letter)] if decree.action is Action.REPLAYED else []
    dead_letters, partition, key = DEAD_LETTERS.full_name(settings), letter.place.partition, letter.record.key
    headers = mark_headers(letter, decree.action)
    written.append(Written(dead_letters, key, None, headers, partition))
    for identity in item.also:
        also = [(name, identity.encode() if name == ORIGIN else value) for name, value in headers]
        written.append(Written(dead_letters, key, None, also, partition))
    event = _event(settings, letter, decree)
    written.append(Written(event.topic, event.key, event.value, list(event.headers)))
    return written


def _again(settings: Settings, letter: DeadLetter) -> Written:
    """Return the record as it was, with one replay more in its headers."""
    assert letter.origin is not None  # what was never on a topic is not planned
    record = letter.record
    headers = [(name, value) for name, value in record.headers if not name.startswith(HEADER_PREFIX)]
    names = {name for name, _ in headers}
    if letter.origin.topic == RAZORPAY_WEBHOOKS.name:
        if EVENT_ID not in names:  # its place was its id: at another place it would be another event
            where = f"{settings.topic_prefix}{letter.origin.topic}-{letter.origin.partition}-{letter.origin.offset}"
            headers.append((EVENT_ID, where.encode()))
        if letter.reason == Reason.FUTURE_TIME:  # it is to be judged by the time at which it comes now
            headers = [(name, value) for name, value in headers if name != RECEIVED_AT]
        elif RECEIVED_AT not in names:
            headers.append((RECEIVED_AT, b"%d" % (letter.time * 1000)))
    headers.append((REPLAYS, b"%d" % (letter.replays + 1)))
    return Written(SOURCES[letter.origin.topic].full_name(settings), record.key, record.value, headers)


def _event(settings: Settings, letter: DeadLetter, decree: Decree) -> Record:
    source = str(letter.origin or "the gateway")
    return operator_event(
        settings,
        _KINDS[decree.action],
        _action_id(letter, decree.action),
        team_id=team_of(settings, letter),
        summary=_TEXT[decree.action].format(letter.reason or "no reason", letter.stage or "no stage", source),
        because=decree.because,
        by=decree.by,
        at=decree.at,
        details={
            "at": str(letter.place),
            "of": source,
            "reason": letter.reason,
            "stage": letter.stage,
            "replays": letter.replays + (decree.action is Action.REPLAYED),
        },
    )


def audit_id(settings: Settings, letter: DeadLetter, action: Action) -> str:
    """Return the id of the audit event that says what was done with a dead letter."""
    return operator_event_id(_KINDS[action], _action_id(letter, action), team_of(settings, letter))


def _action_id(letter: DeadLetter, action: Action) -> str:
    return f"{letter.place}#{action}"


def team_of(settings: Settings, letter: DeadLetter) -> str | None:
    """Return the team that a dead letter is about, as its key or its note says; None when neither does."""
    team_id = canonical_team_id(letter.key)
    if team_id is not None or letter.origin is None or letter.origin.topic != RAZORPAY_WEBHOOKS.name:
        return team_id
    try:
        return canonical_team_id(parse_webhook(letter.record.value or b"").note(settings.razorpay_team_note))
    except MalformedWebhook:
        return None
