"""A slice: what it produces, compared with the same records decided one by one."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import orjson
import pytest
import structlog

from agents.classify.packing import unpack
from agents.classify.stage import ClassifyStage
from agents.normalise.decide import Rules
from agents.normalise.rows import unpack as unpack_subscription
from agents.normalise.stage import NormaliseStage
from schemas.reasons import Reason
from schemas.tiers import Tier
from streams.engine.changelog import TablePartition
from streams.engine.due_times import DueTimes
from streams.engine.replay import replay
from streams.engine.slices import MAX_FAILURES_IN_A_ROW, MAX_GROWTH, MIN_RECORDS, SLICE_SECONDS, Slices, slice_records
from streams.engine.table_stage import MAX_OUTPUT_BYTES, SMALL_BYTES, Effect, Run, TableStage
from streams.engine.transactions import Output
from streams.errors import StageFailed
from streams.kafka.records import Record
from streams.settings import Settings
from tests import factories
from tests.factories import Event, billing, claim, override, service
from tests.transaction_doubles import INPUT, Alarms
from tests.webhooks import EVENT_ID, SUBSCRIPTION, TEAM, body, record

SETTINGS = Settings(topic_prefix="x.", partitions=1)
CHANGELOG = "x.changelog"
NEVER = float("inf")
Produced = tuple[str, bytes | None, bytes | None]


class Log:
    """Stands for the open transaction."""

    def __init__(self) -> None:
        self.produced: list[Produced] = []

    def produce(self, outputs: Iterable[Output]) -> None:
        self.produced += [(output.topic, output.key, output.value) for output in outputs]

    def of(self, topic: str) -> list[Produced]:
        return [produced for produced in self.produced if produced[0] == topic]


def filled(
    stage: TableStage, records: Sequence[Record], table: TablePartition | None = None
) -> tuple[Log, TablePartition, Counter[Reason]]:
    """Fill slices until all of ``records`` are in."""
    log, table, outcomes = Log(), table or TablePartition(0), Counter[Reason]()
    slices, end = Slices(SETTINGS, stage, CHANGELOG, table), 0
    while end < len(records):
        end, some = slices.fill(records, end, MIN_RECORDS, NEVER, log.produce)
        outcomes += some
    return log, table, outcomes


def team_event(event: Event, offset: int = 0) -> Record:
    key = str(event["subject"]).encode()
    return record(orjson.dumps(event), key, topic="x.team.events", timestamp=factories.RECEIVED_AT * 1000, offset=offset)


def by_key(produced: Iterable[Produced]) -> dict[bytes | None, list[bytes | None]]:
    """The values of each key, in order: across keys a slice promises none."""
    values: dict[bytes | None, list[bytes | None]] = defaultdict(list)
    for _, key, value in produced:
        values[key].append(value)
    return values


def mixed(seed: int, count: int) -> Iterator[Event]:
    chance = random.Random(seed)
    teams = [f"00000000-0000-4000-8000-{number:012}" for number in range(7)]
    for at in range(count):
        team, sub = chance.choice(teams), chance.choice("AB")
        plan = chance.choice(("plan_pro", "plan_growth", "plan_hobby"))
        yield chance.choice(
            (
                billing("charged", at=at, team=team, subscription=f"sub_{sub}", plan=plan, paid_count=at),
                billing("charged", at=chance.randrange(at + 1), team=team, subscription=f"sub_{sub}", plan=plan),
                billing("cancelled", at=at, team=team, subscription=f"sub_{sub}"),
                billing("pending", at=at, team=team, subscription=f"sub_{sub}"),
                claim(at, team=team),
                override(at, chance.choice(("pro", "free")), team=team),
                service("near_quota_wall", at, team=team, resource_type="disk", used=9, limit=10.5),
                billing("charged", at=at, team=team, plan="plan_of_nobody"),
            )
        )


@pytest.mark.parametrize("seed", range(5))
def test_slice_leaves_what_the_records_one_by_one_leave_but_for_current_tiers_that_are_overwritten_in_it(seed: int) -> None:
    stage = ClassifyStage(SETTINGS)
    records = [team_event(event, offset) for offset, event in enumerate(mixed(seed, MIN_RECORDS))]
    rows: dict[int, dict[bytes, bytes]] = defaultdict(dict)
    expected: list[Produced] = []
    for again in replay(stage, records, 1, rows):
        expected += [(output.topic, output.key, output.value) for output in again.step.outputs]

    log, table, outcomes = filled(stage, records)

    assert by_key(log.of("x.audit.events")) == by_key([produced for produced in expected if produced[0] == "x.audit.events"])
    assert table.rows == rows[0]
    newest = {key: value for topic, key, value in expected if topic == "x.tier.current"}
    assert {key: value for _, key, value in log.of("x.tier.current")} == newest
    assert len(log.of("x.tier.current")) == len(newest)
    assert sorted(log.of(CHANGELOG), key=lambda produced: produced[1] or b"") == [(CHANGELOG, *row) for row in sorted(rows[0].items())]
    assert len(log.of("x.dead.letters")) == outcomes[Reason.UNKNOWN_PLAN] > 0
    assert sum(outcomes.values()) == MIN_RECORDS


def test_slice_writes_the_current_tier_and_the_row_of_a_team_once_and_the_newest() -> None:
    events = [team_event(billing("charged", at=at, plan=plan, paid_count=at)) for at, plan in ((1, "plan_pro"), (2, "plan_growth"))]

    log, table, _ = filled(ClassifyStage(SETTINGS), events)

    ((_, _, current),) = log.of("x.tier.current")
    assert orjson.loads(current or b"")["data"]["tier"] == "growth"
    assert [orjson.loads(value or b"")["data"]["metadata"]["to"] for _, _, value in log.of("x.audit.events")] == ["pro", "growth"]
    assert log.of(CHANGELOG) == [(CHANGELOG, TEAM.encode(), table.rows[TEAM.encode()])]


def test_slice_goes_on_from_the_rows_that_a_restore_put_in_the_place_of_others() -> None:
    table = TablePartition(0)
    slices, log = Slices(SETTINGS, ClassifyStage(SETTINGS), CHANGELOG, table), Log()
    slices.fill([team_event(billing("charged", at=9))], 0, MIN_RECORDS, NEVER, log.produce)
    table.rows.clear()

    slices.forget()
    _, outcomes = slices.fill([team_event(billing("charged", at=9))], 0, MIN_RECORDS, NEVER, log.produce)

    assert outcomes == {Reason.UPGRADED: 1}, "and no duplicate of what the table no longer holds"


def test_slice_keeps_the_row_of_a_record_that_is_parked() -> None:
    stage = NormaliseStage(SETTINGS, Rules({"plan_pro": Tier.PRO}, "team_id", None))
    document = body()
    document["payload"]["subscription"]["entity"]["plan_id"] = "plan_of_nobody"
    headers = (("razorpay-event-id", EVENT_ID.encode()),)
    webhook = record(orjson.dumps(document), SUBSCRIPTION.encode(), topic="x.razorpay.webhooks", headers=headers)

    log, table, outcomes = filled(stage, [webhook])

    assert outcomes == {Reason.UNKNOWN_PLAN: 1}
    assert {key: unpack_subscription(row).ownership.learned for key, row in table.rows.items()} == {SUBSCRIPTION.encode(): TEAM}
    assert [topic for topic, _, _ in log.produced] == ["x.audit.events", "x.dead.letters", CHANGELOG]


def test_slice_a_row_that_grows_too_large_within_it_parks_the_record_that_it_can_not_hold() -> None:
    """No record is large by itself, and nothing is packed before the slice ends: the growth of a key's row is counted."""
    name = "x" * 400
    claims = [team_event(claim(0, name=name, user_id="u"))]
    long_ids = [f"sub_{number}_{'y' * (SMALL_BYTES // 2)}" for number in range(150)]
    growing = [team_event(billing("charged", at=at, subscription=id)) for at, id in enumerate(long_ids)]

    log, table, outcomes = filled(ClassifyStage(SETTINGS), claims + growing)

    assert outcomes[Reason.TOO_LARGE] > 0
    assert len(table.rows[TEAM.encode()]) <= MAX_OUTPUT_BYTES
    assert len(unpack(table.rows[TEAM.encode()]).live) == len(growing) - outcomes[Reason.TOO_LARGE]
    assert len(log.of("x.dead.letters")) == outcomes[Reason.TOO_LARGE]


