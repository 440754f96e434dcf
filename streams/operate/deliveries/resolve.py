"""Resolving: an operator says what became of a mail, or has it sent again.

The steps, and what a crash after each leaves:

1. the decision stands in the ledger, as open; ``retry`` sets the row back to ``in_flight`` → the next ``resolve`` goes on with step 2 first;
2. ``operator.resolved`` and, for ``retry``, the audit event once more are on ``audit.events``   → the same again, with the same ids: the forwarder
   finds a row that is final, or its own call;
3. the decision is no longer open                                                                → done.

An event is sent again only if it is found, before anything is changed: on ``audit.events``, or else as a dead letter.
"""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import msgspec

from schemas.kinds import Kind
from streams.kafka.dead_letters import HEADER_PREFIX, REPLAYS
from streams.kafka.partitioner import partition_of
from streams.kafka.producer import Record
from streams.kafka.records import Record as Consumed
from streams.operate.actions import operator_event
from streams.operate.logs import Logs
from streams.settings import Settings
from streams.stores.deliveries import Decision, Delivery, Resolution
from streams.topics import AUDIT_EVENTS, DEAD_LETTERS

AT_ONCE = 500
"""Rows in one statement, and events that are sent together: a run that is ended has no more than these open."""

PRODUCE_SECONDS = 30.0

Events = Mapping[uuid.UUID, Consumed]


class _Head(msgspec.Struct):
    id: uuid.UUID


_read_head = msgspec.json.Decoder(_Head).decode


class ResolutionStore(Protocol):
    """The part of ``StoredDeliveries`` that resolving needs."""

    async def resolve(self, audit_ids: Sequence[uuid.UUID], decision: Decision) -> None: ...
    async def open_resolutions(self) -> list[Delivery]: ...
    async def published(self, audit_ids: Sequence[uuid.UUID]) -> None: ...


class Producing(Protocol):
    """The part of ``AcknowledgedProducer`` that resolving needs."""

    async def send_many(self, records: Sequence[Record], *, timeout_seconds: float) -> None: ...


def find_events(logs: Logs, settings: Settings, wanted: Sequence[Delivery]) -> dict[uuid.UUID, Consumed]:
    """Return the audit events of these rows, by audit id, as far as the topics still hold them. Blocking; reads whole partitions."""
    found: dict[uuid.UUID, Consumed] = {}
    missing = {row.audit_id for row in wanted}
    keys = {str(row.team_id).encode() for row in wanted if row.team_id is not None}
    partitions = {partition_of(key, settings.partitions) for key in keys}
    for topic, numbers in ((AUDIT_EVENTS, partitions), (DEAD_LETTERS, None)):
        for number, bounds in logs.bounds(topic).items():
            if not missing:
                return found
            if numbers is not None and number not in numbers:
                continue
            for record in logs.read(topic, number, *bounds):
                audit_id = _audit_id(record)
                if audit_id in missing:
                    found[audit_id] = record
                    missing.discard(audit_id)
    return found


def _audit_id(record: Consumed) -> uuid.UUID | None:
    try:
        return _read_head(record.value or b"").id
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


async def finish(store: ResolutionStore, producer: Producing, settings: Settings, events: Events) -> tuple[int, list[Delivery]]:
    """Publish the decisions that are open. Return how many were, and those whose event to be sent again is not among ``events``."""
    rows = await store.open_resolutions()
    ready, stuck = list[Delivery](), list[Delivery]()
    for row in rows:
        (ready if not _is_retry(row) or row.audit_id in events else stuck).append(row)
    for start in range(0, len(ready), AT_ONCE):
        some = ready[start : start + AT_ONCE]
        await producer.send_many([record for row in some for record in _records(settings, row, events)], timeout_seconds=PRODUCE_SECONDS)
        await store.published([row.audit_id for row in some])
    return len(ready), stuck


async def resolve(
    store: ResolutionStore, producer: Producing, settings: Settings, rows: Sequence[Delivery], decision: Decision, events: Events
) -> int:
    """Decide about ``rows`` and publish it; return how many that were. For RETRY, ``events`` holds the event of each."""
    resolved = 0
    for start in range(0, len(rows), AT_ONCE):
        await store.resolve([row.audit_id for row in rows[start : start + AT_ONCE]], decision)
        done, _ = await finish(store, producer, settings, events)
        resolved += done
    return resolved


def _is_retry(row: Delivery) -> bool:
    return row.resolution is not None and row.resolution["as"] == Resolution.RETRY


def _records(settings: Settings, row: Delivery, events: Events) -> Iterator[Record]:
    said = row.resolution
    assert said is not None  # it is open
    yield operator_event(
        settings,
        Kind.OPERATOR_RESOLVED,
        f"forwarder_sent:{row.audit_id}#{row.resends}:{said['as']}",
        team_id=None if row.team_id is None else str(row.team_id),
        summary=f"An operator resolved the mail of {row.kind}, which was {said['from']}, as {said['as']}.",
        because=said["because"],
        by=said["by"],
        at=float(said["at"]),
        details={"audit_id": str(row.audit_id), "kind": row.kind, "from": said["from"], "as": said["as"]},
    )
    if _is_retry(row):
        event = events[row.audit_id]
        headers = [(name, value) for name, value in event.headers if not name.startswith(HEADER_PREFIX)]
        yield Record(AUDIT_EVENTS.full_name(settings), event.value or b"", event.key, [*headers, (REPLAYS, str(row.resends).encode())])
