"""What of a partition's mails has no outcome yet, and when its next records may be begun beside it."""

from collections.abc import Callable

MOST_WAITING = 1_000
"""Mails of a partition that may be left while its next records are begun: those that wait by themselves, and those of the same teams
behind them. Some megabytes, and a crash makes no more calls again than that."""


class Backlog:
    """The lines of one partition's mails, each of one team in one batch.

    The next records may be begun once each line waits for something of its own, and no more than ``most`` mails are left.
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

    def open(self, mails: int) -> "Line":
        """Return the line of so many mails of one team."""
        self._busy += 1
        self._left += mails
        return Line(self, mails)

    def change(self, *, busy: int = 0, left: int = 0) -> None:
        """Note that so many lines have come to wait or ended, and so many mails have their outcome."""
        self._busy -= busy
        self._left -= left
        if self._busy == 0 and self._left <= self._most and self._let_go is not None:
            let_go, self._let_go = self._let_go, None
            let_go()


class Line:
    """One team's mails of one batch, which go out one after the other."""

    def __init__(self, backlog: Backlog, mails: int) -> None:
        self._backlog = backlog
        self._left = mails
        self._is_busy = True

    def waits(self) -> None:
        """Its next mail waits: for its team's mails of earlier batches, or by itself."""
        busy, self._is_busy = self._is_busy, False
        self._backlog.change(busy=busy)

    def settled(self) -> None:
        """One mail has its outcome."""
        self._left -= 1
        self._backlog.change(left=1)

    def close(self) -> None:
        """The line has ended, or was given up."""
        left, self._left = self._left, 0
        busy, self._is_busy = self._is_busy, False
        self._backlog.change(busy=busy, left=left)
