"""Group commit: callers that come at the same time share a statement, and so a commit."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

AT_ONCE = 2
"""Statements under way: while PostgreSQL works on one, the next is filled and encoded."""

GATHER_SECONDS = 0.002
"""For so long the first of a statement waits for others: what one fetch brought comes one after the other, of each partition by itself."""


class GroupCommit(Generic[Item, Result]):
    """Calls ``run`` with the items of several callers. Use it from one event loop.

    What is asked for while ``AT_ONCE`` statements are under way goes into the next one, and so does what comes in the first
    ``GATHER_SECONDS``: under load one commit serves many.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        most_items: int,
        *,
        key: Callable[[Item], Hashable] | None = None,
        at_once: int = AT_ONCE,
    ) -> None:
        """``run`` returns a result for each item, in order; it must be idempotent when a caller may come again. Callers share a statement as
        long as it has ``most_items`` at most, and with ``key`` no two items of one key."""
        self._run = run
        self._most_items = most_items
        self._key = key
        self._turns = asyncio.Semaphore(at_once)
        self._filling: _Group[Item, Result] | None = None

    async def __call__(self, items: Sequence[Item]) -> Sequence[Result]:
        """Return the results of ``items``, in their order. Raises what ``run`` raises, as do all who share the statement."""
        if not items:
            return []
        keys = set() if self._key is None else set(map(self._key, items))
        group = self._filling
        if group is None or len(group.items) + len(items) > self._most_items or not group.keys.isdisjoint(keys):
            group = self._filling = _Group()
            group.results = asyncio.create_task(self._run_group(group))
        start = len(group.items)
        group.items += items
        group.keys |= keys
        # A caller that is cancelled must not take the others' items with it.
        results = await asyncio.shield(group.results)
        return results[start : start + len(items)]

    async def _run_group(self, group: "_Group[Item, Result]") -> Sequence[Result]:
        await asyncio.sleep(GATHER_SECONDS)
        async with self._turns:
            if self._filling is group:
                self._filling = None
            return await self._run(group.items)


class _Group(Generic[Item, Result]):
    """Items that share a statement."""

    results: "asyncio.Task[Sequence[Result]]"

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.keys: set[Hashable] = set()
