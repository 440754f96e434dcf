"""A stage that should move and does not is found; one that rests, waits for a service or moves is left alone."""

import dataclasses

import pytest

from streams.engine.watchdog import Snapshot, Watchdog

PARTITION = ("team.events", 3)
RESTING = Snapshot(True, False, {}, frozenset(), {}, {PARTITION: 10}, {PARTITION: 10})


def judged(*moments: tuple[float, Snapshot]) -> list[str | None]:
    watchdog = Watchdog("classify", 60.0)
    return [watchdog.judge(at, seen) for at, seen in moments]


def at(**changes: object) -> Snapshot:
    return dataclasses.replace(RESTING, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (at(assigned=False), "assigned it nothing"),
        (at(rebalancing=True), "a rebalance does not end"),
        (at(restoring={3: 42}), "partition 3 is not restored, 42 records"),
        (at(working=frozenset({PARTITION})), "team.events, partition 3, does not get past offset 10"),
        (at(ends={PARTITION: 12}), "read up to 10 of 12"),
    ],
)
def test_judge_what_does_not_move_for_the_time_is_named(seen: Snapshot, words: str) -> None:
    early, late = judged((0.0, seen), (59.0, seen))
    assert early is None
    assert late is None

    verdict = judged((0.0, seen), (60.0, seen))[1]
    assert verdict is not None
    assert words in verdict


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (RESTING, RESTING),
        (at(working=frozenset({PARTITION})), at(working=frozenset({PARTITION}), reached={PARTITION: 11})),
        (at(ends={PARTITION: 12}), at(ends={PARTITION: 90}, reached={PARTITION: 12})),
        (at(restoring={3: 42}), at(restoring={3: 43})),
        (at(rebalancing=True), RESTING),
        (at(assigned=False), RESTING),
        (at(ends={PARTITION: 12}), at(ends={})),
        (at(working=frozenset({PARTITION}), full=frozenset({PARTITION})), at(working=frozenset({PARTITION}), full=frozenset({PARTITION}))),
        (at(ends={PARTITION: 12}, full=frozenset({PARTITION})), at(ends={PARTITION: 12}, full=frozenset({PARTITION}))),
    ],
)
def test_judge_a_stage_that_rests_or_moves_is_left_alone(first: Snapshot, second: Snapshot) -> None:
    assert judged((0.0, first), (60.0, second), (61.0, second)) == [None, None, None]


def test_judge_a_partition_that_stands_still_is_found_while_others_of_its_stage_go_on() -> None:
    def seen(done: int) -> Snapshot:
        return at(
            working=frozenset({PARTITION, ("team.events", 4)}), progress={3: 7, 4: done}, reached={PARTITION: 10, ("team.events", 4): done}
        )

    verdict = judged(*((float(second), seen(second)) for second in range(61)))[-1]

    assert verdict is not None
    assert "team.events, partition 3, does not get past offset 10" in verdict
    assert judged((0.0, seen(0)), (60.0, at(working=frozenset({PARTITION}), progress={3: 8})))[1] is None


def test_judge_an_outage_that_is_known_is_no_stall_and_time_begins_anew_after_it() -> None:
    stuck = at(working=frozenset({PARTITION}))
    away = dataclasses.replace(stuck, waiting_for="postgres")

    assert judged((0.0, stuck), (100.0, away), (101.0, stuck), (160.0, stuck)) == [None, None, None, None]
    assert judged((0.0, away), (1.0, stuck), (61.0, stuck))[2] is not None
