"""The slots of the account's limit. The rules of both stores are in integration/test_loops_slots.py, what they add up to in property/test_rate_limit.py."""

import pytest

from streams.loops.slots import MOST_SLOTS, NOT_COUNTED, Limit, Return, SlotTable, slots_of_others, whole_limit

ONE = Limit(1, 1.0)


@pytest.mark.parametrize(
    ("per_second", "limit"),
    [(10.0, Limit(10, 1.0)), (2.9, Limit(2, 1.0)), (1.0, Limit(1, 1.0)), (0.5, Limit(1, 2.0)), (0.01, Limit(1, 100.0))],
)
def test_whole_limit_is_whole_requests_never_more_than_the_rate(per_second: float, limit: Limit) -> None:
    assert whole_limit(per_second) == limit


@pytest.mark.parametrize("requests", [1, 3, 10, MOST_SLOTS, MOST_SLOTS + 1, 1_234, 10_000])
def test_sizes_of_all_slots_are_the_limit(requests: int) -> None:
    limit = Limit(requests, 1.0)

    sizes = [limit.size(slot) for slot in range(limit.slots)]

    assert sum(sizes) == requests
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("limit", "ours", "remaining", "others"),
    [
        (Limit(10, 1.0), 4, 6.0, 0),
        (Limit(10, 1.0), 4, 7.0, 0),  # one of ours has come to count no more
        (Limit(10, 1.0), 4, 1.0, 5),
        (Limit(10, 1.0), 4, NOT_COUNTED, 7),  # three that were counted, and the one that was not
        (Limit(1_000, 1.0), 40, 595.0, 0),  # 405 requests are less than 41 slots of 10
        (Limit(1_000, 1.0), 40, 500.0, 10),
    ],
)
def test_slots_of_others_are_what_is_used_and_not_ours(limit: Limit, ours: int, remaining: float, others: int) -> None:
    assert slots_of_others(limit, ours, remaining) == others


def test_take_begins_a_lease_when_the_slot_is_free_and_not_before() -> None:
    table = SlotTable()
    first = table.take(0.0, ONE, lease=12.0)
    assert first == (0, 1, 0.0)

    assert table.take(11.0, ONE, lease=12.0) is None
    second = table.take(11.9, ONE, lease=12.0)
    assert second is not None
    assert second.use == 2
    assert second.delay == pytest.approx(0.1)
    table.give_back(12.5, ONE, [Return(0, 1, 0.0)], 0.0)
    assert table.take(13.0, ONE, lease=12.0) is None, "what the first user gives back is the second's now"
