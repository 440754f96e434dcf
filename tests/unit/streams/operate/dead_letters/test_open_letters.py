"""What is open, as the log says."""

from streams.operate.dead_letters.letters import Action, Place, mark_headers
from streams.operate.dead_letters.open_letters import OpenLetters
from tests.dead_letter_doubles import SETTINGS, MemoryLogs


def opened(logs: MemoryLogs) -> OpenLetters:
    letters = OpenLetters(SETTINGS, logs)
    letters.catch_up()
    return letters


def test_open_is_what_no_mark_closes_each_once() -> None:
    logs = MemoryLogs()
    logs.park(1)
    logs.park(2)
    logs.park(2)
    first = next(iter(opened(logs)))
    logs.append("dead.letters", b"key", None, mark_headers(first, Action.DISCARDED))

    assert [letter.place.offset for letter in opened(logs)] == [1]


def test_open_a_copy_that_comes_behind_the_mark_is_closed_too() -> None:
    logs = MemoryLogs()
    logs.park(1)
    logs.append("dead.letters", b"key", None, mark_headers(next(iter(opened(logs))), Action.REPLAYED))
    logs.park(1)

    assert list(opened(logs)) == []


def test_open_is_as_of_the_first_look_less_what_is_closed_since() -> None:
    logs = MemoryLogs()
    logs.park(1)
    letters = opened(logs)
    found = next(iter(letters))
    logs.park(2)
    logs.append("dead.letters", b"key", None, mark_headers(found, Action.REPLAYED))

    assert [letter.identity for letter in letters] == [found.identity]
    letters.catch_up()
    assert list(letters) == []


def test_closed_is_told_by_the_place_of_the_dead_letter_and_by_that_of_its_record() -> None:
    logs = MemoryLogs()
    logs.park(11)
    logs.park(12)
    first = next(iter(opened(logs)))
    logs.append("dead.letters", b"key", None, mark_headers(first, Action.DISCARDED))
    letters = opened(logs)

    assert [letters.is_closed_at(Place("dead.letters", 0, offset)) for offset in range(4)] == [True, False, False, False]
    assert [letters.is_closed_at(Place("razorpay.webhooks", 0, offset)) for offset in (1, 11, 12)] == [False, True, False]
    assert not letters.is_closed_at(Place("dead.letters", 99, 0))


def test_fetch_returns_what_is_asked_for_over_large_gaps() -> None:
    logs = MemoryLogs()
    for offset in range(3_000):
        logs.park(offset)

    found = opened(logs).fetch(0, [2_999, 0, 5])

    assert sorted(found) == [0, 5, 2_999]
    assert all(letter.place.offset == offset for offset, letter in found.items())
