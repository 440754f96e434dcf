"""What a stack would write for the demo's scenario: the pure decisions in one process, with lists for topics.

It shares the stages with the real stack and nothing else, so the demo's accounting can be tested (and falsified) without one.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from aiokafka import ConsumerRecord

from agents.audit import decide as audit
from agents.audit.record import AuditRecord, read_audit_record
from agents.classify.stage import ClassifyStage
from agents.forward import decide as forward
from agents.normalise.plans import load_rules
from agents.normalise.stage import NormaliseStage
from schemas.razorpay import landing_key
from schemas.reasons import Reason
from streams.demo.accounting import Evidence
from streams.demo.deliveries import EVENTS, Delivery
from streams.demo.scenario import MISSING_PLAN, Scenario
from streams.engine.changelog import Position, encode_position, position_key
from streams.engine.table_stage import TableStage, step_of
from streams.gateway.ingest import accept
from streams.kafka.dead_letters import Origin, dead_letter_headers
from streams.kafka.partitioner import partition_of
from streams.kafka.records import Record
from streams.operate.dead_letters.letters import Action, DeadLetter, read
from streams.operate.dead_letters.outcomes import Decree, outcome
from streams.operate.dead_letters.plan import Item
from streams.settings import Settings
from streams.stores.audit_log import AuditRow
from streams.topics import CLASSIFY_CHANGELOG, NORMALISE_CHANGELOG

Row = tuple[bytes, bytes]


@dataclass
class Log:
    """Topics as lists of records. Time goes on by a millisecond with each record."""

    partitions: int
    now_ms: int
    topics: defaultdict[str, list[Record]] = field(default_factory=lambda: defaultdict(list))

    def append(self, topic: str, key: bytes | None, value: bytes | None, headers: Any = (), partition: int | None = None) -> Record:
        """Add a record to the partition of its key, unless another is given, and return it."""
        self.now_ms += 1
        partition = partition_of(key or b"", self.partitions) if partition is None else partition
        offset = sum(record.partition == partition for record in self.topics[topic])
        made = record(topic, key, value, headers, partition=partition, offset=offset, timestamp=self.now_ms)
        self.topics[topic].append(made)
        return made

    def held(self, topic: str) -> tuple[Record, ...]:
        """The records of ``topic`` by partition and offset."""
        return tuple(sorted(self.topics[topic], key=lambda record: (record.partition, record.offset)))


def record(
    topic: str, key: bytes | None, value: bytes | None, headers: Any = (), *, partition: int = 0, offset: int = 0, timestamp: int = 0
) -> Record:
    """Return a consumed record."""
    return ConsumerRecord(topic, partition, offset, timestamp, 0, key, value, None, len(key or b""), len(value or b""), headers)


class PretendedStage:
    """A stage with its table, working in one record at a time."""

    def __init__(self, stage: TableStage, log: Log, changelog: str) -> None:
        self._stage, self._log, self._changelog = stage, log, changelog
        self._rows: dict[bytes, bytes] = {}
        self._positions: dict[tuple[str, int], Position] = {}
        self.counted: Counter[str] = Counter()

    def work_in(self, record: Record) -> list[Record]:
        """Decide on ``record`` and return what was produced."""
        step = step_of(self._stage, record, self._rows)
        if step.key is not None and step.row is not None:
            self._rows[step.key] = step.row
            self._log.append(self._changelog, step.key, step.row, partition=record.partition)
        self.counted[step.reason] += 1
        self._advance(record, step.reason)
        if step.error is not None:
            origin = Origin(self._stage.name, record.topic, record.partition, record.offset)
            headers = dead_letter_headers(record.headers, origin, step.reason, step.error)
            self._log.append("dead.letters", record.key, record.value, headers)
        return [self._log.append(output.topic, output.key, output.value, output.headers) for output in step.outputs]

    def let_time_pass(self) -> None:
        """Produce, and decide on, what has come due of the times that rows wait for: what a worker does within a second."""
        for key in list(self._rows):
            now = self._log.now_ms // 1000
            while 0 < self._stage.due_at(self._rows[key]) <= now:
                for output in self._stage.due_records(key, self._rows[key], now):
                    self.work_in(self._log.append(output.topic, output.key, output.value, output.headers))

    def _advance(self, record: Record, reason: Reason) -> None:
        where = (record.topic, record.partition)
        position = self._positions.get(where, Position(topic_id_of(record.topic), 0))
        self._positions[where] = position = position.advanced(record.offset + 1, Counter([reason]))
        self._log.append(self._changelog, position_key(record.topic), encode_position(position), partition=record.partition)


def topic_id_of(topic: str) -> str:
    """The id of a pretended topic."""
    return f"id of {topic}"


@dataclass(frozen=True)
class Pretended:
    """What a stack holds that does everything right."""

    log: Log
    answers: tuple[tuple[Delivery, int], ...]
    counted: dict[str, Counter[str]]
    rows: Mapping[str, AuditRow]
    ledger: Mapping[str, str]
    mails: tuple[dict[str, Any], ...]


def pretend(scenario: Scenario, settings: Settings, now: float) -> Evidence:
    """Return the evidence that a stack leaves which does everything right."""
    pretended = played_out(scenario, settings, now, puts_right=True)
    log = pretended.log
    return Evidence(
        answers=pretended.answers,
        webhooks=log.held("razorpay.webhooks"),
        team_events=log.held("team.events"),
        audit_events=log.held("audit.events"),
        tiers=log.held("tier.current"),
        dead_letters=log.held("dead.letters"),
        counted=pretended.counted,
        rows=tuple(pretended.rows.values()),
        ledger=pretended.ledger,
        mails=pretended.mails,
    )


def played_out(scenario: Scenario, settings: Settings, now: float, *, puts_right: bool = False) -> Pretended:
    """Play ``scenario`` on a pretended stack, to its end; ``puts_right`` says whether the plan that is missing is added and replayed then, as
    the plan file of ``settings`` has it."""
    log = Log(settings.partitions, int(now * 1000))
    rules = load_rules(settings)
    stage = NormaliseStage(settings, replace(rules, plans={plan: tier for plan, tier in rules.plans.items() if plan != MISSING_PLAN}))
    normalise = PretendedStage(stage, log, NORMALISE_CHANGELOG.name)
    classify = PretendedStage(ClassifyStage(settings), log, CLASSIFY_CHANGELOG.name)
    answers = []
    for delivery in scenario.deliveries:
        status = (
            401 if delivery.is_forged else 202 if delivery.route == EVENTS else 200 if landing_key(delivery.body).is_json_object else 400
        )
        answers.append((delivery, status))
        headers = [("razorpay-event-id", delivery.event_id.encode()), ("received-at", b"%d" % log.now_ms)]
        if status == 400:
            kept = dead_letter_headers(headers, Origin("gateway", "razorpay.webhooks"), Reason.MALFORMED, "No JSON object.")
            log.append("dead.letters", delivery.event_id.encode(), delivery.body, kept)
        elif status == 202:
            _, records = accept([orjson.loads(delivery.body)], "default", datetime.fromtimestamp(now, UTC), "team.events")
            classify.work_in(log.append("team.events", records[0].key, records[0].value, records[0].headers))
            classify.let_time_pass()
        elif status == 200:
            key = landing_key(delivery.body).subscription_id or delivery.event_id
            for produced in normalise.work_in(log.append("razorpay.webhooks", key.encode(), delivery.body, headers)):
                if produced.topic == "team.events":
                    classify.work_in(produced)
            classify.let_time_pass()
    if puts_right:
        stage.rules = rules
        for letter in [each for each in log.topics["dead.letters"] if dict(each.headers)["dlq-reason"] == Reason.UNKNOWN_PLAN.encode()]:
            for produced in normalise.work_in(_replayed(settings, log, letter, now)):
                classify.work_in(produced)
    rows, ledger, mails = _ends(log, datetime.fromtimestamp(now, UTC))
    counted = {"normalise": normalise.counted, "classify": classify.counted}
    return Pretended(log, tuple(answers), counted, rows, ledger, tuple(mails))


def _replayed(settings: Settings, log: Log, record: Record, now: float) -> Record:
    """Replay one dead letter; return the record that stands on its topic again."""
    letter = read(record, "")
    assert isinstance(letter, DeadLetter)
    item = Item(letter.place, letter.identity, letter.origin or letter.place)
    decree = Decree(Action.REPLAYED, "the plan is there now", "kim", now)
    again, *_ = [
        log.append(each.topic, each.key, each.value, each.headers, each.partition) for each in outcome(settings, letter, item, decree)
    ]
    return again


def _ends(log: Log, now: datetime) -> tuple[Mapping[str, AuditRow], Mapping[str, str], list[dict[str, Any]]]:
    """What audit and forward make of ``audit.events``."""
    rows: dict[str, AuditRow] = {}
    ledger: dict[str, str] = {}
    mails: list[dict[str, Any]] = []
    for event in log.topics["audit.events"]:
        row, decoded = audit.decide(event.value), read_audit_record(event.value)
        assert isinstance(row, AuditRow)
        assert isinstance(decoded, AuditRecord)
        if str(row.id) in rows:
            continue
        rows[str(row.id)] = row
        match forward.decide(decoded, None, now, forward.Policy(max_age=timedelta(days=400))):
            case forward.Send(payload):
                ledger[str(row.id)] = "sent"
                properties = payload.event_properties
                mails.append({"idempotency_key": str(row.id), "email": payload.email, "eventName": row.kind, "eventProperties": properties})
            case forward.Close(classification):
                ledger[str(row.id)] = classification.value
    return rows, ledger, mails
