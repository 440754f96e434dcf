"""When a consumer fetches again: at once where nothing came, and otherwise after a while in which more can come together."""

from typing import NamedTuple


class FetchPace(NamedTuple):
    """A time in seconds, from the first fetch that brings records on, with at most two fetches that bring any: the first, and one that begins
    ``then`` after it. A lone record is fetched at once either way."""

    seconds: float
    then: float


SENT_ONE_BY_ONE = FetchPace(0.05, 0.05)
"""For what services send as it happens: a fetch brings what came meanwhile, of all partitions, and one transaction takes all of it."""

SENT_TOGETHER = FetchPace(0.045, 0.008)
"""For what transactions send: a transaction's end is written to one partition after the other, so that a fetch may bring the first of them
alone. The time is less than lies between the transactions of one worker, whose next is not to wait for it."""

UNHURRIED = FetchPace(0.1, 0.1)
"""For what a person reads."""


class FetchDelays:
    """Keeps a pace."""

    def __init__(self, pace: FetchPace) -> None:
        self._pace = pace
        self._ends = 0.0

    def after(self, now: float) -> float:
        """Return the seconds until the next fetch, after one that has brought records at ``now`` (monotonic)."""
        if now < self._ends:
            return self._ends - now
        self._ends = now + self._pace.seconds
        return self._pace.then
