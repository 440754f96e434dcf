"""What is replayed and what is left, in which order."""

import pytest

from schemas.reasons import Reason
from streams.operate.dead_letters.filters import Filters
from streams.operate.dead_letters.letters import Action
from streams.operate.dead_letters.open_letters import OpenLetters
from streams.operate.dead_letters.plan import Plan, chunks, make_plan
from tests.dead_letter_doubles import SETTINGS, MemoryLogs

REPLAYED, DISCARDED = Action.REPLAYED, Action.DISCARDED


def planned(logs: MemoryLogs, action: Action = REPLAYED, filters: Filters | None = None, **options: object) -> Plan:
    letters = OpenLetters(SETTINGS, logs)
    letters.catch_up()
    return make_plan(letters, (filters or Filters()).matches, action, **options)  # type: ignore[arg-type]


def test_plan_keeps_the_order_of_the_source_whatever_the_order_of_parking() -> None:
    logs = MemoryLogs()
    for offset in (9, 2, 5):
        logs.park(offset, source=1)
    logs.park(7)

    assert [(item.source.partition, item.source.offset) for item in planned(logs).items] == [(0, 7), (1, 2), (1, 5), (1, 9)]


def test_plan_a_dead_letter_that_a_crash_wrote_twice_is_replayed_once() -> None:
    logs = MemoryLogs()
    logs.park(3, stage="audit", topic="audit.events")
    logs.park(3, stage="audit", topic="audit.events")

    plan = planned(logs)

    assert (plan.matched.total(), len(plan.items)) == (1, 1)


@pytest.mark.parametrize(("filters", "matched"), [(Filters(), 2), (Filters(stage="audit"), 1)])
def test_plan_one_record_that_two_stages_parked_is_replayed_once_and_closes_both(filters: Filters, matched: int) -> None:
    logs = MemoryLogs()
    logs.park(3, stage="forward", topic="audit.events", reason=Reason.MALFORMED)
    logs.park(3, stage="audit", topic="audit.events", reason=Reason.MALFORMED, partition=2)

    (item,) = (plan := planned(logs, filters=filters)).items

    assert (plan.matched.total(), plan.to_do) == (matched, matched)
    assert {item.identity, *item.also} == {"audit audit.events:0:3", "forward audit.events:0:3"}


def test_plan_discarding_the_dead_letter_of_one_stage_leaves_that_of_the_other() -> None:
    logs = MemoryLogs()
    logs.park(3, stage="forward", topic="audit.events")
    logs.park(3, stage="audit", topic="audit.events")

    (item,) = planned(logs, DISCARDED, Filters(stage="audit")).items

    assert (item.identity, item.also) == ("audit audit.events:0:3", ())


@pytest.mark.parametrize(
    ("parked", "words"),
    [
        ({"stage": "gateway"}, "never on a topic"),
        ({"topic": "others.topic"}, "no stage reads that topic"),
        ({"topic": "tierstream.classify-teams-changelog"}, "no stage reads that topic"),
        ({"stage": "forward", "topic": "audit.events", "reason": Reason.REFUSED}, "deliveries resolve"),
        ({"stage": "normalise", "left_out": 9}, "without its value"),
    ],
)
def test_plan_what_a_replay_can_not_mend_is_left_with_what_to_do_and_can_be_discarded(parked: dict[str, object], words: str) -> None:
    logs = MemoryLogs()
    logs.park(3, **parked)  # type: ignore[arg-type]

    plan = planned(logs)

    assert (plan.items, plan.matched.total(), plan.left.total()) == ([], 1, 1)
    assert words in next(iter(plan.left))
    assert planned(logs, DISCARDED).to_do == 1


@pytest.mark.parametrize(("replays", "quarantined"), [(2, 0), (3, 1), (4, 1)])
def test_plan_a_record_that_was_replayed_three_times_is_quarantined(replays: int, quarantined: int) -> None:
    logs = MemoryLogs()
    logs.park(3, replays=replays)

    assert (planned(logs).quarantined, planned(logs).to_do) == (quarantined, 1 - quarantined)
    assert planned(logs, quarantined=True).to_do == planned(logs, DISCARDED).to_do == 1


def test_plan_takes_the_first_so_many_and_counts_the_rest() -> None:
    logs = MemoryLogs()
    for offset in range(5):
        logs.park(offset)

    plan = planned(logs, limit=2)

    assert [item.source.offset for item in plan.items] == [0, 1]
    assert list(plan.left.values()) == [3]


def test_chunks_are_of_one_partition_each_and_no_larger_than_asked() -> None:
    logs = MemoryLogs()
    for offset in range(5):
        logs.park(offset, partition=offset // 3)

    assert [[item.source.offset for item in chunk] for chunk in chunks(planned(logs).items, 2)] == [[0, 1], [2], [3, 4]]
