"""The history of one subscription: kept in order, bounded, and folded into a state. Versions are (second, rank, count, id)."""

import random
from functools import reduce

import pytest

from agents.classify.history import (
    DUE,
    ENDING,
    HALT,
    KEPT_FACTS,
    MAX_FACTS,
    MOVED,
    NEVER_SEEN,
    PAUSE,
    PENDING,
    START,
    UNKNOWN,
    Fact,
    Mode,
    State,
    Subscription,
    advanced,
    joined,
    packed,
    state_of,
    unpacked,
)
from tests.register_factories import at


def start(second: int, plan: str = "plan_pro", tier: int = 4) -> Fact:
    return Fact(START, at(second), plan, tier)


def fact(kind: int, second: int, until: int = 0, reminders: tuple[int, ...] = (), email: str = "") -> Fact:
    return Fact(kind, at(second, 9), at=until, reminders=reminders, email=email)


def history(*facts: Fact) -> Subscription:
    return reduce(Subscription.merged, facts, UNKNOWN)


def state_after(*facts: Fact) -> State:
    return history(*facts).state


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


def test_merged_what_is_known_gives_the_very_same_subscription() -> None:
    known = history(*FACTS)

    assert all(known.merged(each) is known for each in FACTS)
    assert known.merged(start(2)) is not known
    assert known.merged(start(99)) is not known


def test_facts_packed_and_unpacked_are_the_same_facts() -> None:
    facts = [*FACTS, fact(PAUSE, 30, 40, email="payer@example.com"), fact(PENDING, 41, 50, (42, 43), "payer@example.com"), start(60, "", 0)]

    assert unpacked(packed(facts, "", 0), len(facts)) == facts
    assert history(*facts).facts() == facts


@pytest.mark.parametrize("count", [0, 1, 15, 16, 300, 65_535, 65_536])
def test_joined_arrays_have_none_around_them(count: int) -> None:
    assert joined([(1, "a")] * count) == b"\x92\x01\xa1a" * count


def test_facts_in_order_are_packed_as_all_at_once() -> None:
    facts = [start(second, f"plan_{second // 3 % 2}") for second in range(12)]

    assert history(*facts).history == packed(facts, "", 0)
    assert history(*facts).history == history(*reversed(facts)).history


@pytest.mark.parametrize("length", range(len(FACTS) + 1))
def test_merged_state_in_order_is_that_of_the_whole_history(length: int) -> None:
    known = reduce(Subscription.merged, FACTS[:length], UNKNOWN)

    assert known.state == state_of(known.facts())


@pytest.mark.parametrize("count", [MAX_FACTS + 1, 2 * MAX_FACTS])
def test_merged_beyond_the_maximum_the_start_of_the_run_stays(count: int) -> None:
    found = history(*(start(second) for second in range(count)))

    assert KEPT_FACTS <= found.count <= MAX_FACTS
    assert found.count == len(found.facts())
    assert (found.state.since, found.state.newest) == (at(0), at(count - 1))


def test_merged_beyond_the_maximum_the_oldest_runs_are_forgotten() -> None:
    found = history(*(start(second, f"plan_{second % 2}") for second in range(MAX_FACTS + 1)))

    assert found.count == KEPT_FACTS
    assert found.facts()[0].version == at(MAX_FACTS + 1 - KEPT_FACTS)


@pytest.mark.parametrize("given", [[fact(PENDING, 1, 9)], [fact(ENDING, 1, 10**9)], [fact(DUE, 1)], [start(1, tier=3)]])
def test_merged_beyond_the_maximum_the_state_stays_as_it_was(given: list[Fact]) -> None:
    facts = [start(0), *given, *(start(second) for second in range(2, 2 * MAX_FACTS))]

    known = history(*facts)

    assert KEPT_FACTS <= known.count <= MAX_FACTS
    assert known.state == reduce(advanced, facts, NEVER_SEEN) == state_of(known.facts())


def test_state_of_nothing_is_never_seen() -> None:
    assert state_of([]) == NEVER_SEEN


def test_state_since_is_the_start_of_the_uninterrupted_run() -> None:
    assert state_after(start(1), start(3)).since == at(1)
    assert state_after(start(1), start(3, "plan_team"), start(5)).since == at(5)
    assert state_after(start(1), fact(HALT, 3), start(5)).since == at(5)
    assert state_after(start(1), fact(PAUSE, 3, 9), start(5)).since == at(5)
    assert state_after(start(1), fact(MOVED, 3), start(5)).since == at(5)
    assert state_after(start(1), fact(PENDING, 3, 9), start(5)).since == at(1)


def test_state_a_late_fact_splits_a_run() -> None:
    assert state_after(start(1), start(3), start(5), fact(HALT, 2)).since == at(3)


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
def test_state_of_an_active_subscription_after(facts: list[Fact], mode: Mode, in_force: bool) -> None:
    state = state_after(start(1), *facts)

    assert (state.mode, state.in_force) == (mode, in_force)
    assert (state.since is None) == (not in_force)


def test_state_moved_twice_is_away_since_the_first() -> None:
    assert state_after(start(1), fact(MOVED, 5), fact(MOVED, 3)).out_since == at(3, 9)


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
def test_state_coming_times(facts: list[Fact], times: tuple[int, ...]) -> None:
    assert state_after(start(1), *facts).coming_times() == times
