"""One id says one thing: what is remembered of services' events."""

from itertools import permutations

import pytest

from agents.classify.service_ids import MAX_IDS, Known, content_of, known, remembered

ONE, OTHER = content_of("admin.tier_changed", b'{"to":"pro"}'), content_of("admin.tier_changed", b'{"to":"team"}')


def test_an_id_is_new_then_says_the_same_or_something_else() -> None:
    ids = remembered(b"", 1_750_000_000, "app#one", ONE)

    assert known(b"", "app#one", ONE) is Known.NEW
    assert known(ids, "app#two", ONE) is Known.NEW
    assert known(ids, "other#one", ONE) is Known.NEW
    assert known(ids, "app#one", ONE) is Known.SAME
    assert known(ids, "app#one", OTHER) is Known.OTHER
    assert len(ids) == 21


def test_any_order_of_arrival_is_remembered_alike() -> None:
    events = [(3, "app#c"), (1, "app#a"), (2, "app#b"), (2, "app#d")]
    found = set()
    for order in permutations(events):
        ids = b""
        for seconds, name in order:
            ids = remembered(ids, seconds, name, ONE)
        found.add(ids)
    assert len(found) == 1


def test_beyond_the_maximum_the_oldest_is_forgotten() -> None:
    ids = b""
    for seconds in range(MAX_IDS + 1):
        ids = remembered(ids, seconds, f"app#{seconds}", ONE)

    assert len(ids) == 21 * MAX_IDS
    assert known(ids, "app#0", ONE) is Known.NEW
    assert known(ids, "app#1", ONE) is Known.SAME


@pytest.mark.parametrize(
    ("data", "same"),
    [
        (b'{"to":"pro"}', True),
        (b'{ "to" : "pro" }', True),
        (b'{"to":"team"}', False),
        (b'{"to":"pro","admin":null}', False),
        (b'{"to":"pro","x":NaN}', False),
    ],
)
def test_content_is_what_the_data_says_and_not_how_it_is_written(data: bytes, same: bool) -> None:
    assert (content_of("admin.tier_changed", data) == ONE) == same


def test_content_of_two_orders_is_one_and_of_two_kinds_two() -> None:
    assert content_of("a", b'{"x":1,"y":2}') == content_of("a", b'{"y":2,"x":1}') != content_of("b", b'{"x":1,"y":2}')


def test_content_never_changes_for_rows_hold_it() -> None:
    assert ONE.hex() == "9dfb7db06a9a0df1"
