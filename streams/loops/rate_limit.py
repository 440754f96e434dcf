"""Loops' limit: so many requests in any second, for the whole account, however many workers send.

Three rules together. *Slots*: a request takes one of the account's slots (``slots.py``), which all workers share, and its slot is free
again a second after its answer. Loops counted it somewhere between its start and its answer, so no sliding second of Loops' own clock
can hold more, whatever the network does and whoever dies. *Pace*: a worker's starts are spread evenly, with a little catching up,
instead of coming in bursts. *Answers*: a lower ``x-ratelimit-limit`` is obeyed, ``x-ratelimit-remaining`` shows what others use of
the account, and a 429 stops all workers for a while.

Source: Loops documentation, "API rate limiting": 10 requests a second for each team, exponential back-off after a 429.
"""

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from streams.loops.slots import NOT_COUNTED, Limit, MemorySlots, Return, Slots, whole_limit
from streams.runtime.waiting import Backoff

CATCH_UP_SECONDS = 0.05
"""How far starts may lag behind the even pace and still be made up for: more than an event loop's hiccup, less than a burst."""

REJECTED_BACKOFF = Backoff(first_seconds=0.5, cap_seconds=5.0)
"""How long everybody stops after the first, second, ... 429 in a row."""

CALL_SECONDS = 10.0
"""The longest that a request lasts, unless the caller says otherwise."""

SLACK_SECONDS = 1.0
"""How long a slot may wait for its request once it is ours. A process that was stopped for longer takes another one."""

OPEN_SECONDS = 0.01
"""For so long requests may join a slot that stands for several: what one slot of ``MOST_SLOTS`` is worth."""

_POLL_SECONDS = 0.05
"""Between the questions for a slot while all are taken; much less than they are given out ahead of time."""

_MARGIN_SECONDS = 0.005
"""Added to the second, against clocks that do not run alike. Costs half a percent."""

_SAMPLES = 100
_LEAST_SAMPLES = 20
_LATENCY_SHARE = 0.9


