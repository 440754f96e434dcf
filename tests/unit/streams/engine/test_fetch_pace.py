"""How often is fetched: a lone record at once, and then so that what comes meanwhile comes together."""

import pytest

from streams.engine.fetch_pace import SENT_ONE_BY_ONE, SENT_TOGETHER, UNHURRIED, FetchDelays, FetchPace


def fetches(pace: FetchPace, arrivals: list[float]) -> list[float]:
    """The times at which fetches bring records that arrive at these times; each takes no time and is answered as soon as there is one."""
    delays, begins = FetchDelays(pace), 0.0
    times: list[float] = []
    while waiting := [arrival for arrival in arrivals if not times or arrival > times[-1]]:
        at = max(begins, waiting[0])
        times.append(at)
        begins = at + delays.after(at)
    return [round(at, 4) for at in times]


@pytest.mark.parametrize("pace", [SENT_ONE_BY_ONE, SENT_TOGETHER, UNHURRIED])
def test_lone_record_is_fetched_at_once(pace: FetchPace) -> None:
    assert fetches(pace, [1.0, 2.0]) == [1.0, 2.0]


def test_what_comes_one_by_one_is_fetched_once_in_a_while() -> None:
    steady = [1 + number / 100 for number in range(100)]

    assert fetches(SENT_ONE_BY_ONE, steady)[:4] == [1.0, 1.05, 1.1, 1.15]


def test_rest_of_what_came_together_is_fetched_soon_after() -> None:
    pairs = [1 + number / 20 + part for number in range(4) for part in (0, 0.002)]

    assert fetches(SENT_TOGETHER, pairs) == [1.0, 1.008, 1.05, 1.058, 1.1, 1.108, 1.15, 1.158]


def test_two_fetches_are_the_most_in_a_while_whatever_comes() -> None:
    dense = [1 + number / 1000 for number in range(1000)]

    times = fetches(SENT_TOGETHER, dense)

    assert max(sum(at <= other < at + SENT_TOGETHER.seconds - 1e-6 for other in times) for at in times) == 2
