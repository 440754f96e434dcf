"""The coming times of one partition's rows: which of them has passed is found without a look at every row.

A heap of (time, key), and nothing beside it. What is noted of a row stays in the heap when the row changes: an entry counts only as
long as its row, as it is now, still waits for that time. Rows without a coming time cost nothing.
"""

from collections.abc import Callable, Iterator, Mapping
from heapq import heapify, heappop, heappush

MIN_STALE = 10_000
"""So many entries may be stale whatever the size of the heap. Beyond it, no more than half of them are."""

Rows = Mapping[bytes, bytes]


class DueTimes:
    """Coming times in Unix seconds, by key. ``due_at`` reads the earliest of a packed row, 0 for none; without it nothing is ever due."""

    __slots__ = ("_due_at", "_heap", "_stale", "_taken")

    def __init__(self, due_at: Callable[[bytes], int] | None = None) -> None:
        self._due_at = due_at
        self._heap: list[tuple[int, bytes]] = []
        self._stale = 0
        self._taken: set[bytes] = set()
        """Keys whose entry was taken and whose row has not changed since."""

    def __len__(self) -> int:
        return len(self._heap)

    def forget(self) -> None:
        """Hold nothing: the rows are about to be restored."""
        self._heap, self._stale = [], 0
        self._taken.clear()

    def fill(self, rows: Rows) -> None:
        """Hold the coming time of each of ``rows``, and nothing else."""
        due_at = self._due_at
        if due_at is None:
            return
        heap = [(time, key) for key, packed in rows.items() if (time := due_at(packed))]
        heapify(heap)
        self._heap, self._stale = heap, 0
        self._taken.clear()

    def note(self, rows: Rows, key: bytes, former: bytes | None) -> None:
        """Take in that the row of ``key`` was ``former`` (None: there was none) and is now as it stands in ``rows``."""
        due_at = self._due_at
        if due_at is None:
            return
        time, before = due_at(rows[key]), 0 if former is None else due_at(former)
        if self._taken and key in self._taken:  # it may wait for the same time again, and has no entry of it any more
            self._taken.discard(key)
            before = 0
        if time == before:
            return
        if time:
            heappush(self._heap, (time, key))
        if before:
            self._stale += 1
            if self._stale > MIN_STALE and 2 * self._stale > len(self._heap):
                self.fill(rows)

    def has_passed(self, rows: Rows, now: int) -> bool:
        """Whether the row of some key waits for a time that has passed. Lets go of stale entries that it meets."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            if self._counts(rows, *heap[0]):
                return True
            heappop(heap)
        return False

    def take(self, rows: Rows, now: int) -> Iterator[bytes]:
        """Let go of one entry after the other whose time has passed, earliest first, and yield the keys of those that count."""
        last: tuple[int, bytes] | None = None
        while self.has_passed(rows, now):
            entry = heappop(self._heap)
            if entry != last:  # a row that went to another time and back has two
                self._taken.add(entry[1])
                yield entry[1]
            last = entry

    def _counts(self, rows: Rows, time: int, key: bytes) -> bool:
        packed = rows.get(key)
        return packed is not None and self._due_at is not None and self._due_at(packed) == time
