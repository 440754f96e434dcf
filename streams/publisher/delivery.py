"""Delivery of records to Kafka, in their order, by one thread: through memory, and through a spool while Kafka is away.

A record's way, and where it waits:

    put() ─▶ backlog (memory) ─┬───────────────▶ window (librdkafka has it) ─▶ acknowledged
                               └─▶ spool (disk) ─▶ window

1. What is put waits in the backlog. The window takes from the spool while anything there is unread, else from the backlog:
   nothing overtakes what is spooled.
2. Once the oldest record of the window has waited ``spill_after_seconds``, Kafka is late: the window's records are written to the
   spool (and stay in the window), then the backlog, then all that comes, at once, until Kafka has acknowledged again.
3. A record leaves the spool once it, and all before it, are acknowledged.
4. A record that is larger than its topic takes now, for the topic was altered, goes to a queue of its own beside the spool. It holds up
   nothing and is not lost: it is tried again every ``aside_seconds``, in no order with newer records. Without a spool it is dropped.

So a crash loses what was put within the last ``spill_after_seconds`` and was not acknowledged; with 0 every record is written
before it is sent, and what is lost is what the thread had not taken yet, a few milliseconds' worth. What is delivered again
after a crash has the same bytes.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from queue import Empty, SimpleQueue

from streams.errors import KafkaUnavailable
from streams.kafka.producer import Record
from streams.publisher.entries import Entry, Limits, Settled, State, Stats, pack, unpack
from streams.publisher.failures import FailureReports, OnFailure
from streams.publisher.spool import Spool
from streams.publisher.transport import TransportFactory
from streams.publisher.window import RETRY_SECONDS, Window

SLICE = 50
STORED_SLICE = 250
"""Records sent, and written, without letting go of the interpreter: about 0.3 ms, so that no thread that publishes waits longer."""

_YIELD_SECONDS = 0.0002
"""A true sleep after each slice while there is more to do: an interpreter lock that is let go for less is not handed over."""

REOPEN_SECONDS = 5.0
"""How often a spool that another process has, or that can not be opened, is tried again."""

ASIDE = "too-large"
"""The directory, in the spool's, of records that are larger than their topic takes. It may grow as large as the spool."""

_ACK_POLL_SECONDS = 0.005
_LATE_POLL_SECONDS = 0.05
_LATE_SECONDS = 0.1  # when everything is written before it is sent, and lateness only sets the pace
_IDLE_SECONDS = 0.5
_END_SECONDS = 5.0

log = logging.getLogger(__name__)