def test_slice_a_row_that_grows_too_large_by_usual_facts_parks_the_record_that_it_can_not_hold() -> None:
    long_plans = [f"plan_{number}_{'y' * (SMALL_BYTES // 2)}" for number in range(150)]
    growing = [team_event(billing("charged", at=at, plan=plan, tier="pro")) for at, plan in enumerate(long_plans)]

    log, table, outcomes = filled(ClassifyStage(SETTINGS), growing)

    assert outcomes[Reason.TOO_LARGE] > 0
    assert len(table.rows[TEAM.encode()]) <= MAX_OUTPUT_BYTES
    assert len(log.of("x.dead.letters")) == outcomes[Reason.TOO_LARGE]


class ShortWayFails(ClassifyStage):
    """Classify, with a release in it whose fast path fails."""

    def run(self, records: Sequence[Record], start: int, row: Any) -> Run | None:
        raise ZeroDivisionError("owner@example.com")


def test_slice_decides_one_by_one_where_the_shorter_way_fails() -> None:
    records = [team_event(event, offset) for offset, event in enumerate(mixed(1, 100))]

    with structlog.testing.capture_logs() as logs:
        log, table, outcomes = filled(ShortWayFails(SETTINGS), records)

    expected, expected_table, expected_outcomes = filled(ClassifyStage(SETTINGS), records)
    assert (log.produced, table.rows, outcomes) == (expected.produced, expected_table.rows, expected_outcomes)
    assert len(logs) == 1, "once, and not for each record"


