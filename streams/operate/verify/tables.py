"""One partition of one deciding stage: its table as the changelog holds it, against its input decided again."""

import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import msgspec
import orjson

from agents.classify.facts import TeamEvent, read_team_event
from agents.classify.packing import unpack
from agents.classify.registers import EMPTY, standing
from schemas.reasons import Reason
from schemas.tiers import Tier
from streams.engine.changelog import InputPartition, Position, TablePartition, checked
from streams.engine.replay import replay
from streams.engine.table_stage import Step, TableStage
from streams.errors import PositionError, SnapshotError
from streams.kafka.partitioner import partition_of
from streams.kafka.records import Record
from streams.logging import mask_email
from streams.operate.logs import Bounds, Logs
from streams.operate.verify.dead_letters import Decided
from streams.operate.verify.due_records import DueRecords
from streams.operate.verify.evidence import ANYWHERE, STAGES, TOPICS, Evidence
from streams.operate.verify.outputs import MEANWHILE
from streams.operate.verify.report import Check, Report
from streams.operate.verify.shuffle import counterexample
from streams.operate.verify.snapshot import Resumed, Snapshot, SnapshotWriter, Table, resumed
from streams.operate.verify.traces import Decision, decided_event, decided_fact, parked, recorded_fact
from streams.settings import Settings
from streams.topics import AUDIT_EVENTS, TEAM_EVENTS, TIER_CURRENT, Topic, group_id

StageName = Literal["normalise", "classify"]
NOT_WORKED_IN = "not worked in yet"
_MAX_SHOWN_KEY = 60


@dataclass(frozen=True, slots=True)
class Deciding:
    """A stage with a table, and the topics that it stands between. ``catch_up`` is called once the positions of a partition are read."""

    stage: TableStage
    changelog: Topic
    inputs: tuple[Topic, ...]
    catch_up: Callable[[], None] = lambda: None

    @property
    def index(self) -> int:
        """The stage, as traces name it."""
        return STAGES.index(self.stage.name)


@dataclass(slots=True)
class Input:
    """One input partition: read from ``begin`` up to ``end``, decided again from ``start`` up to ``limit``."""

    topic: Topic
    topic_id: str
    begin: int
    end: int
    start: int
    limit: int
    is_whole: bool
    is_counted: bool
    """Whether the counts of its position can be compared: the position is there, and right."""
    position: Position | None
    before: Mapping[str, int]
    """What was counted before the replay begins."""
    records: int = 0
    pending: int = 0
    again: Counter[str] = field(default_factory=Counter)

    @property
    def recorded(self) -> Counter[str]:
        """What the position counts of what is decided again."""
        counts = Counter(self.position.outcomes if self.position else {})
        counts.subtract(self.before)
        return Counter({reason: count for reason, count in counts.items() if count})

    @property
    def decided(self) -> Decided:
        """What was decided again, for the dead letters."""
        return Decided(self.start, self.limit, self.is_whole)

    @property
    def resumed(self) -> Resumed:
        """How far a snapshot accounts for it. What lies between a position and the log's end is no record when nothing is pending."""
        offset = self.limit if self.pending or not self.is_counted else max(self.limit, self.end)
        return Resumed(self.topic.name, self.topic_id, offset, dict(self.position.outcomes) if self.position else {})


@dataclass(frozen=True, slots=True)
class Found:
    """Where a verification puts what it finds in the tables."""

    events: Evidence
    facts: Evidence
    dead_letters: Evidence