class Delivery:
    """Delivers what is put, from its own thread. ``put`` may be called from any thread and from a signal handler.

    ``open_spool`` opens the spool, or there is none; it is called in the thread, and again later when it raises OSError.
    ``on_failure`` is called in the thread, with ("invalid" | "dropped", one sentence), for what is refused or lost; whatever waits
    while it runs waits longer.
    """

    def __init__(
        self,
        new_transport: TransportFactory,
        open_spool: Callable[[], Spool] | None = None,
        limits: Limits | None = None,
        *,
        on_failure: OnFailure | None = None,
        refusal: str | None = None,
    ) -> None:
        """``refusal`` says why nothing is to be sent from the start on."""
        self._open_spool = open_spool
        self._limits = limits or Limits()
        # Shared with the callers of put; each count has one writer: the holder of the lock, or the thread.
        self._lock = threading.RLock()  # never held while anything is waited for; reentrant, for a signal handler may publish
        self._queue: SimpleQueue[Entry | None] = SimpleQueue()
        self.failures = FailureReports(on_failure)
        self._accepted = self._accepted_bytes = self._refused = 0
        self._closing = False
        self._deadline = 0.0
        self._left = 0
        # The thread's own.
        self._backlog: deque[Entry] = deque()
        self._taken = self._taken_bytes = 0
        self.spool_problem: str | None = None
        """Why the spool does not take records now."""
        self._window = Window(new_transport, self._limits, self.failures, self._keep_aside)
        self._spool: Spool | None = None
        self._aside: Spool | None = None
        self._reopen_at = self._store_at = self._aside_at = 0.0
        self.is_late = False
        """Whether Kafka does not acknowledge now, or is not to be sent anything."""
        self.refusal = refusal
        """Why nothing is to be sent now, in a sentence. May be set from any thread."""
        self._lost = self._spooled = self._recovered = self._damaged = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._thread.start()

    def put(self, record: Record, settled: Settled | None = None) -> bool:
        """Take a record over, in microseconds. False when there is no room, or after ``close``: the record is counted as dropped."""
        entry = Entry(record, settled)
        with self._lock:
            full = (
                self._accepted - self._taken >= self._limits.buffer_records
                or self._accepted_bytes - self._taken_bytes + entry.size > self._limits.buffer_bytes
            )
            if full or self._closing:
                self._refused += 1
            else:
                self._accepted += 1
                self._accepted_bytes += entry.size
                self._queue.put(entry)
                return True
        self.failures.report("dropped", "an event is dropped, for " + ("its buffer is full" if full else "its publisher is closed"))
        return False

    @property
    def kept_aside(self) -> int:
        """How many records wait that are larger than their topic takes."""
        return self._aside.pending if self._aside else 0

    @property
    def sizes(self) -> Mapping[str, int]:
        """``max.message.bytes`` of topics as far as it is known, for what is said of a record that is too large."""
        return self._window.sizes

    @sizes.setter
    def sizes(self, sizes: Mapping[str, int]) -> None:
        self._window.sizes = sizes

    def stats(self) -> Stats:
        """The counts now, without ``invalid``, which is the caller's."""
        spools = [spool for spool in (self._spool, self._aside) if spool is not None]
        lost = self._lost + self._window.lost + sum(spool.lost for spool in spools)
        sent, accepted, refused, recovered = self._window.sent, self._accepted, self._refused, self._recovered
        return Stats(
            published=accepted + refused,
            recovered=recovered,
            sent=sent,
            dropped=refused + lost,
            pending=accepted + recovered - sent - lost,
            spooled=self._spooled,
            damaged=self._damaged + sum(spool.damaged for spool in spools),
        )

    def close(self, timeout_seconds: float) -> int:
        """Deliver for at most ``timeout_seconds``, spool the rest, and end. Returns how many are not delivered.

        Without a spool, or with no room in it, these are dropped and counted.
        """
        with self._lock:
            if not self._closing:
                self._closing = True
                self._deadline = time.monotonic() + timeout_seconds
                self._queue.put(None)
        if self._thread is not threading.current_thread():
            self._ended.wait(timeout_seconds + _END_SECONDS)
        return self._left

    def abandon(self) -> None:
        """In a forked child: let go of the parent's files, and of its producer without ending it, for its threads are not here."""
        if self._ended.is_set():
            return
        for spool in (self._spool, self._aside):
            if spool is not None:
                spool.abandon()
        self._window.abandon()

    # The thread.

    def _run(self) -> None:
        while True:
            try:
                if self._step():
                    break
            except Exception:
                if self.failures.throttle.passes("exception"):
                    log.exception("delivery failed and goes on")
                time.sleep(RETRY_SECONDS)
        self._ended.set()
        self._window.release()

    def _step(self) -> bool:
        """Run one iteration. Returns whether everything has ended."""
        if self._spool is None and self._open_spool is not None:
            self._try_spool(self._open_spool)
        self._wait()
        now = time.monotonic()
        self._forget_acknowledged()
        self._note_lateness(now)
        if self.refusal is None:
            self._window.retry(now)
        self._store(now)
        self._send(now)
        self.failures.emit()
        if self._closing and (now >= self._deadline or self._is_empty()):
            self._end()
            return True
        return False

    def _wait(self) -> None:
        """Wait for something to do: a little while there is more to send, for acknowledgements while they are due, else for events."""
        if self.refusal is None and self._window.room and (self._backlog or (self._spool and self._spool.unread)):
            time.sleep(_YIELD_SECONDS)
            self._take(0.0)
            self._window.poll(0.0)
        elif self._window.in_flight and not self.is_late:
            self._take(0.0)
            self._window.poll(_ACK_POLL_SECONDS)
        else:
            self._take(_LATE_POLL_SECONDS if self._window.entries or self._backlog else _IDLE_SECONDS)
            self._window.poll(0.0)

    def _is_empty(self) -> bool:
        return not self._window.entries and not self._backlog and self._queue.empty() and not (self._spool and self._spool.unread)

    def _try_spool(self, open_spool: Callable[[], Spool]) -> None:
        now = time.monotonic()
        if now < self._reopen_at:
            return
        try:
            self._spool = open_spool()
        except OSError as error:
            taken = isinstance(error, BlockingIOError)
            why = "another process has it" if taken else f"it can not be opened: {error.strerror}"
            self.failures.warn("no spool", f"events wait in memory only, without the spool, for {why}")
        else:
            self._recovered += self._spool.unread
            self._try_aside(self._spool)
            if self._spool.unread or self._spool.damaged:
                log.info("%d records in the spool are sent first; %d places in it are damaged", self._spool.unread, self._spool.damaged)
        self._reopen_at = now + REOPEN_SECONDS

    def _try_aside(self, spool: Spool) -> None:
        """Open the queue beside the spool. Without it a spooled record that is too large waits where it is, and what follows behind it."""
        try:
            self._aside = spool.beside(ASIDE)
        except OSError as error:
            self.failures.warn("no aside", f"records that are too large can not be kept aside: {error.strerror}")
        else:
            self._recovered += self._aside.unread

    def _take(self, wait_seconds: float) -> None:
        try:
            entry = self._queue.get(timeout=wait_seconds) if wait_seconds else self._queue.get_nowait()
            for _ in range(STORED_SLICE):
                if entry is not None:
                    self._backlog.append(entry)
                entry = self._queue.get_nowait()
            if entry is not None:
                self._backlog.append(entry)
        except Empty:
            return

    def _forget_acknowledged(self) -> None:
        stored, aside = self._window.forget_acknowledged()
        if self._spool is not None:
            self._spool.ack(stored)
        if self._aside is not None:
            self._aside.ack(aside)

    def _keep_aside(self, entry: Entry) -> bool:
        """Write a record that is too large for its topic beside the spool; behind the others there, when it comes from there."""
        if self._aside is None:
            return False
        self._aside_at = time.monotonic() + self._limits.aside_seconds
        kept = self._aside.append([pack(entry.record)]).kept
        self._spooled += kept
        return kept == 1

    def _note_lateness(self, now: float) -> None:
        refusal = self.refusal
        late = refusal is not None or self._window.is_late(now, self._limits.spill_after_seconds or _LATE_SECONDS)
        if late and not self.is_late:
            where = "the spool" if self._spool else "memory"
            why = refusal or "Kafka does not acknowledge"
            self.failures.warn("late", f"{why.removesuffix('.')}; events wait in {where} until that is over")
        elif self.is_late and not late and self.failures.throttle.passes("in time"):
            log.info("Kafka acknowledges again")
        self.is_late = late

    def _store(self, now: float, *, all_of_it: bool = False) -> None:
        """Write to the spool what should not stay in memory alone. The disk's order is the order of delivery."""
        spool = self._spool
        if spool is None or (now < self._store_at and not all_of_it):
            return
        crowded = self._accepted - self._taken > self._limits.buffer_records // 2 or (
            self._accepted_bytes - self._taken_bytes > self._limits.buffer_bytes // 2
        )
        if not (self.is_late or crowded or all_of_it or spool.unread or self._limits.spill_after_seconds == 0):
            return
        if not spool.unread and not self._append(self._window.unstored(), now, read=True):
            return
        while self._backlog:
            entries = list(islice(self._backlog, STORED_SLICE))
            complete = self._append(entries, now)
            for _ in range(sum(entry.stored for entry in entries)):
                self._leave_backlog()
            if not complete:
                return

    def _append(self, entries: Sequence[Entry], now: float, *, read: bool = False) -> bool:
        """Write ``entries``; False when not all could be."""
        spool = self._spool
        assert spool is not None
        for begin in range(0, len(entries), STORED_SLICE):
            part = entries[begin : begin + STORED_SLICE]
            count, problem = spool.append([pack(entry.record) for entry in part], read=read)
            for entry in part[:count]:
                entry.stored = True
                entry.settle(None)
            self._spooled += count
            time.sleep(_YIELD_SECONDS)
            self.spool_problem = problem
            if problem is not None:
                self._store_at = now + RETRY_SECONDS
                self.failures.warn("spool", f"{problem}; events wait in memory, and are dropped when there is no room")
                return False
        return True

    def _leave_backlog(self) -> Entry:
        entry = self._backlog.popleft()
        self._taken += 1
        self._taken_bytes += entry.size
        return entry

    def _send(self, now: float) -> None:
        spool = self._spool
        room = min(SLICE, self._window.room)
        if not room or self.refusal is not None:
            return
        if (
            self._aside is not None
            and self._aside.unread
            and now >= self._aside_at
            and not any(entry.aside for entry in self._window.entries)
        ):
            for payload in self._aside.read(1):
                self._window.add(self._spooled_entry(payload, aside=True), now)
        if spool is not None and spool.unread:
            for payload in spool.read(room, self._window.room_bytes):
                self._window.add(self._spooled_entry(payload), now)
            return
        while room and self._backlog:
            self._window.add(self._leave_backlog(), now)
            room = min(room - 1, self._window.room)

    def _spooled_entry(self, payload: bytes, *, aside: bool = False) -> Entry:
        record = unpack(payload)
        entry = Entry(record or Record("", b""), stored=not aside, aside=aside)
        if record is None:
            entry.state = State.DONE
            self._lost += 1
            self._damaged += 1
            self.failures.report("dropped", "an event in the spool is dropped, for it can not be read")
        return entry

    def _end(self) -> None:
        """Settle what is in flight, spool what can be, count the rest as lost."""
        while not self._queue.empty():
            self._take(0.0)
        self._window.stop()
        self._forget_acknowledged()
        self._store(time.monotonic(), all_of_it=True)
        waiting = [entry for entry in (*self._window.entries, *self._backlog) if entry.state is not State.DONE]
        gone = [entry for entry in waiting if not (entry.stored or entry.aside)]
        kept = len(waiting) - len(gone) + sum(spool.unread for spool in (self._spool, self._aside) if spool)
        for entry in gone:
            self._window.lose(entry, KafkaUnavailable("Kafka did not acknowledge the record before the end, and it could not be spooled."))
        self._left = kept + len(gone)
        self.failures.emit()
        for spool in (self._spool, self._aside):
            if spool is not None:
                self._damaged += spool.damaged
                self._lost += spool.lost
                spool.close()
        self._spool = self._aside = None
        if self._left:
            log.warning("%d records are not delivered at the end: %d are in the spool, %d are dropped", self._left, kept, len(gone))
