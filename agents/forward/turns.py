"""Whose turn it is: one mail of a team at a time, and the next one of a team is roused when the one before it has its outcome."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from itertools import count

Team = uuid.UUID | None
Place = tuple[int, int]


class Turns:
    """The turns of one process. Use it from one event loop."""

    def __init__(self) -> None:
        self._locks: dict[Team, tuple[asyncio.Lock, int]] = {}
        self._waiters: dict[Team, dict[tuple[Place, int], asyncio.Event]] = {}
        self._numbers = count()

    def is_taken(self, team: Team) -> bool:
        """Whether one of the team's mails has its turn, or waits for it."""
        return team in self._locks

    @contextlib.asynccontextmanager
    async def turn(self, team: Team) -> AsyncIterator[None]:
        """Keep a team's other mails waiting during the block. First come, first served."""
        lock, users = self._locks.get(team, (None, 0))
        lock = lock or asyncio.Lock()
        self._locks[team] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[team]
            if users == 1:
                del self._locks[team]
            else:
                self._locks[team] = lock, users - 1

    async def until_due(self, team: Team, place: Place, seconds: float) -> bool:
        """Wait for so long and return True, or return False once it is roused sooner."""
        key, roused = (place, next(self._numbers)), asyncio.Event()
        waiters = self._waiters.setdefault(team, {})
        waiters[key] = roused
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await roused.wait()
            return False
        except TimeoutError:
            return True
        finally:
            del waiters[key]
            if not waiters and self._waiters.get(team) is waiters:
                del self._waiters[team]

    def rouse(self, team: Team) -> None:
        """Rouse the first of a team's mails that wait here, by its place."""
        waiters = self._waiters.get(team)
        if waiters:
            waiters[min(waiters)].set()
