"""What of a partition's records has no outcome yet, and when its next records may be begun beside it."""

from collections.abc import Callable

MOST_WAITING = 1_000
"""Records of a partition that may be left while its next ones are begun: those that wait by themselves, and those of the same teams
behind them. Some megabytes, and a crash repeats no more than that."""


class Backlog:
    """The lines of one partition's records, each of one team in one batch.

    The next records may be begun once each line waits for something of its own, and no more than ``most`` records are left.
    """

    def __init__(self, most: int = MOST_WAITING) -> None:
        self._most = most
        self._left = 0
        self._busy = 0
        self._let_go: Callable[[], object] | None = None

    @property
    def is_full(self) -> bool:
        """Whether all that is left waits, and is too much to go on beside it."""
        return self._busy == 0 and self._left > self._most

    def begin(self, let_go: Callable[[], object]) -> None:
        """A batch begins: ``let_go`` is called, once, when the next may. Open its lines before anything is awaited."""
        self._let_go = let_go

    def open(self, records: int) -> "Line":
        """Return the line of so many records of one team."""
        self._busy += 1
        self._left += records
        return Line(self, records)

    def change(self, *, busy: int = 0, left: int = 0) -> None:
        """Note that so many lines have come to wait or ended, and so many records have their outcome."""
        self._busy -= busy
        self._left -= left
        if self._busy == 0 and self._left <= self._most and self._let_go is not None:
            let_go, self._let_go = self._let_go, None
            let_go()


class Line:
    """One team's records of one batch, which are worked in one after the other."""

    def __init__(self, backlog: Backlog, records: int) -> None:
        self._backlog = backlog
        self._left = records
        self._is_busy = True

    def waits(self) -> None:
        """Its next record waits: for its team's records of earlier batches, or by itself."""
        busy, self._is_busy = self._is_busy, False
        self._backlog.change(busy=busy)

    def settled(self, records: int = 1) -> None:
        """So many records have their outcome."""
        self._left -= records
        self._backlog.change(left=records)

    def close(self) -> None:
        """The line has ended, or was given up."""
        left, self._left = self._left, 0
        busy, self._is_busy = self._is_busy, False
        self._backlog.change(busy=busy, left=left)
