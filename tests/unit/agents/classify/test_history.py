"""The history of one subscription: kept in order, bounded, and folded into a state. Versions are (second, rank, count, id)."""

import random
from functools import reduce

import pytest

from agents.classify.history import (
    DUE,
    ENDING,
    HALT,
    MAX_FACTS,
    MOVED,
    NEVER_SEEN,
    PAUSE,
    PENDING,
    START,
    UNKNOWN,
    History,
    Mode,
    Phase,
    Subscription,
    advanced,
    state_of,
)
from tests.register_factories import at


def start(second: int, plan: str = "plan_pro", tier: int = 4) -> Phase:
    return Phase(START, (at(second),), plan, tier)


def fact(kind: int, second: int, until: int = 0, reminders: tuple[int, ...] = ()) -> Phase:
    return Phase(kind, (at(second, 9),), at=until, reminders=reminders)


def history(*facts: Phase) -> History:
    return reduce(Subscription.merged, facts, UNKNOWN).history


FACTS = [
    start(1),
    start(3),
    fact(PENDING, 4, 14, (7, 10)),
    fact(DUE, 7),
    start(8, "plan_growth", 5),
    fact(PAUSE, 9, 12),
    fact(DUE, 12),
    start(15),
    fact(HALT, 16),
    start(18),
    fact(ENDING, 20, 30),
    fact(MOVED, 22),
]


@pytest.mark.parametrize("seed", range(20))
def test_merged_any_order_with_duplicates_gives_the_same_history(seed: int) -> None:
    order = FACTS * 2
    random.Random(seed).shuffle(order)

    assert history(*order) == history(*FACTS)


def test_merged_facts_that_say_the_same_are_one_phase() -> None:
    assert history(start(1), start(3), start(2)) == (Phase(START, (at(1), at(2), at(3)), "plan_pro", 4),)


def test_merged_what_is_known_gives_the_very_same_history() -> None:
    known = reduce(Subscription.merged, FACTS, UNKNOWN)

    assert all(known.merged(each) is known for each in FACTS)
    assert all(known.holds(each.versions[0]) for each in FACTS)
    assert not known.holds(at(2))


@pytest.mark.parametrize("length", range(len(FACTS) + 1))
def test_merged_state_in_order_is_that_of_the_whole_history(length: int) -> None:
    known = reduce(Subscription.merged, FACTS[:length], UNKNOWN)

    assert known.state == state_of(known.history)


@pytest.mark.parametrize("facts", [MAX_FACTS + 1, 2 * MAX_FACTS])
def test_merged_beyond_the_maximum_the_start_of_the_run_stays(facts: int) -> None:
    found = history(*(start(second) for second in range(facts)))

    assert sum(len(phase.versions) for phase in found) == MAX_FACTS
    assert state_of(found).since == at(0)
    assert state_of(found).newest == at(facts - 1)


def test_merged_beyond_the_maximum_the_oldest_runs_are_forgotten() -> None:
    found = history(*(start(second, f"plan_{second % 2}") for second in range(MAX_FACTS + 10)))

    assert sum(len(phase.versions) for phase in found) == MAX_FACTS
    assert found[0].versions == (at(10),)


@pytest.mark.parametrize("given", [[fact(PENDING, 1, 9)], [fact(ENDING, 1, 10**9)], [fact(DUE, 1)], [start(1, tier=3)]])
def test_merged_beyond_the_maximum_the_state_stays_as_it_was(given: list[Phase]) -> None:
    facts = [start(0), *given, *(start(second) for second in range(2, 2 * MAX_FACTS))]

    known = reduce(Subscription.merged, facts, UNKNOWN)

    assert sum(len(phase.versions) for phase in known.history) == MAX_FACTS
    assert known.state == reduce(advanced, facts, NEVER_SEEN)


def test_state_of_nothing_is_never_seen() -> None:
    assert state_of(()) == NEVER_SEEN


def test_state_since_is_the_start_of_the_uninterrupted_run() -> None:
    assert state_of(history(start(1), start(3))).since == at(1)
    assert state_of(history(start(1), start(3, "plan_team"), start(5))).since == at(5)
    assert state_of(history(start(1), fact(HALT, 3), start(5))).since == at(5)
    assert state_of(history(start(1), fact(PAUSE, 3, 9), start(5))).since == at(5)
    assert state_of(history(start(1), fact(MOVED, 3), start(5))).since == at(5)
    assert state_of(history(start(1), fact(PENDING, 3, 9), start(5))).since == at(1)


def test_state_a_late_fact_splits_a_run() -> None:
    assert state_of(history(start(1), start(3), start(5), fact(HALT, 2))).since == at(3)


@pytest.mark.parametrize(
    ("facts", "mode", "in_force"),
    [
        ([fact(HALT, 3)], Mode.HALTED, False),
        ([fact(MOVED, 3)], Mode.MOVED, False),
        ([fact(PAUSE, 3)], Mode.PAUSED, False),
        ([fact(PAUSE, 3, 9)], Mode.PAUSED, True),
        ([fact(PAUSE, 3, 9), fact(DUE, 9)], Mode.PAUSED, False),
        ([fact(PENDING, 3, 9)], Mode.ACTIVE, True),
        ([fact(PENDING, 3, 9), fact(DUE, 9)], Mode.LAPSED, False),
        ([fact(PENDING, 3, 9), fact(DUE, 8)], Mode.ACTIVE, True),
        ([fact(PENDING, 3, 9), start(5), fact(DUE, 9)], Mode.ACTIVE, True),
        ([fact(ENDING, 3, 9)], Mode.ACTIVE, True),
        ([fact(ENDING, 3, 9), fact(DUE, 9)], Mode.ENDED, False),
        ([fact(ENDING, 3, 9), fact(DUE, 9), start(12)], Mode.ENDED, False),
    ],
)
def test_state_of_an_active_subscription_after(facts: list[Phase], mode: Mode, in_force: bool) -> None:
    state = state_of(history(start(1), *facts))

    assert (state.mode, state.in_force) == (mode, in_force)
    assert (state.since is None) == (not in_force)


def test_state_moved_twice_is_away_since_the_first() -> None:
    assert state_of(history(start(1), fact(MOVED, 5), fact(MOVED, 3))).out_since == at(3, 9)


@pytest.mark.parametrize(
    ("facts", "times"),
    [
        ([], ()),
        ([fact(PAUSE, 3, 9)], (9,)),
        ([fact(ENDING, 3, 9)], (9,)),
        ([fact(PENDING, 3, 9, (5, 7))], (9, 5, 7)),
        ([fact(PENDING, 3, 9, (5, 7)), fact(DUE, 5)], (9, 7)),
        ([fact(PENDING, 3, 9, (5, 7)), start(4)], ()),
        ([fact(PENDING, 3, 9, (2, 9, 12))], (9,)),
        ([fact(HALT, 2), fact(ENDING, 3, 9)], ()),
        ([fact(ENDING, 3, 9), fact(DUE, 9)], ()),
    ],
)
def test_state_coming_times(facts: list[Phase], times: tuple[int, ...]) -> None:
    assert state_of(history(start(1), *facts)).coming_times() == times