def test_slice_takes_all_of_a_busy_keys_usual_records_the_fast_path() -> None:
    """Many small records of one key make its row no larger, and so need no measuring."""
    stage = Counted(SETTINGS)
    records = [team_event(billing("charged", at=at, paid_count=at), offset=at) for at in range(400)]

    filled(stage, records)

    assert stage.one_by_one == 1


class Counted(ClassifyStage):
    """Classify, counting the records that it decides on one by one."""

    one_by_one = 0

    def effect(self, record: Record, row: Any) -> Effect:
        self.one_by_one += 1
        return super().effect(record, row)


@pytest.mark.parametrize(
    ("allowed", "done", "seconds", "next_allowed"),
    [
        (1_000, 1_000, 0.01, 1_000 * MAX_GROWTH),
        (20_000, 20_000, SLICE_SECONDS, 20_000),
        (20_000, 20_000, 2 * SLICE_SECONDS, 10_000),
        (20_000, 10, 0.0, 20_000),
        (20_000, 10_000, 2 * SLICE_SECONDS, 5_000),
        (20_000, 3, 0.0025, 20_000),
        (20_000, 3, 2 * SLICE_SECONDS, MIN_RECORDS),
        (300, 300, 60.0, MIN_RECORDS),
    ],
    ids=[
        "grows by steps",
        "fits",
        "was too long",
        "input ended early",
        "input ended early, and it was too long",
        "few records say nothing",
        "but that they are slow",
        "never too few",
    ],
)
def test_slice_records_follow_how_long_the_last_slice_took(allowed: int, done: int, seconds: float, next_allowed: int) -> None:
    assert slice_records(allowed, done, seconds) == next_allowed


@pytest.mark.parametrize("by_key", [True, False])
def test_slice_takes_as_many_records_as_it_may(by_key: bool) -> None:
    stage = ClassifyStage(SETTINGS)
    stage.by_key = by_key
    records = [team_event(billing("charged", at=at, paid_count=at), offset=at) for at in range(4 * MIN_RECORDS)]
    slices, log = Slices(SETTINGS, stage, CHANGELOG, TablePartition(0)), Log()

    first, _ = slices.fill(records, 0, MIN_RECORDS, NEVER, log.produce)
    last, outcomes = slices.fill(records, first, len(records), NEVER, log.produce)

    assert first == MIN_RECORDS
    assert last == len(records)
    assert outcomes.total() == last - first


def test_slice_of_a_stage_in_order_ends_when_its_time_is_up() -> None:
    stage = ClassifyStage(SETTINGS)
    stage.by_key = False
    records = [team_event(billing("charged", at=at, paid_count=at), offset=at) for at in range(3 * MIN_RECORDS)]
    slices, log = Slices(SETTINGS, stage, CHANGELOG, TablePartition(0)), Log()

    end, outcomes = slices.fill(records, 0, len(records), 0.0, log.produce)

    assert end == outcomes.total() == MIN_RECORDS, "what it has begun is worth a transaction"


class FailsForOneTeam(ClassifyStage):
    """Classify, with a release in it that can not cope with one team."""

    def effect(self, record: Record, row: Any) -> Effect:
        if record.key == TEAM.encode():
            raise ZeroDivisionError
        return super().effect(record, row)


