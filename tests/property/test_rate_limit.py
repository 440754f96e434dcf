"""The law of the rate limit: Loops never sees more than the limit in any sliding second, whatever the network does."""

import heapq

from hypothesis import given
from hypothesis import strategies as st

from streams.loops.rate_limit import Window

latencies = st.lists(st.floats(0.0, 0.4), min_size=1, max_size=30)


def seen_by_loops(window: Window, there: list[float], back: list[float], idle: list[float], requests: int) -> list[float]:
    """Start ``requests`` as soon as the window lets each, after a pause of the caller's own; return when Loops saw them."""
    now, seen = 0.0, []
    answers: list[tuple[float, float]] = []
    for number in range(requests):
        now += idle[number % len(idle)]
        while True:
            while answers and answers[0][0] <= now:
                at, started = heapq.heappop(answers)
                window.finish(started, at)
            delay = window.delay(now)
            if delay <= 0:
                break
            now = min(now + delay, answers[0][0]) if answers else now + delay
        window.start(now)
        arrival = now + there[number % len(there)]
        seen.append(arrival)
        heapq.heappush(answers, (arrival + back[number % len(back)], now))
    return sorted(seen)


def most_in_a_second(times: list[float], seconds: float = 1.0) -> int:
    """The most times in any half-open window of ``seconds``."""
    most, first = 0, 0
    for index, time in enumerate(times):
        while times[first] <= time - seconds:
            first += 1
        most = max(most, index - first + 1)
    return most


@given(limit=st.integers(1, 60), there=latencies, back=latencies, idle=st.lists(st.floats(0.0, 1.5), min_size=1, max_size=10))
def test_window_any_latencies_loops_sees_at_most_the_limit_in_any_second(
    limit: int, there: list[float], back: list[float], idle: list[float]
) -> None:
    # The least way there and back is met at once, so that what the window learns of the latency is true.
    there, back = [min(there), *there], [min(back), *back]

    assert most_in_a_second(seen_by_loops(Window(limit), there, back, idle, 4 * limit + 40)) <= limit


@given(limit=st.integers(1, 40), total=st.integers(1, 12), cut=st.integers(0, 12), there=latencies, back=latencies)
def test_window_two_workers_together_stay_below_the_limit(limit: int, total: int, cut: int, there: list[float], back: list[float]) -> None:
    cut = min(cut, total)
    seen: list[float] = []
    for owned in (range(cut), range(cut, total)):
        window = Window(limit)
        window.assign(owned, total)
        if limit * len(owned) >= total:  # at least one a second each; with less, nobody can promise it without talking
            seen += seen_by_loops(window, [min(there), *there], [min(back), *back], [0.0], 3 * limit + 40)

    assert most_in_a_second(sorted(seen)) <= limit
