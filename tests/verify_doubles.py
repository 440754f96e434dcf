"""Topics and tables in memory, as a verification reads them: what a pretended stack left, to be falsified at will."""

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from streams.demo.scenario import build_scenario
from streams.embedded.stack import EXAMPLE_PLANS
from streams.kafka.records import Record
from streams.operate.logs import Bounds
from streams.operate.verify import Options, verify
from streams.operate.verify.report import Report
from streams.operate.verify.snapshot import Snapshot, SnapshotWriter
from streams.settings import Settings
from streams.stores.accounts import LedgerLine
from streams.stores.audit_log import AuditRow
from streams.topics import AUDIT_EVENTS, RAZORPAY_WEBHOOKS, SUBSCRIPTION_LINKS, TEAM_EVENTS, Topic
from tests.pretended_stack import Pretended, played_out, topic_id_of

NOW = 1_780_000_000.0
SETTINGS = Settings(plans=EXAMPLE_PLANS, partitions=8, replication_factor=1)
PRETENDED = played_out(build_scenario(NOW), SETTINGS, NOW)
"""The demo's scenario on a stack that does everything right."""

GROUPS = {
    "normalise": (RAZORPAY_WEBHOOKS, SUBSCRIPTION_LINKS),
    "classify": (TEAM_EVENTS,),
    "audit": (AUDIT_EVENTS,),
    "forward": (AUDIT_EVENTS,),
}


@dataclass
class PretendedStores:
    """``audit_log`` and ``forwarder_sent``, by audit id."""

    rows: dict[uuid.UUID, AuditRow]
    lines: dict[uuid.UUID, LedgerLine]

    def audit_rows(self) -> Iterator[AuditRow]:
        return iter(self.rows.values())

    def ledger(self) -> Iterator[LedgerLine]:
        return iter(self.lines.values())


@dataclass
class PretendedLogs:
    """Topics as lists of records. ``offsets`` holds what each group has committed, ``deleted`` what retention took.

    ``on_read`` is called before a partition is read: what a running stack does meanwhile.
    """

    topics: dict[str, list[Record]]
    partitions: int
    offsets: dict[tuple[str, str], dict[int, int]] = field(default_factory=dict)
    deleted: dict[tuple[str, int], int] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    on_read: Callable[[Topic, int], None] = lambda topic, partition: None

    def bounds(self, topic: Topic) -> dict[int, Bounds]:
        return {number: self._bounds(topic.name, number) for number in range(self.partitions)}

    def committed(self, stage: str, topic: Topic) -> dict[int, int]:
        return self.offsets.get((stage, topic.name), {})

    def topic_id(self, topic: Topic) -> str:
        return self.ids.get(topic.name, topic_id_of(topic.name))

    def read(self, topic: Topic, partition: int, first: int = 0, end: int | None = None) -> Iterator[Record]:
        self.on_read(topic, partition)
        for record in list(self.topics.get(topic.name, [])):
            if record.partition == partition and max(first, self.deleted.get((topic.name, partition), 0)) <= record.offset:
                if end is not None and record.offset >= end:
                    return
                yield record

    def delete_all(self, *topics: Topic) -> None:
        """Do as retention does once everything is too old."""
        for topic in topics:
            for number in range(self.partitions):
                self.deleted[topic.name, number] = self._bounds(topic.name, number).end

    def commit_all(self) -> None:
        """Let every group commit all that there is."""
        for stage, inputs in GROUPS.items():
            for topic in inputs:
                self.offsets[stage, topic.name] = {number: bounds.end for number, bounds in self.bounds(topic).items() if bounds.end}

    def _bounds(self, topic: str, partition: int) -> Bounds:
        offsets = [record.offset for record in self.topics.get(topic, []) if record.partition == partition]
        return Bounds(self.deleted.get((topic, partition), 0), max(offsets, default=-1) + 1)


def read_from(pretended: Pretended) -> tuple[PretendedLogs, PretendedStores]:
    """Return topics and tables as a stack leaves them that has worked in everything. Changing them leaves ``pretended`` alone."""
    logs = PretendedLogs({name: list(records) for name, records in pretended.log.topics.items()}, pretended.log.partitions)
    logs.commit_all()
    rows = {row.id: row for row in pretended.rows.values()}
    lines = {row.id: LedgerLine(row.id, row.kind, pretended.ledger[id]) for id, row in pretended.rows.items() if id in pretended.ledger}
    return logs, PretendedStores(rows, lines)


Stack = tuple[PretendedLogs, PretendedStores]


def verified(stack: Stack, options: Options | None = None) -> Report:
    """Verify a pretended stack."""
    return verify(SETTINGS, *stack, options or Options(), lambda what, done, total: None)


def written_snapshot(stack: Stack, path: Path, begin: Snapshot | None = None) -> Report:
    """Verify a pretended stack and write a snapshot of it."""
    with SnapshotWriter(path) as writer:
        return verified(stack, Options(snapshot=begin, writer=writer))
