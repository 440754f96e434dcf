"""Coming times: what has passed is found, earliest first, each row once, and nothing of a row that has changed since."""

import random
import time
import tracemalloc

import pytest

from streams.engine import due_times
from streams.engine.due_times import DueTimes

NOW = 1_000


def due_at(packed: bytes) -> int:
    """A row of these tests is its coming time."""
    return int(packed)


class Table:
    """Rows, and their coming times."""

    def __init__(self, **rows: int) -> None:
        self.rows = {key.encode(): b"%d" % at for key, at in rows.items()}
        self.times = DueTimes(due_at)
        self.times.fill(self.rows)

    def write(self, key: str, at: int) -> None:
        former = self.rows.get(key.encode())
        self.rows[key.encode()] = b"%d" % at
        self.times.note(self.rows, key.encode(), former)

    def taken(self, now: int = NOW) -> list[str]:
        return [key.decode() for key in self.times.take(self.rows, now)]


def test_times_that_have_passed_are_taken_earliest_first_and_once() -> None:
    table = Table(later=NOW + 1, third=NOW, first=1, second=5, never=0)

    assert table.times.has_passed(table.rows, NOW)
    assert table.taken() == ["first", "second", "third"]
    assert not table.times.has_passed(table.rows, NOW)
    assert table.taken() == []
    assert table.taken(NOW + 1) == ["later"]


def test_time_that_was_taken_and_is_waited_for_again_is_taken_again() -> None:
    table = Table(a=7, b=8)
    assert table.taken() == ["a", "b"]

    table.write("a", 7)

    assert table.taken() == ["a"]
    assert table.taken() == []


def test_times_without_a_row_that_waits_hold_nothing() -> None:
    table = Table(a=0, b=0)
    table.write("a", 0)
    table.write("c", 0)

    assert len(table.times) == 0


def test_times_of_rows_that_are_written_later_are_noted() -> None:
    table = Table()
    table.write("new", 7)

    assert table.taken() == ["new"]


def test_times_of_a_row_that_is_written_again_unchanged_are_noted_once() -> None:
    table = Table(a=7)
    for _ in range(5):
        table.write("a", 7)

    assert len(table.times) == 1


@pytest.mark.parametrize("changed_to", [0, NOW + 5], ids=["it waits for nothing", "it waits for a later time"])
def test_times_of_a_row_that_has_changed_since_are_not_taken(changed_to: int) -> None:
    table = Table(a=7)
    table.write("a", changed_to)

    assert not table.times.has_passed(table.rows, NOW)
    assert table.taken() == []
    assert table.taken(NOW + 5) == (["a"] if changed_to else [])


def test_times_of_a_row_that_went_to_another_time_and_back_are_taken_once() -> None:
    table = Table(a=7)
    table.write("a", NOW + 5)
    table.write("a", 7)

    assert table.taken() == ["a"]


def test_times_what_is_left_of_a_take_that_was_ended_early_is_taken_by_the_next() -> None:
    table = Table(a=1, b=2, c=3)

    assert next(table.times.take(table.rows, NOW)) == b"a"
    assert table.taken() == ["b", "c"]


def test_times_filled_anew_hold_what_was_taken() -> None:
    """As after a rollback: the rows are restored, and a time that was taken is due again."""
    table = Table(a=1)
    assert table.taken() == ["a"]

    table.times.forget()
    assert not table.times.has_passed(table.rows, NOW)
    table.times.fill(table.rows)

    assert table.taken() == ["a"]


def test_times_of_a_stage_without_any_cost_nothing() -> None:
    times = DueTimes()
    rows = {b"a": b"no time"}
    times.fill(rows)
    times.note(rows, b"a", None)

    assert not times.has_passed(rows, 2**40)
    assert list(times.take(rows, 2**40)) == []


def test_times_stale_entries_do_not_pile_up() -> None:
    table = Table(a=NOW)
    most = 0
    for at in range(3 * due_times.MIN_STALE):
        table.write("a", NOW + at)
        most = max(most, len(table.times))

    assert most <= due_times.MIN_STALE + 2
    assert table.taken(NOW + 3 * due_times.MIN_STALE) == ["a"]


@pytest.mark.parametrize("seed", range(5))
def test_times_after_any_changes_are_those_of_the_rows(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(due_times, "MIN_STALE", 5)
    chance = random.Random(seed)
    table = Table(**{f"k{number}": chance.randrange(100) for number in range(20)})
    for now in range(100):
        # Whatever is taken is decided at once, and then waits for another time or for none.
        for key in table.taken(now):
            assert 0 < int(table.rows[key.encode()]) <= now
            table.write(key, chance.choice((0, now + 1 + chance.randrange(50))))
        assert not [key for key, packed in table.rows.items() if 0 < int(packed) <= now]
        for _ in range(5):
            table.write(f"k{chance.randrange(30)}", chance.choice((0, now + 1 + chance.randrange(50))))


def test_times_of_many_rows_are_filled_in_a_moment_and_take_no_more_than_their_heap() -> None:
    rows = {b"team %d" % number: b"%d" % (number + 1) for number in range(100_000)}
    times = DueTimes(due_at)
    tracemalloc.start()
    try:
        began = time.thread_time()
        times.fill(rows)
        seconds = time.thread_time() - began
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert len(times) == len(rows)
    assert held / len(rows) < 120, "a tuple, its number, and a place in the list"
    assert seconds < 5
