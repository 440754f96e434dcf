"""Loops' limit: so many requests in any second, for the whole account, however many workers send.

Three rules together. *Window*: a request starts only when fewer than the share are under way or were answered within the last
second. Loops counted each of them somewhere between its start and its answer, so no sliding second of Loops' own clock can hold
more, whatever the network does. *Pace*: starts are spread evenly, with a little catching up, instead of coming in bursts.
*Answers*: a lower ``x-ratelimit-limit`` is obeyed, ``x-ratelimit-remaining`` shows what others use of the account, and a 429
stops everybody for a while.

Source: Loops documentation, "API rate limiting": 10 requests a second for each team, exponential back-off after a 429.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Collection
from typing import Protocol

from streams.runtime.waiting import Backoff

CATCH_UP_SECONDS = 0.05
"""How far starts may lag behind the even pace and still be made up for: more than an event loop's hiccup, less than a burst."""

REJECTED_BACKOFF = Backoff(first_seconds=0.5, cap_seconds=5.0)
"""How long everybody stops after the first, second, ... 429 in a row."""

_MARGIN_SECONDS = 0.005
"""Added to the window, against clocks that do not run alike. Costs half a percent."""

_LATENCY_SAMPLES = 20
_LATENCY_SHARE = 0.9


def worker_share(per_second: float, partitions: Collection[int], total_partitions: int) -> tuple[int, float]:
    """Return how many requests a worker that owns ``partitions`` may make in how many seconds.

    Whole requests are dealt out to the partitions, so that the shares of all workers add up to the limit exactly. Where there is
    less than one request a second for a worker, it gets one in a longer time.
    """
    whole = math.floor(per_second)
    share = sum((part + 1) * whole // total_partitions - part * whole // total_partitions for part in set(partitions))
    if share >= 1:
        return share, 1.0
    return 1, max(1.0, total_partitions / (per_second * max(1, len(set(partitions)))))


class Window:
    """The state of one worker's share, as a pure function of the times it is given. Times are seconds of one monotonic clock."""

    def __init__(self, per_second: float, backoff: Backoff = REJECTED_BACKOFF) -> None:
        self._configured = per_second
        self._per_second = per_second
        self._backoff = backoff
        self._partitions: Collection[int] = (0,)
        self._total_partitions = 1
        self._under_way = 0
        self._answered: deque[float] = deque()
        self._pace = -math.inf
        self._least_latency = math.inf
        self._samples = 0
        self._allowed = math.inf
        self._allowed_until = -math.inf
        self._stopped_until = -math.inf
        self._rejections = 0
        self._deal()

    def assign(self, partitions: Collection[int], total_partitions: int) -> None:
        """Take the share of a worker that owns ``partitions`` (numbers) of ``total_partitions``."""
        self._partitions, self._total_partitions = tuple(partitions), total_partitions
        self._deal()

    def delay(self, now: float) -> float:
        """Seconds until the next request may start, 0 when it may now; ``inf`` when an answer has to come first."""
        self._forget(now)
        allowed = min(self._share, self._allowed) if now < self._allowed_until else self._share
        delay = max(self._stopped_until - now, self._pace - CATCH_UP_SECONDS - now, 0.0)
        excess = self._under_way + len(self._answered) - max(1, allowed)
        if excess < 0:
            return delay
        if excess >= len(self._answered):
            return math.inf
        return max(delay, self._answered[int(excess)] + self._hold() - now)

    def start(self, now: float) -> None:
        """A request starts now."""
        self._under_way += 1
        self._pace = max(self._pace, now) + self._seconds / self._share

    def finish(self, started: float, now: float, *, answered: bool = True) -> None:
        """The request that started at ``started`` is over. ``answered`` is False when it got no answer."""
        self._under_way -= 1
        self._answered.append(now)
        if answered:
            self._samples += 1
            self._least_latency = min(self._least_latency, now - started)

    def observe(self, now: float, limit: float | None, remaining: float | None) -> None:
        """Obey the ``x-ratelimit-*`` headers of an answer that was no 429."""
        self._rejections = 0
        if limit is not None and limit > 0 and min(limit, self._configured) != self._per_second:
            self._per_second = min(limit, self._configured)
            self._deal()
        if remaining is not None:
            # Alone on the account this never binds: Loops can not have counted more of ours than we have.
            self._forget(now)
            self._allowed = self._under_way + len(self._answered) + max(0.0, remaining)
            self._allowed_until = now + self._seconds

    def reject(self, now: float, retry_after: float | None) -> None:
        """A 429: nothing starts for ``retry_after`` seconds, or for a random and growing time. Others of the same moment add nothing."""
        if now < self._stopped_until:
            return
        self._stopped_until = now + max(retry_after or 0.0, self._backoff.delay(self._rejections))
        self._rejections += 1

    def _deal(self) -> None:
        self._share, self._seconds = worker_share(self._per_second, self._partitions, self._total_partitions)

    def _hold(self) -> float:
        """How long an answered request still counts. What every request spends on its way can not bring two of them closer together."""
        known = self._samples >= _LATENCY_SAMPLES
        return max(0.0, self._seconds + _MARGIN_SECONDS - (_LATENCY_SHARE * self._least_latency if known else 0.0))

    def _forget(self, now: float) -> None:
        horizon = now - self._hold()
        while self._answered and self._answered[0] <= horizon:
            self._answered.popleft()


class Limiter(Protocol):
    """What a caller of Loops needs of the limit."""

    async def start(self) -> float:
        """Wait until a request may start, and return its start."""

    def finish(self, started: float, *, answered: bool = True) -> None:
        """End a request."""

    def observe(self, limit: float | None, remaining: float | None) -> None:
        """Take in what an answer says of the limit."""

    def reject(self, retry_after: float | None) -> None:
        """Take in a 429."""


class RateLimiter:
    """``Window`` on a clock: callers wait in line. For one event loop."""

    def __init__(self, per_second: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        """``per_second`` is the account's limit; the whole of it is this worker's until ``assign`` says otherwise."""
        self._window = Window(per_second)
        self._clock = clock
        self._line = asyncio.Lock()
        self._changed = asyncio.Event()

    def assign(self, partitions: Collection[int], total_partitions: int) -> None:
        """Take the share of a worker that owns ``partitions`` of ``total_partitions``; call it after every rebalance."""
        self._window.assign(partitions, total_partitions)
        self._changed.set()

    async def start(self) -> float:
        """Wait until a request may start and return its start, which ``finish`` needs. The request must follow at once."""
        async with self._line:
            while True:
                now = self._clock()
                delay = self._window.delay(now)
                if delay <= 0:
                    self._window.start(now)
                    return now
                self._changed.clear()
                try:
                    async with asyncio.timeout(None if math.isinf(delay) else delay):
                        await self._changed.wait()
                except TimeoutError:
                    continue

    def finish(self, started: float, *, answered: bool = True) -> None:
        """End a request. ``answered`` is False when it got no answer. Call it exactly once for each start, whatever happens."""
        self._window.finish(started, self._clock(), answered=answered)
        self._changed.set()

    def observe(self, limit: float | None, remaining: float | None) -> None:
        """Obey the ``x-ratelimit-*`` headers of an answer."""
        self._window.observe(self._clock(), limit, remaining)

    def reject(self, retry_after: float | None) -> None:
        """Stop everybody after a 429, for at least ``retry_after`` seconds when Loops named a time."""
        self._window.reject(self._clock(), retry_after)
