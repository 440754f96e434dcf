"""The shadow of a replay: normalise and classify decide on webhooks once more, beside copies of their tables as they are now. Nothing is written.

Beside today's tables, and not from an empty one: that is what happens when a webhook is published again, and it needs nothing that retention took.
A webhook that was worked in leads to the same ids and leaves the rows as they are. What differs is what is missing.
"""

import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from agents.audit.record import AuditRecord, read_audit_record
from agents.classify.packing import unpack
from agents.classify.registers import EMPTY, standing
from agents.classify.stage import ClassifyStage
from agents.forward.decide import Close, Policy, Send, decide
from agents.normalise.plans import load_rules
from agents.normalise.stage import NormaliseStage
from schemas.reasons import DEAD_LETTER_REASONS, Reason
from streams.engine.changelog import TablePartition
from streams.engine.replay import replay
from streams.engine.transactions import Output
from streams.kafka.partitioner import partition_of
from streams.kafka.records import Record
from streams.operate.logs import Bounds
from streams.settings import Settings
from streams.topics import AUDIT_EVENTS, CLASSIFY_CHANGELOG, NORMALISE_CHANGELOG, RAZORPAY_WEBHOOKS, TEAM_EVENTS, Topic

Json = dict[str, Any]


class Logs(Protocol):
    """The topics. ``KafkaLogs``, or a test's own."""

    def bounds(self, topic: Topic) -> Mapping[int, Bounds]:
        """Return how far each partition reaches now."""

    def committed(self, stage: str, topic: Topic) -> Mapping[int, int]:
        """Return the next offset of the stage's group on each partition; one without is absent."""

    def read(self, topic: Topic, partition: int, first: int = 0, end: int | None = None) -> Iterator[Record]:
        """Yield the committed records from ``first`` up to, but not with, ``end``."""


class Stores(Protocol):
    """The audit log, as far as it is asked."""

    def known(self, audit_ids: Sequence[uuid.UUID]) -> set[uuid.UUID]:
        """Return which of these have a row."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A webhook that leads to something that is missing. ``mails`` are the new audit events that forward would send or close."""

    record: Record
    teams: tuple[str, ...]
    events: tuple[AuditRecord, ...]

    @property
    def place(self) -> str:
        """Where the webhook stands."""
        return f"{self.record.topic}:{self.record.partition}:{self.record.offset}"


@dataclass(slots=True)
class Shadow:
    """What would be after the replay. ``pending`` counts the webhooks that normalise has not worked in. ``tiers`` holds (from, to) by team where they differ, ``mails`` counts by what forward would do now."""

    webhooks: int = 0
    pending: int = 0
    parked: Counter[str] = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)
    tiers: dict[str, tuple[str, str]] = field(default_factory=dict)
    rows: Counter[str] = field(default_factory=Counter)
    mails: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> Json:
        """Return what ``--json`` prints."""
        return {
            "webhooks": self.webhooks,
            "pending": self.pending,
            "parked": dict(self.parked),
            "differ": len(self.differences),
            "tiers": [{"team_id": team, "from": was, "to": now} for team, (was, now) in sorted(self.tiers.items())],
            "rows": dict(self.rows),
            "mails": dict(self.mails),
        }


def shadow(settings: Settings, logs: Logs, stores: Stores, starts: Mapping[int, int], now: datetime | None = None) -> Shadow:
    """Decide the webhooks of some partitions again, from the offsets in ``starts`` up to what normalise has worked in. Reads only."""
    return _Shadow(settings, logs, stores, now or datetime.now(UTC)).run(starts)


