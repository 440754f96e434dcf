"""Batches of one topic's partition whose rest goes on beside the next ones: acked in their order, each only when all of it is durable."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

Rest = asyncio.Task[Any]
"""Ends once all of a batch is durable, or fails with what ends the process."""


class Unfinished:
    """The batches of one topic's partition that were begun and are not acked, in their order. Use it from one event loop.

    A position is committed up to the first that is not durable, and no further: whatever dies, the rest is read again.
    """

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        """``failed`` is called with what a rest raises."""
        self._failed = failed
        self._acks: deque[tuple[Callable[[], object], Rest | None]] = deque()
        self._generation = -1

    async def enter(self, generation: int) -> None:
        """Give up what was read in a former generation: it is read again in this one."""
        if generation != self._generation:
            rests = self.abandon()
            if rests:
                await asyncio.wait(rests)
            self._generation = generation

    def add(self, ack: Callable[[], object], rest: Rest | None) -> None:
        """Note a batch that is durable but for ``rest``, or all of it (None)."""
        if rest is None and self._acks and self._acks[-1][1] is None:
            self._acks.pop()  # this one's ack covers that one's records
        self._acks.append((ack, rest))
        if rest is not None:
            rest.add_done_callback(self._ended)
        self._ack_durable()

    def abandon(self) -> list[Rest]:
        """Ack nothing of what was added any more, and cancel the rests; return them."""
        rests = [rest for _, rest in self._acks if rest is not None]
        self._acks.clear()
        for rest in rests:
            rest.cancel()
        return rests

    def _ended(self, rest: Rest) -> None:
        error = asyncio.CancelledError() if rest.cancelled() else rest.exception()
        if all(rest is not other for _, other in self._acks):
            return  # it was abandoned
        if error is not None:
            self._failed(error)
        else:
            self._ack_durable()

    def _ack_durable(self) -> None:
        ack = None
        while self._acks and _is_durable(self._acks[0][1]):
            ack, _ = self._acks.popleft()
        if ack is not None:
            ack()


def _is_durable(rest: Rest | None) -> bool:
    return rest is None or (rest.done() and not rest.cancelled() and rest.exception() is None)