class Latency:
    """What every request spends on its way, judged by those that were answered."""

    def __init__(self) -> None:
        self._latest: deque[float] = deque(maxlen=_SAMPLES)
        self._least = math.inf
        self._unread = 0
        self.certain = 0.0
        """Seconds that no request takes less than, as far as is known; a little less than the least that was seen, and much less where
        the fast ones differ."""

    def add(self, seconds: float) -> None:
        """Note one request's."""
        self._latest.append(seconds)
        is_least = seconds < self._least
        self._least = min(self._least, seconds)
        self._unread += 1
        if len(self._latest) >= _LEAST_SAMPLES and (is_least or self._unread >= _LEAST_SAMPLES):
            fast = sorted(self._latest)[len(self._latest) // 10]
            self.certain = _LATENCY_SHARE * max(0.0, self._least - max(0.0, fast - self._least))
            self._unread = 0


@dataclass(slots=True, eq=False)
class _OpenSlot:
    """A slot that is ours. Times are of the worker's clock: requests may start from ``begins`` to ``ends``."""

    slot: int
    use: int
    size: int
    begins: float
    ends: float
    used: int = 0
    under_way: int = 0
    finished: float = -math.inf
    remaining: float | None = None
    is_returned: bool = False

    def is_open(self, now: float) -> bool:
        """Whether another request may join."""
        return self.used < self.size and now <= self.ends


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
    """One worker's way to the slots: callers wait in line. For one event loop."""

    def __init__(
        self,
        per_second: float,
        slots: Slots | None = None,
        *,
        call_seconds: float = CALL_SECONDS,
        backoff: Backoff = REJECTED_BACKOFF,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``per_second`` is the account's limit. ``slots`` is shared by all workers of the account (None: this worker is alone), and
        ``call_seconds`` is when a request is given up."""
        self._configured = per_second
        self._limit = whole_limit(per_second)
        self._slots = slots or MemorySlots()
        self._call_seconds = call_seconds
        self._backoff = backoff
        self._clock = clock
        self._line = asyncio.Lock()
        self._in_line = 0
        self._latency = Latency()
        self._pace = -math.inf
        self._stopped_until = -math.inf
        self._rejections = 0
        self._open: _OpenSlot | None = None
        self._last: _OpenSlot | None = None
        self._of: dict[float, _OpenSlot] = {}
        self._taking: asyncio.Task[None] | None = None
        self._returns: list[_OpenSlot] = []
        self._stop_seconds = 0.0
        self._returning: asyncio.Task[None] | None = None

    async def start(self) -> float:
        """Wait until a request may start and return its start, which ``finish`` needs. The request must follow at once."""
        self._in_line += 1
        try:
            async with self._line:
                while (started := await self._try_start()) is None:
                    pass
                return started
        finally:
            self._in_line -= 1
            if self._in_line == 0:
                self._close_unused()

    def finish(self, started: float, *, answered: bool = True) -> None:
        """End a request. ``answered`` is False when it got no answer. Call it exactly once for each start, whatever happens."""
        now = self._clock()
        slot = self._last = self._of.pop(started)
        slot.under_way -= 1
        slot.finished = now
        if answered:
            self._latency.add(now - started)
        self._give_back_if_done(slot)

    def observe(self, limit: float | None, remaining: float | None) -> None:
        """Obey the ``x-ratelimit-*`` headers of the answer to the request that was finished last; await nothing in between."""
        self._rejections = 0
        if limit is not None and limit > 0:
            self._limit = whole_limit(min(limit, self._configured))
        if remaining is not None:
            self._note(remaining)

    def reject(self, retry_after: float | None) -> None:
        """Stop all workers after a 429 to the request that was finished last, for at least ``retry_after`` seconds when Loops named a time.

        Others of the same moment add nothing.
        """
        now = self._clock()
        self._note(NOT_COUNTED)
        if now < self._stopped_until:
            return
        seconds = max(retry_after or 0.0, self._backoff.delay(self._rejections))
        self._rejections += 1
        self._stopped_until = now + seconds
        self._stop_seconds = seconds
        self._begin_returning()

    def _note(self, remaining: float) -> None:
        slot = self._last
        if slot is not None:
            slot.remaining = remaining if slot.remaining is None else min(remaining, slot.remaining)

    async def close(self) -> None:
        """Give back what is taken, if the slots can be reached at once; otherwise it is free again by itself. No request is under way."""
        self._close()
        if self._returning is not None:
            await asyncio.wait({self._returning}, timeout=SLACK_SECONDS)
        for task in (self._taking, self._returning):
            if task is not None:
                task.cancel()

    async def _try_start(self) -> float | None:
        """Start when it is time to, or wait for a part of what is to be waited for."""
        now = self._clock()
        delay = max(self._stopped_until, self._pace - CATCH_UP_SECONDS) - now
        if delay > 0:
            await asyncio.sleep(delay)
            return None
        if self._open is not None and not self._open.is_open(now):
            self._close()
        if self._open is None:
            await asyncio.shield(self._begin_taking())  # the next caller gets the slot where this one gives up
            if self._open is None:
                await asyncio.sleep(random.uniform(0.5, 1.0) * _POLL_SECONDS)
            return None
        if now < self._open.begins:
            await asyncio.sleep(self._open.begins - now)
            return None
        return self._begin(self._open, now)

    def _begin(self, slot: _OpenSlot, now: float) -> float:
        self._pace = max(self._pace, now) + self._limit.seconds / self._limit.requests
        while now in self._of:
            now = math.nextafter(now, math.inf)
        self._of[now] = slot
        slot.used += 1
        slot.under_way += 1
        if slot.used == 1 and slot.size > 1:
            slot.ends = min(slot.ends, now + OPEN_SECONDS)
            asyncio.get_running_loop().call_later(OPEN_SECONDS, self._give_back_if_done, slot)
        if slot.used == slot.size:
            self._open = None
            if self._in_line > 1:
                self._begin_taking()  # the next, while the pace is waited for
        return now

    def _begin_taking(self) -> asyncio.Task[None]:
        if self._taking is None:
            self._taking = asyncio.create_task(self._take())
        return self._taking

    async def _take(self) -> None:
        asked, limit = self._clock(), self._limit
        try:
            grant = await self._slots.take(limit, SLACK_SECONDS + self._call_seconds + limit.seconds)
        finally:
            self._taking = None
        if grant is not None:
            # Its beginning counts from the answer, and its end from the question: whatever the way took, both lie inside of the lease.
            begins = self._clock() + grant.delay
            self._open = _OpenSlot(grant.slot, grant.use, limit.size(grant.slot), begins, asked + grant.delay + SLACK_SECONDS)
            if self._in_line == 0:
                self._close()

    def _close(self) -> None:
        """Let no request join the slot that is open."""
        slot, self._open = self._open, None
        if slot is not None:
            slot.ends = min(slot.ends, self._clock())
            slot.size = slot.used
            self._give_back_if_done(slot)

    def _close_unused(self) -> None:
        """Give up a slot that was taken for a caller who has left the line."""
        if self._open is not None and self._open.used == 0:
            self._close()

    def _give_back_if_done(self, slot: _OpenSlot) -> None:
        if slot.is_returned or slot.under_way or slot.is_open(self._clock()):
            return
        slot.is_returned = True
        if self._open is slot:
            self._open = None
        self._returns.append(slot)
        self._begin_returning()

    def _begin_returning(self) -> None:
        if self._returning is None:
            self._returning = asyncio.create_task(self._return_all())

    async def _return_all(self) -> None:
        try:
            while self._returns or self._stop_seconds:
                returns, self._returns = self._returns, []
                stop, self._stop_seconds = self._stop_seconds, 0.0
                await self._slots.give_back(self._limit, [self._as_return(slot) for slot in returns], stop)
        finally:
            self._returning = None

    def _as_return(self, slot: _OpenSlot) -> Return:
        now = self._clock()
        if slot.used == 0:
            return Return(slot.slot, slot.use, max(0.0, slot.begins - now))
        return Return(slot.slot, slot.use, hold_seconds(self._limit, self._latency) - (now - slot.finished), slot.remaining)


def hold_seconds(limit: Limit, latency: Latency) -> float:
    """How long a request counts after its answer. What every one spends on its way can not bring two of them closer together. Pure."""
    return max(0.0, limit.seconds + _MARGIN_SECONDS - latency.certain)