class _Shadow:
    def __init__(self, settings: Settings, logs: Logs, stores: Stores, now: datetime) -> None:
        self._settings, self._logs, self._stores, self._now = settings, logs, stores, now
        self._normalise, self._classify = NormaliseStage(settings, load_rules(settings)), ClassifyStage(settings)
        self._policy = Policy(settings.forward == "on", timedelta(seconds=settings.forward_max_age_seconds))
        self._teams = self._tables(CLASSIFY_CHANGELOG, range(settings.partitions))
        self._found = Shadow()
        self._emitted: set[uuid.UUID] = set()

    def run(self, starts: Mapping[int, int]) -> Shadow:
        bounds = self._logs.bounds(RAZORPAY_WEBHOOKS)
        worked_in = self._logs.committed(self._normalise.name, RAZORPAY_WEBHOOKS)
        links = self._tables(NORMALISE_CHANGELOG, starts)
        for number, start in starts.items():
            end = min(worked_in.get(number, 0), bounds[number].end)
            # Counted by reading: the end of a log counts the markers of transactions too.
            behind = self._logs.read(RAZORPAY_WEBHOOKS, number, max(end, start, bounds[number].first), bounds[number].end)
            self._found.pending += sum(1 for _ in behind)
            self._decide(self._logs.read(RAZORPAY_WEBHOOKS, number, max(start, bounds[number].first), end), links)
        found = self._found
        found.tiers = {team: tiers for team, tiers in found.tiers.items() if tiers[0] != tiers[1]}
        return found

    def _decide(self, webhooks: Iterator[Record], links: dict[int, dict[bytes, bytes]]) -> None:
        for each in replay(self._normalise, webhooks, self._settings.partitions, links):
            if each.step.reason is Reason.REROUTED:
                continue
            self._found.webhooks += 1
            if each.step.reason in DEAD_LETTER_REASONS:
                self._found.parked[each.step.reason.value] += 1
            teams, events = dict[str, None](), list[AuditRecord]()
            for output in each.step.outputs:
                if output.topic == TEAM_EVENTS.full_name(self._settings):
                    self._merge(each.record, output, teams, events)
                else:
                    events += self._audit_events((output,))
            new = self._new(events)
            if teams or new:
                self._note(Difference(each.record, tuple(teams), tuple(new)))

    def _merge(self, webhook: Record, fact: Output, teams: dict[str, None], events: list[AuditRecord]) -> None:
        """Let classify decide on a fact; note the team whose row it changes, and the audit events."""
        key = fact.key or b""
        number = partition_of(key, self._settings.partitions)
        record = Record(fact.topic, number, -1, webhook.timestamp, 1, key, fact.value, None, 0, 0, fact.headers)
        (each,) = replay(self._classify, (record,), self._settings.partitions, self._teams)
        if each.before != each.after:
            team = key.decode()
            teams[team] = None
            was, _ = self._found.tiers.get(team, (self._tier(each.before), ""))
            self._found.tiers[team] = was, self._tier(each.after)
        events += self._audit_events(each.step.outputs)

    def _audit_events(self, outputs: Sequence[Output]) -> list[AuditRecord]:
        name = AUDIT_EVENTS.full_name(self._settings)
        read = (read_audit_record(output.value) for output in outputs if output.topic == name)
        return [event for event in read if isinstance(event, AuditRecord) and event.id not in self._emitted]

    def _new(self, events: Sequence[AuditRecord]) -> list[AuditRecord]:
        known = self._stores.known([event.id for event in events]) if events else set()
        new = [event for event in events if event.id not in known]
        self._emitted.update(event.id for event in events)
        return new

    def _note(self, difference: Difference) -> None:
        found = self._found
        found.differences.append(difference)
        for event in difference.events:
            found.rows[event.kind.value] += 1
            match decide(event, None, self._now, self._policy):
                case Send():
                    found.mails["to be sent"] += 1
                case Close(classification):
                    found.mails[classification.value] += 1
                case _:
                    pass

    def _tier(self, packed: bytes | None) -> str:
        return standing(EMPTY if packed is None else unpack(packed), self._settings.initial).tier.label

    def _tables(self, changelog: Topic, partitions: "Sequence[int] | Mapping[int, int]") -> dict[int, dict[bytes, bytes]]:
        tables: dict[int, dict[bytes, bytes]] = {}
        for number in partitions:
            table = TablePartition(number)
            for record in self._logs.read(changelog, number):
                table.apply(record.key or b"", record.value)
            tables[number] = table.rows
        return tables
