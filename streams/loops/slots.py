"""The places in the account's limit, which all forwarders share: who makes a request takes one, and it is free again a second after the answer.

A limit of ten requests a second has ten slots. A slot is taken ahead of the time at which it is free, for no longer than a request can
last; so what a forwarder that died or was stalled held is free again by itself, after its last request can no longer be counted.
Limits above ``MOST_SLOTS`` have as many slots, each of several requests.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

MOST_SLOTS = 100
"""Beyond this a slot stands for several requests: sharing costs some hundred statements a second at most, however high the limit."""

AHEAD_SECONDS = 0.25
"""How long before it is free a slot may be taken: longer than PostgreSQL takes to answer, and little to lose where a forwarder dies."""

OTHERS_WINDOWS = 2.0
"""For how many windows of the limit a slot is left to others after they were last seen to use it. More than one: what they use goes up and
down, and each slot that is tried too soon costs a 429."""

RETURN_PACE = 0.5
"""At this part of the limit's pace the slots come back after a stop: the first ones find out what others use, before there are more to be
refused. All at once they would cost a 429 for each worker, and then the next stop."""

LONGEST_SECONDS = 400.0
"""A slot that is not free for longer than this was written by a clock that has been set back since, and counts as free. More than a
stop after a 429 can last."""


NOT_COUNTED = -1.0
"""What is left of the limit when a request is refused for it: nothing, and Loops has not counted this one."""


class Limit(NamedTuple):
    """So many requests in any ``seconds``."""

    requests: int
    seconds: float

    @property
    def slots(self) -> int:
        """How many slots it has."""
        return min(self.requests, MOST_SLOTS)

    def size(self, slot: int) -> int:
        """How many requests that slot (from 0) stands for; all of them together are the limit."""
        return (slot + 1) * self.requests // self.slots - slot * self.requests // self.slots


def whole_limit(per_second: float) -> Limit:
    """Return a rate as whole requests, one in a longer time where it is less than one a second."""
    whole = math.floor(per_second)
    return Limit(whole, 1.0) if whole >= 1 else Limit(1, 1.0 / per_second)


class Grant(NamedTuple):
    """A slot that is ours from ``delay`` seconds on. ``use`` numbers its uses."""

    slot: int
    use: int
    delay: float


class Return(NamedTuple):
    """A slot that is given back: free after ``hold`` seconds, unless another use has begun since.

    ``remaining`` is what Loops then said is left of the limit, if it did; ``NOT_COUNTED`` where it refused the request for
    the limit.
    """

    slot: int
    use: int
    hold: float
    remaining: float | None = None


class Slots(Protocol):
    """Where the slots are kept. Waits while that is away."""

    async def take(self, limit: Limit, lease: float) -> Grant | None:
        """Take the slot that is free soonest, for ``lease`` seconds from then on; None when none is within ``AHEAD_SECONDS``."""

    async def give_back(self, limit: Limit, returns: Sequence[Return], stop: float) -> None:
        """Give slots back, leave to others of the account what they use, and all of it for ``stop`` seconds; then they come back one by one."""


def return_step(limit: Limit) -> float:
    """Return the seconds between two slots that come back after a stop. Pure."""
    return limit.seconds / limit.slots / RETURN_PACE


def slots_of_others(limit: Limit, ours: int, remaining: float) -> int:
    """Return how many slots others of the account use at least, given how many were ours at any time from a request until its answer.

    Alone on the account this is 0: Loops can not have counted more of ours than were taken. Pure.
    """
    return max(0, math.floor((limit.requests - remaining) * limit.slots / limit.requests - ours))


@dataclass(slots=True)
class _Slot:
    """Times of the table's clock. It is free when it is neither ours nor left to others any more."""

    use: int = 0
    started: float = -math.inf
    ours_until: float = -math.inf
    others_until: float = -math.inf

    @property
    def free(self) -> float:
        return max(self.ours_until, self.others_until)


class SlotTable:
    """The rules of the slots, as a function of the times that it is given, in seconds of one clock."""

    def __init__(self) -> None:
        self._slots: list[_Slot] = []

    def take(self, now: float, limit: Limit, lease: float) -> Grant | None:
        """See ``Slots.take``."""
        self._slots += [_Slot() for _ in range(limit.slots - len(self._slots))]
        number = min(range(limit.slots), key=lambda index: self._slots[index].free)
        slot = self._slots[number]
        if slot.free > now + AHEAD_SECONDS:
            return None
        slot.use += 1
        slot.started = max(now, slot.free)
        slot.ours_until = slot.started + lease
        return Grant(number, slot.use, slot.started - now)

    def give_back(self, now: float, limit: Limit, returns: Sequence[Return], stop: float) -> None:
        """See ``Slots.give_back``."""
        slots = self._slots[: limit.slots]
        valid = [given for given in returns if self._slots[given.slot].use == given.use]
        others = max((self._of_others(slots, limit, given) for given in valid), default=0)
        for slot in sorted(slots, key=lambda slot: (-slot.others_until, slot.ours_until))[:others]:
            slot.others_until = max(slot.others_until, now + OTHERS_WINDOWS * limit.seconds)
        for given in valid:
            self._slots[given.slot].ours_until = now + given.hold
        if stop > 0:
            for place, slot in enumerate(sorted(slots, key=lambda slot: slot.free)):
                slot.others_until = max(slot.others_until, now + stop + place * return_step(limit))

    def _of_others(self, slots: Sequence[_Slot], limit: Limit, given: Return) -> int:
        if given.remaining is None:
            return 0
        ours = sum(slot.ours_until > self._slots[given.slot].started for slot in slots)
        return slots_of_others(limit, ours, given.remaining)


class MemorySlots:
    """The slots of a forwarder that is alone."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._table = SlotTable()
        self._clock = clock

    async def take(self, limit: Limit, lease: float) -> Grant | None:
        """See ``Slots.take``."""
        return self._table.take(self._clock(), limit, lease)

    async def give_back(self, limit: Limit, returns: Sequence[Return], stop: float) -> None:
        """See ``Slots.give_back``."""
        self._table.give_back(self._clock(), limit, returns, stop)
