"""Loops' rate limit, worker's side."""

import asyncio
import itertools
import math

import pytest

from streams.loops.rate_limit import RateLimiter, Window, worker_share


@pytest.mark.parametrize(
    ("per_second", "owned", "total", "share"),
    [
        (10, [0, 1, 2, 3, 4, 5, 6, 7], 8, (10, 1.0)),
        (10, [0, 1, 2, 3], 8, (5, 1.0)),
        (10, [3], 8, (2, 1.0)),  # 10 * 4 // 8 - 10 * 3 // 8
        (10, [0], 8, (1, 1.0)),
        (10, [0], 32, (1, 3.2)),  # less than one a second
        (10, [0, 1], 32, (1, 1.6)),
        (0.5, [0], 1, (1, 2.0)),
        (2_000, [0, 1], 4, (1_000, 1.0)),
        (10, [], 8, (1, 1.0)),  # no partitions, no mails: any share will do
    ],
)
def test_worker_share_is_the_limit_times_its_partitions(per_second: float, owned: list[int], total: int, share: tuple[int, float]) -> None:
    assert worker_share(per_second, owned, total) == share


def test_worker_share_of_all_workers_is_exactly_the_limit() -> None:
    workers = [[0, 1, 2], [3, 4, 5], [6, 7]]

    assert sum(worker_share(10, owned, 8)[0] for owned in workers) == 10


def run(window: Window, seconds: float, latency: float = 0.0) -> list[float]:
    """Start a request whenever the window lets one through, each answered after ``latency``; return the starts."""
    now, starts = 0.0, []
    answers: list[tuple[float, float]] = []
    while now < seconds:
        while answers and answers[0][0] <= now:
            at, started = answers.pop(0)
            window.finish(started, at)
        delay = window.delay(now)
        if delay <= 0:
            window.start(now)
            starts.append(now)
            answers.append((now + latency, now))
        else:
            now = min(now + delay, answers[0][0] if answers else math.inf)
    return starts


def test_window_spreads_starts_evenly() -> None:
    starts = run(Window(10), 5.0)

    assert len(starts) == 50
    assert all(0.04 < later - earlier < 0.16 for earlier, later in itertools.pairwise(starts)), "no bursts"


@pytest.mark.parametrize("latency", [0.0, 0.02, 0.2])
def test_window_constant_latency_costs_less_than_a_twentieth(latency: float) -> None:
    assert len(run(Window(100), 20.0, latency)) >= 0.95 * 100 * 20


def test_window_catches_up_a_hiccup_but_makes_no_burst_of_a_pause() -> None:
    window = Window(2_000)
    for number in range(100):
        window.start(number / 2_000)
        window.finish(number / 2_000, number / 2_000)

    burst = 0
    while window.delay(10.0) <= 0:
        window.start(10.0)
        burst += 1

    assert 100 <= burst <= 102, "50 ms of 2,000 a second, and the one that is due"


def test_window_unanswered_requests_hold_their_place() -> None:
    window = Window(2)
    window.start(0.0)
    window.start(0.5)

    assert window.delay(100.0) == math.inf
    window.finish(0.0, 100.0)
    assert window.delay(100.0) == pytest.approx(1.005)


def test_window_obeys_a_lower_limit_and_returns_to_its_own() -> None:
    window = Window(100)

    window.observe(0.0, 10.0, None)
    assert len(run(window, 1.0)) <= 10
    window.observe(5.0, 1_000.0, None)
    window.start(5.0)
    window.finish(5.0, 5.0)
    assert window.delay(5.05) == 0.0, "a hundredth of a second apart again, and not a thousandth"


def test_window_leaves_others_of_the_account_their_part() -> None:
    window = Window(10)
    for number in range(5):
        window.start(number / 10)
        window.finish(number / 10, number / 10)

    window.observe(0.5, 10.0, 0.0)  # five of ours, and five of somebody else's

    assert window.delay(0.6) == pytest.approx(1.005 - 0.6), "until the oldest of ours is forgotten"
    assert window.delay(1.6) == 0.0


def test_window_alone_on_the_account_is_not_slowed_by_what_remains() -> None:
    window = Window(10)
    for number in range(9):
        window.start(number / 10)
        window.finish(number / 10, number / 10)
        window.observe(number / 10, 10.0, 10.0 - number - 1)

    assert window.delay(0.9) == 0.0


def test_window_429_stops_everybody_for_the_time_that_loops_names() -> None:
    window = Window(10)

    window.reject(0.0, retry_after=7.0)
    window.reject(0.1, retry_after=50.0)  # of the same moment: sent before the first was answered

    assert window.delay(1.0) >= 6.0
    assert window.delay(8.0) == 0.0


def test_window_429s_in_a_row_stop_for_longer_and_longer() -> None:
    def longest(rejections: int) -> float:
        stops = []
        for _ in range(50):
            window = Window(10)
            now = 0.0
            for _ in range(rejections):
                now += 100.0
                window.reject(now, None)
            stops.append(window.delay(now))
        return max(stops)

    assert longest(1) <= 0.5 < longest(3) <= 2.0 < longest(8) <= 5.0


async def test_rate_limiter_callers_wait_in_line_and_never_exceed_the_limit() -> None:
    limiter, starts = RateLimiter(200), []

    async def call() -> None:
        started = await limiter.start()
        starts.append(started)
        await asyncio.sleep(0.001)
        limiter.finish(started)

    await asyncio.gather(*(call() for _ in range(300)))

    assert starts == sorted(starts)
    assert all(starts[index + 200] - starts[index] >= 1.0 for index in range(100))
    assert starts[-1] - starts[0] < 2.5


async def test_rate_limiter_caller_that_gives_up_leaves_the_line() -> None:
    limiter = RateLimiter(1)
    limiter.finish(await limiter.start())
    waiting = asyncio.create_task(limiter.start())
    await asyncio.sleep(0)

    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)

    async with asyncio.timeout(3):
        assert await limiter.start() > 0
