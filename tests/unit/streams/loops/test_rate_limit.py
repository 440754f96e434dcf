"""Loops' rate limit, worker's side. What workers do together is in property/test_rate_limit.py."""

import asyncio
import itertools
from collections.abc import Sequence

import pytest

from streams.loops.rate_limit import Latency, RateLimiter, hold_seconds
from streams.loops.slots import Grant, Limit, MemorySlots, Return
from tests.virtual_time import run_virtually


def now() -> float:
    return asyncio.get_running_loop().time()


class Clock:
    """Slots in the memory of the running loop's clock, which note what is given back."""

    def __init__(self) -> None:
        self._slots = MemorySlots(now)
        self.returns: list[Return] = []
        self.stops: list[float] = []
        self.answers_after = 0.0

    async def take(self, limit: Limit, lease: float) -> Grant | None:
        grant = await self._slots.take(limit, lease)
        await asyncio.sleep(self.answers_after)
        return grant

    async def give_back(self, limit: Limit, returns: Sequence[Return], stop: float) -> None:
        self.returns += returns
        self.stops += [stop] if stop else []
        await self._slots.give_back(limit, returns, stop)


def limiter(per_second: float, slots: Clock | None = None) -> RateLimiter:
    return RateLimiter(per_second, slots or Clock(), clock=now)


async def starts_of(limiter: RateLimiter, seconds: float, latency: float = 0.0, callers: int = 32) -> list[float]:
    """Start requests as soon as they may, each answered after ``latency``; return the starts."""
    starts: list[float] = []

    async def call() -> None:
        while True:
            started = await limiter.start()
            starts.append(now())
            await asyncio.sleep(latency)
            limiter.finish(started)

    tasks = [asyncio.create_task(call()) for _ in range(callers)]
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await limiter.close()
    return starts


def test_starts_are_spread_evenly() -> None:
    starts = run_virtually(starts_of_new(10, 5.0))

    assert 48 <= len(starts) <= 50
    assert all(0.04 < later - earlier < 0.16 for earlier, later in itertools.pairwise(starts)), "no bursts"


async def starts_of_new(per_second: float, seconds: float, latency: float = 0.0) -> list[float]:
    return await starts_of(limiter(per_second), seconds, latency)


@pytest.mark.parametrize("latency", [0.0, 0.02, 0.2])
def test_constant_latency_costs_less_than_a_twentieth(latency: float) -> None:
    assert len(run_virtually(starts_of_new(100, 20.0, latency))) >= 0.95 * 100 * 20


def test_hiccup_is_caught_up_and_a_pause_makes_no_burst() -> None:
    async def after_a_pause() -> int:
        limited = limiter(2_000)
        await starts_of(limited, 0.05)
        await asyncio.sleep(10)
        began = now()
        return sum(at == began for at in await starts_of(limited, 0.05, callers=500))

    assert 100 <= run_virtually(after_a_pause()) <= 102, "50 ms of 2,000 a second, and the one that is due"


def test_unanswered_requests_hold_their_place_until_they_are_given_up() -> None:
    async def waited() -> float:
        limited = limiter(1)
        started = await limited.start()
        await asyncio.sleep(5.0)
        limited.finish(started, answered=False)
        return await limited.start() - started

    assert run_virtually(waited()) == pytest.approx(6.005, abs=0.001)


def test_lower_limit_is_obeyed_and_left_again() -> None:
    async def rates() -> tuple[int, int, int]:
        limited = limiter(100)
        found = []
        for limit in (10.0, 1_000.0, None):
            started = await limited.start()
            limited.finish(started)
            limited.observe(limit, None)
            await asyncio.sleep(2.0)
            found.append(len(await starts_of(limited, 2.0)))
        low, high, same = found
        return low, high, same

    low, high, same = run_virtually(rates())
    assert low <= 20
    assert 190 <= high <= 200
    assert 190 <= same <= 200


def test_429_stops_everybody_for_the_time_that_loops_names() -> None:
    async def stopped() -> tuple[float, float]:
        slots = Clock()
        first, second = limiter(10, slots), limiter(10, slots)
        one, two = await first.start(), await first.start()
        first.finish(one)
        first.reject(7.0)
        first.finish(two)
        first.reject(50.0)  # of the same moment: sent before the first was answered
        rejected = now()
        await asyncio.sleep(0.01)
        return await first.start() - rejected, await second.start() - rejected

    own, other = run_virtually(stopped())
    assert 7.0 <= own <= 7.5
    assert 7.0 <= other <= 7.7


def test_429s_in_a_row_stop_for_longer_and_longer() -> None:
    async def longest(rejections: int) -> float:
        stops = []
        for _ in range(50):
            slots = Clock()
            limited = limiter(10, slots)
            for _ in range(rejections):
                limited.finish(await limited.start())
                limited.reject(None)
            await limited.close()
            stops.append(slots.stops[-1])
        return max(stops)

    one, three, eight = (run_virtually(longest(rejections)) for rejections in (1, 3, 8))
    assert one <= 0.5 < three <= 2.0 < eight <= 5.0


def test_what_loops_says_is_left_goes_back_with_the_slot() -> None:
    async def told() -> list[Return]:
        slots = Clock()
        limited = limiter(10, slots)
        limited.finish(await limited.start())
        limited.observe(10.0, 4.0)
        limited.finish(await limited.start())
        limited.reject(None)
        await limited.close()
        return slots.returns

    assert [given.remaining for given in run_virtually(told())] == [4.0, -1.0]


def test_slot_that_came_too_late_is_not_used() -> None:
    """A process that was stopped, or whose question took long, does not know what became of its lease."""

    async def late() -> tuple[float, list[Return]]:
        slots = Clock()
        slots.answers_after = 30.0
        limited = limiter(10, slots)
        waiting = asyncio.create_task(limited.start())
        await asyncio.sleep(29.0)
        slots.answers_after = 0.0
        return await waiting, slots.returns

    started, returns = run_virtually(late())
    assert started >= 30.0
    assert [given.use for given in returns] == [1]


def test_caller_that_gives_up_leaves_the_line_and_its_slot_to_others() -> None:
    async def given_up() -> float:
        slots = Clock()
        first, second = limiter(1, slots), limiter(1, slots)
        first.finish(await first.start())
        waiting = asyncio.create_task(first.start())
        await asyncio.sleep(0.9)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        return await second.start()

    assert run_virtually(given_up()) == pytest.approx(1.005, abs=0.06)


def test_latency_is_certain_once_enough_was_seen_and_the_fast_ones_agree() -> None:
    latency = Latency()
    for _ in range(19):
        latency.add(0.1)
    assert latency.certain == 0.0

    latency.add(0.1)
    assert latency.certain == pytest.approx(0.09)
    latency.add(0.02)
    assert latency.certain == 0.0, "one was much faster: so may others be"
    assert hold_seconds(Limit(10, 1.0), latency) == pytest.approx(1.005)


async def test_callers_wait_in_line_and_never_exceed_the_limit() -> None:
    limited, starts = RateLimiter(200), []

    async def call() -> None:
        started = await limited.start()
        starts.append(started)
        await asyncio.sleep(0.001)
        limited.finish(started)

    await asyncio.gather(*(call() for _ in range(300)))
    await limited.close()

    assert starts == sorted(starts)
    assert all(starts[index + 200] - starts[index] >= 1.0 for index in range(100))
    assert starts[-1] - starts[0] < 2.5