def test_slice_failures_of_one_key_that_come_together_by_key_do_not_stop_the_worker() -> None:
    other = "00000000-0000-4000-8000-000000000001"
    teams = [TEAM, other] * (MAX_FAILURES_IN_A_ROW + 1)
    records = [team_event(billing("charged", at=at, team=team), offset=at) for at, team in enumerate(teams)]

    with structlog.testing.capture_logs():
        log, _, outcomes = filled(FailsForOneTeam(SETTINGS), records)

    assert outcomes[Reason.HANDLER_FAILED] == len(log.of("x.dead.letters")) == MAX_FAILURES_IN_A_ROW + 1


def test_slice_a_busy_key_whose_row_stayed_small_is_not_measured_in_the_next_slice() -> None:
    slices, log = Slices(SETTINGS, ClassifyStage(SETTINGS), CHANGELOG, TablePartition(0)), Log()
    first = [team_event(override(at, "pro", reason="x" * 500), offset=at) for at in range(200)]

    slices.fill(first, 0, MIN_RECORDS, NEVER, log.produce)

    assert not slices._cached[TEAM.encode()].large


# Coming times


def waiting(stage: Alarms, *ats: int) -> tuple[Slices, TablePartition, Log]:
    table, times = TablePartition(3), DueTimes(stage.due_at)
    table.rows.update((b"team %d" % number, b"%d" % at) for number, at in enumerate(ats))
    times.fill(table.rows)
    return Slices(SETTINGS, stage, CHANGELOG, table, times), table, Log()


def test_slice_produces_what_has_passed_and_no_more_than_it_may() -> None:
    slices, _, log = waiting(Alarms(), 5, 3, 4, 100)

    assert slices.fill_due(50, 2, log.produce) == 2
    assert [value for _, _, value in log.produced] == [b"due 3", b"due 4"]
    assert slices.fill_due(50, 0, log.produce) == 0
    assert slices.fill_due(50, 2, log.produce) == 1
    assert log.produced[-1] == (INPUT, b"team 0", b"due 5")


def test_slice_produces_what_has_passed_to_the_partition_that_holds_the_row() -> None:
    slices, _, _ = waiting(Alarms(), 5)
    produced: list[Output] = []

    slices.fill_due(50, 10, produced.extend)

    assert [output.partition for output in produced] == [3]


def test_slice_notes_the_coming_times_of_the_rows_that_it_writes() -> None:
    slices, _, log = waiting(Alarms(), 5)
    again = [record(b"wake 7", b"team 0", topic=INPUT), record(b"wake 6", b"new", topic=INPUT)]

    slices.fill(again, 0, MIN_RECORDS, NEVER, log.produce)
    assert slices.fill_due(50, 10, log.produce) == 2

    assert log.of(INPUT) == [(INPUT, b"new", b"due 6"), (INPUT, b"team 0", b"due 7")]


def test_slice_does_not_produce_again_what_is_under_way_when_the_row_waits_for_another_time_and_back() -> None:
    slices, _, log = waiting(Alarms(), 5)
    away_and_back = [record(b"wake 7", b"team 0", topic=INPUT), record(b"wake 5", b"team 0", topic=INPUT)]

    slices.fill_due(50, 10, log.produce)
    for each in away_and_back:
        slices.fill([each], 0, MIN_RECORDS, NEVER, log.produce)
    assert slices.fill_due(50, 10, log.produce) == 0

    slices.fill([record(b"due 5", b"team 0", topic=INPUT), *away_and_back], 0, MIN_RECORDS, NEVER, log.produce)
    assert slices.fill_due(50, 10, log.produce) == 1
    assert log.of(INPUT) == [(INPUT, b"team 0", b"due 5")] * 2


def test_slice_produces_again_what_was_under_way_once_the_rows_are_restored() -> None:
    slices, table, log = waiting(Alarms(), 5)

    slices.fill_due(50, 10, log.produce)
    slices.forget()
    slices._due_times.fill(table.rows)

    assert slices.fill_due(50, 10, log.produce) == 1


class SaysNothing(Alarms):
    """With a release in it that can not say what has passed."""

    def due_records(self, key: bytes, packed: bytes, now: int) -> Sequence[Output]:
        raise ZeroDivisionError


def test_slice_of_a_stage_that_can_not_say_what_has_passed_for_any_row_fails() -> None:
    slices, _, log = waiting(SaysNothing(), *range(1, MAX_FAILURES_IN_A_ROW + 1))

    with structlog.testing.capture_logs(), pytest.raises(StageFailed, match="classify failed on 100 rows in a row"):
        slices.fill_due(1_000, 1_000, log.produce)
