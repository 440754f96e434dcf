"""What was imported before, of the teams and subscriptions that a file names.

The truth about a team is its row at classify, which outlasts the retention of ``team.events``: so the changelog is read, which holds one row a
team, and of ``team.events`` only what classify has not decided on yet. Links are a compacted topic, and are read whole.
"""

from collections.abc import Callable, Mapping

import orjson

from agents.classify import service_ids
from agents.classify.facts import Imported, Unreadable, read_team_event
from agents.classify.packing import unpack
from agents.classify.registers import Import
from schemas.envelope import canonical_team_id
from schemas.team_events import IMPORTED, Version
from schemas.tiers import LABELS
from streams.kafka.records import Record
from streams.operate.imports.decide import SECOND, Known, Statement
from streams.operate.imports.staging import Staging
from streams.operate.logs import Bounds, Logs
from streams.settings import Settings
from streams.topics import CLASSIFY_CHANGELOG, SUBSCRIPTION_LINKS, TEAM_EVENTS, Topic

OnRead = Callable[[str, int, int | None], None]

_REPORT_EVERY = 1_000
_NO_ROW = b"\x00"
"""What a key of a changelog starts with that is no row's: positions and settings."""

_IMPORTED = IMPORTED.encode()


def note_links(logs: Logs, staging: Staging, on_read: OnRead) -> None:
    """Note in ``staging`` whose the subscriptions of its lines are by earlier imports. Raises KafkaUnavailable."""

    def note(record: Record) -> None:
        subscription_id = (record.key or b"").decode("utf-8", "replace")
        if record.value is None or not staging.has_subscription(subscription_id):
            return
        team_id = _linked_team(record.value)
        if team_id is not None:
            staging.note_link(subscription_id, team_id)

    _read(logs, SUBSCRIPTION_LINKS, logs.bounds(SUBSCRIPTION_LINKS), "reading the links", on_read, note)


def note_imports(logs: Logs, settings: Settings, staging: Staging, on_read: OnRead) -> None:
    """Note in ``staging`` the newest import of each of its teams. Raises KafkaUnavailable."""
    # In this order: what classify commits meanwhile is in the changelog already, and is read a second time at most.
    decided = logs.committed("classify", TEAM_EVENTS)

    def note_row(record: Record) -> None:
        if record.key is None or record.key.startswith(_NO_ROW) or not staging.has_team(record.key):
            return
        row = unpack(record.value) if record.value else None
        imported = row.imported if row else None
        staging.note(record.key.decode(), _known(imported, row.service_ids) if row and imported else None)

    def note_event(record: Record) -> None:
        if record.value is None or _IMPORTED not in record.value:
            return
        try:
            event = read_team_event(record.value, record.timestamp // 1000)
        except Unreadable:
            return  # classify makes a dead letter of it
        if not isinstance(event.body, Imported) or not staging.has_team(event.team_id.encode()):
            return
        data, version = event.body.data, event.version
        before = staging.known(event.team_id)
        ids = service_ids.remembered(before.ids if before else b"", version[0], version[3], event.body.content)
        if before is None or _at(version) > before.at:
            staging.note(event.team_id, Known(_at(version), (data.tier, data.plan_id, data.subscription_id, data.email), ids))
        else:
            staging.note(event.team_id, Known(before.at, before.said, ids))

    _read(logs, CLASSIFY_CHANGELOG, logs.bounds(CLASSIFY_CHANGELOG), "reading the teams", on_read, note_row)
    reaches = {
        partition: Bounds(max(bounds.first, decided.get(partition, 0)), bounds.end)
        for partition, bounds in logs.bounds(TEAM_EVENTS).items()
    }
    _read(logs, TEAM_EVENTS, reaches, "reading what classify has not decided on", on_read, note_event)


def _read(logs: Logs, topic: Topic, reaches: Mapping[int, Bounds], what: str, on_read: OnRead, note: Callable[[Record], None]) -> None:
    total, done = sum(max(0, end - first) for first, end in reaches.values()), 0
    for partition, (first, end) in reaches.items():
        for record in logs.read(topic, partition, first, end):
            note(record)
            if record.offset % _REPORT_EVERY == 0:
                on_read(what, done + record.offset - first, total)
        done += max(0, end - first)


def _linked_team(value: bytes) -> str | None:
    try:
        return canonical_team_id(orjson.loads(value)["data"]["team_id"])
    except (ValueError, KeyError, TypeError):
        return None  # normalise makes a dead letter of it


def _known(imported: Import, ids: bytes) -> Known:
    return Known(_at(imported.version), _said(imported), ids)


def _said(imported: Import) -> Statement:
    return (LABELS[imported.tier], imported.plan_id or None, imported.subscription_id or None, imported.email)


def _at(version: Version) -> int:
    return version[0] * SECOND + version[2]