class TableChecks:
    """The checks of the deciding stages. Partitions are verified one by one, in any order; memory holds one at a time."""

    def __init__(self, settings: Settings, logs: Logs, report: Report, stages: Mapping[StageName, Deciding], found: Found) -> None:
        self._settings, self._logs, self._found = settings, logs, found
        self._stages = stages
        self._positions = report.check("positions", "each lies within its log, and not behind what its group has read")
        self._outcomes = {name: report.check(f"{name}: outcomes", "one for each event, as decided again") for name in stages}
        self._tables = {name: report.check(f"{name}: table", "the rows are those of a replay") for name in stages}
        self._due = report.check("due records", "each says a time that its team's row waited for, and none came early")
        self._tiers = report.check("tier.current", "each team's newest record is the tier of its row")
        self._audit_events, self._team_events = AUDIT_EVENTS.full_name(settings), TEAM_EVENTS.full_name(settings)
        self._committed = {
            (name, topic.name): logs.committed(name, topic) for name, deciding in stages.items() for topic in deciding.inputs
        }
        self._ids = {topic.name: logs.topic_id(topic) for deciding in stages.values() for topic in deciding.inputs}
        self._is_team_events_cut = any(bounds.first for bounds in logs.bounds(TEAM_EVENTS).values())
        self.decided: dict[tuple[int, int, int], Decided] = {}
        """What was decided again, by stage, topic (indexes) and partition."""
        self.cut: dict[tuple[StageName, str], list[int]] = {}
        """Partitions, by stage and input topic, whose log does not reach back to where a replay must begin."""
        self.facts_read: dict[int, int] = {}
        """Up to where ``team.events`` was read."""

    def is_whole(self, stage: StageName, partition: int | None = None) -> bool:
        """Whether a partition of a stage (None: each) was decided again from the beginning."""
        index = self._stages[stage].index
        return all(decided.is_whole for (of, _, number), decided in self.decided.items() if of == index and partition in (None, number))

    def verify(
        self,
        name: StageName,
        partition: int,
        snapshot: Snapshot | None,
        writer: SnapshotWriter | None,
        tick: Callable[[], None],
        shuffle: "Shuffle | None" = None,
    ) -> None:
        """Verify one partition. Raises KafkaUnavailable, SnapshotError."""
        deciding = self._stages[name]
        tiers_sure = self._logs.bounds(TIER_CURRENT)[partition].end
        table = TablePartition(partition)
        for record in self._logs.read(deciding.changelog, partition):
            table.apply(record.key or b"", record.value)
        begun = snapshot.table(name, partition) if snapshot else Table([], {})
        inputs = [self._input(name, topic, table, begun.inputs) for topic in deciding.inputs]
        is_whole = all(each.is_whole for each in inputs)
        for each in inputs:
            each.is_whole = is_whole
            self.decided[deciding.index, TOPICS.index(each.topic.name), partition] = each.decided
        rows = dict(begun.rows)
        deciding.catch_up()
        self._decide_again(deciding, partition, inputs, rows, tick, shuffle, begun.rows)
        for each in inputs:
            self._compare_outcomes(self._outcomes[name], name, partition, each)
        if is_whole:
            self._compare_rows(self._tables[name], deciding, partition, table.rows, rows)
        else:
            self._tables[name].unchecked["rows of partitions that can not be replayed"] += len(table.rows)
        if name == "classify":
            self._compare_tiers(partition, rows if is_whole else table.rows, tiers_sure)
        if writer is not None:
            writer.add_table(name, partition, Table([each.resumed for each in inputs], table.rows))

    def note_fact(self, record: Record) -> None:
        """Keep the trace of a record of ``team.events`` that normalise wrote."""
        fact = recorded_fact(record)
        if fact is not None:
            self._found.facts.add(fact)

    def _input(self, name: StageName, topic: Topic, table: TablePartition, begun: list[Resumed]) -> Input:
        number, full_name = table.number, topic.full_name(self._settings)
        bounds: Bounds = self._logs.bounds(topic)[number]
        committed = self._committed[name, topic.name].get(number, 0)
        position = table.positions.get(full_name)
        found = InputPartition(full_name, number, self._ids[topic.name], bounds.first, bounds.end, committed)
        from_snapshot = resumed(begun, topic.name)
        if from_snapshot is not None and from_snapshot.topic_id != found.topic_id:
            raise SnapshotError(f"{full_name} was made anew since the snapshot was taken; take a new one.")
        start = from_snapshot.offset if from_snapshot else 0
        self._positions.compared += position is not None
        is_right, limit = True, position.next_offset if position else committed
        try:
            # Whatever retention deleted is reported elsewhere: it is not the position's fault.
            checked(position, replace(found, first=min(found.first, limit)), group_id(self._settings, name))
        except PositionError as error:
            self._positions.differs("position", str(error))
            is_right = False
        is_this_topic = position is None or position.topic_id == found.topic_id
        is_cut = bounds.first > start and limit > start
        if is_cut:
            self.cut.setdefault((name, topic.name), []).append(number)
        limit = max(limit, committed) if is_this_topic else 0  # what was committed was worked in, whatever the position says
        before = from_snapshot.outcomes if from_snapshot else {}
        begin = max(start, bounds.first)
        return Input(topic, found.topic_id, begin, bounds.end, start, limit, is_this_topic and not is_cut, is_right, position, before)

    def _decide_again(
        self,
        deciding: Deciding,
        partition: int,
        inputs: list[Input],
        rows: dict[bytes, bytes],
        tick: Callable[[], None],
        shuffle: "Shuffle | None",
        begun: Mapping[bytes, bytes],
    ) -> None:
        by_name = {each.topic.full_name(self._settings): each for each in inputs}
        # The log does not hold the order between two topics; their times are the nearest to it.
        records = heapq.merge(*(self._worked_in(each, partition, tick) for each in inputs), key=lambda record: record.timestamp)
        if not inputs[0].is_whole:
            for _ in records:
                pass
            return
        facts: dict[bytes, list[TeamEvent]] = {}
        due = DueRecords(self._due, rows) if deciding.stage.name == "classify" else None
        for record, step, _, after in replay(deciding.stage, records, self._settings.partitions, {partition: rows}):
            each = by_name[record.topic]
            each.again[step.reason] += 1
            where = Decision(deciding.index, TOPICS.index(each.topic.name), partition, record.offset, partition)
            self._note_step(where, record, step)
            if due is not None:
                due.judge(record, after)
            if shuffle is not None and step.error is None and step.reason is not Reason.REROUTED and record.key is not None:
                facts.setdefault(record.key, []).append(read_team_event(record.value, record.timestamp // 1000))
        if due is not None:
            due.finish(rows)
        if shuffle is not None:
            shuffle.try_orders(facts, begun)

    def _worked_in(self, each: Input, partition: int, tick: Callable[[], None]) -> Iterator[Record]:
        """Yield the records below the position. Those behind it are counted, and facts among all of them kept."""
        is_facts = each.topic is TEAM_EVENTS
        if is_facts:
            self.facts_read[partition] = each.end
        for record in self._logs.read(each.topic, partition, each.begin, each.end):
            tick()
            if is_facts:
                self.note_fact(record)
            if record.offset < each.limit:
                each.records += 1
                yield record
            else:
                each.pending += 1

    def _note_step(self, where: Decision, record: Record, step: Step) -> None:
        if step.error is not None:
            self._found.dead_letters.add(parked(where._replace(target=self._home(record.key))))
        for output in step.outputs:
            if output.topic == self._audit_events and output.value is not None:
                is_at_home = where.stage == STAGES.index("classify")
                event = decided_event(output.value, where if is_at_home else where._replace(target=self._home(output.key)))
                if event is not None:
                    self._found.events.add(event)
            elif output.topic == self._team_events:
                target = self._home(output.key) if self._is_team_events_cut else ANYWHERE
                fact = decided_fact(output.value, where._replace(target=target))
                if fact is not None:
                    self._found.facts.add(fact)

    def _home(self, key: bytes | None) -> int:
        return ANYWHERE if key is None else partition_of(key, self._settings.partitions)

    def _compare_outcomes(self, check: Check, name: StageName, partition: int, each: Input) -> None:
        where = f"{each.topic.name}, partition {partition}"
        recorded, total = each.recorded, each.recorded.total()
        if each.pending:
            check.pending[NOT_WORKED_IN] += each.pending
        if not each.is_counted:
            return
        check.compared += each.records
        is_compacted = each.topic.cleanup == "compact"
        if not each.is_whole or is_compacted:
            # Some of what was counted is no longer there.
            check.unchecked["counted and since deleted"] += max(0, total - each.records)
            if total < each.records:
                check.differs("total", f"{name} counted {total} outcomes of {where}, which holds {each.records} records up to there.")
        elif total != each.records:
            check.differs("total", f"{name} counted {total} outcomes of {where}, which holds {each.records} records up to there.")
        elif recorded != each.again:
            apart = sorted(reason for reason in recorded.keys() | each.again.keys() if recorded[reason] != each.again[reason])
            counts = ", ".join(f"{reason} {recorded[reason]} (a replay: {each.again[reason]})" for reason in apart)
            check.differs("reasons", f"{name} counted of {where}: {counts}.")

    def _compare_rows(
        self, check: Check, deciding: Deciding, partition: int, held: Mapping[bytes, bytes], again: Mapping[bytes, bytes]
    ) -> None:
        name = f"{deciding.changelog.name}, partition {partition}"
        check.compared += len(held)
        for key in held.keys() | again.keys():
            if key not in held:
                check.differs("missing", f"{name}, lacks the row of {shown(key)}.")
            elif key not in again:
                check.differs("unexplained", f"{name}, holds a row of {shown(key)}, which no event explains.")
            elif held[key] != again[key]:
                check.differs("changed", f"{name}, holds another row of {shown(key)} than a replay gives.")

    def _compare_tiers(self, partition: int, rows: Mapping[bytes, bytes], sure: int) -> None:
        check, initial = self._tiers, self._settings.initial
        newest: dict[bytes, Record] = {}
        for record in self._logs.read(TIER_CURRENT, partition):
            newest[record.key or b""] = record
        check.compared += len(newest)
        for key in rows.keys() | newest.keys():
            expected, record = _standing(rows.get(key), initial), newest.get(key)
            found = _current(record)
            if found == expected:
                continue
            if record is not None and record.offset >= sure:
                check.pending[MEANWHILE] += 1
            elif record is None:
                check.differs("missing", f"tier.current lacks team {shown(key)}, which is on {expected and expected[0]}.")
            elif expected is None:
                check.differs("unexplained", f"tier.current holds team {shown(key)}, of which there is no row.")
            else:
                check.differs("changed", f"tier.current has team {shown(key)} on {_worded(found)}, and its row is on {_worded(expected)}.")


@dataclass(slots=True)
class Shuffle:
    """The check that any order of each team's facts ends alike, in ``orders`` random orders a team."""

    check: Check
    initial: Tier
    orders: int
    seed: int

    def try_orders(self, facts: Mapping[bytes, list[TeamEvent]], begun: Mapping[bytes, bytes]) -> None:
        """Try the teams of one partition; ``begun`` holds the rows before the facts."""
        for key, events in facts.items():
            packed = begun.get(key)
            start = EMPTY if packed is None else unpack(packed)
            found = counterexample(key.decode(), start, events, self.initial, self.orders, self.seed)
            self.check.compared += self.orders
            if found is not None:
                self.check.differs("order", f"{found} (seed {self.seed})")


def shown(key: bytes) -> str:
    """Return a key for a sentence: it should be an id, and whatever it is, no address is shown."""
    text = key.decode("utf-8", "replace")[:_MAX_SHOWN_KEY]
    return mask_email(text) if "@" in text else text


Tiers = tuple[str, str | None]


def _standing(packed: bytes | None, initial: Tier) -> Tiers | None:
    if packed is None:
        return None
    try:
        found = standing(unpack(packed), initial)
    except (ValueError, msgspec.MsgspecError):
        return "a row that can not be read", None
    return found.tier.label, found.subscription_id


def _current(record: Record | None) -> Tiers | None:
    if record is None or record.value is None:
        return None
    try:
        data = orjson.loads(record.value)["data"]
        return data["tier"], data["subscription_id"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None


def _worded(tiers: Tiers | None) -> str:
    if tiers is None:
        return "nothing readable"
    tier, subscription = tiers
    return f"{tier} by {shown(subscription.encode())}" if subscription else tier
