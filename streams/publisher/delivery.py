"""Delivery of records to Kafka, in their order, by one thread: through memory, and through a spool while Kafka is away.

A record's way, and where it waits:

    put() ─▶ backlog (memory) ─┬───────────────▶ window (librdkafka has it) ─▶ acknowledged
                               └─▶ spool (disk) ─▶ window

1. What is put waits in the backlog. The window takes from the spool while anything there is unread, else from the backlog:
   nothing overtakes what is spooled.
2. Once the oldest record of the window has waited ``spill_after_seconds``, Kafka is late: the window's records are written to the
   spool (and stay in the window), then the backlog, then all that comes, at once, until Kafka has acknowledged again.
3. A record leaves the spool once it, and all before it, are acknowledged.

So a crash loses what was put within the last ``spill_after_seconds`` and was not acknowledged; with 0 every record is written
before it is sent, and what is lost is what the thread had not taken yet, a few milliseconds' worth. What is delivered again
after a crash has the same bytes.
"""

import ctypes
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any

import msgspec
import structlog
from confluent_kafka import KafkaError, KafkaException

from streams.errors import KafkaUnavailable, RecordTooLarge, TierstreamError
from streams.logging import Throttle
from streams.publisher.spool import Spool
from streams.publisher.transport import Transport, TransportFactory, is_fatal, is_too_large
from streams.transport.producer import Record

SLICE = 50
"""Records handled without letting go of the interpreter: about 0.3 ms, so that no thread that publishes waits for longer."""

RETRY_SECONDS = 1.0
"""How long delivery waits after Kafka refused records, or the disk did."""

REOPEN_SECONDS = 5.0
"""How often a spool that another process has, or that can not be opened, is tried again."""

_ACK_POLL_SECONDS = 0.005
_LATE_POLL_SECONDS = 0.05
_LATE_SECONDS = 0.1  # when everything is written before it is sent, and lateness only sets the pace
_IDLE_SECONDS = 0.5
_OVERHEAD_BYTES = 256

Settled = Callable[[TierstreamError | None], None]
"""Told once, in delivery's thread: None when the record is safe (acknowledged, or in the spool), else why it is lost."""

OnTrouble = Callable[[str, str], None]

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """What may wait where. The window is what librdkafka has and Kafka has not acknowledged."""

    buffer_records: int = 10_000
    buffer_bytes: int = 16_777_216
    window_records: int = 2_000
    window_bytes: int = 8_388_608
    spill_after_seconds: float = 0.1


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts since the start: published + recovered = sent + dropped + invalid + pending, always."""

    published: int
    """Records that were handed over, whatever became of them."""
    recovered: int
    """Records that the spool held from before."""
    sent: int
    """Acknowledged by Kafka."""
    dropped: int
    """Lost: no room in memory nor in the spool, too large for Kafka, or damaged on the disk."""
    invalid: int
    """Refused, for they are no valid events."""
    pending: int
    """Not settled yet, in memory or in the spool."""
    spooled: int
    """Written to the spool, whatever became of them."""
    damaged: int
    """Places in the spool where something stood that is no whole record."""


class _State(Enum):
    WAITING = 0
    IN_FLIGHT = 1
    FAILED = 2  # to be produced again
    DONE = 3  # acknowledged, or lost


class _Entry:
    """One record on its way."""

    __slots__ = ("record", "settled", "since", "size", "state", "stored")

    def __init__(self, record: Record, settled: Settled | None = None, *, stored: bool = False) -> None:
        self.record = record
        self.settled = settled
        self.size = len(record.value) + len(record.key or b"") + _OVERHEAD_BYTES
        self.state = _State.WAITING
        self.stored = stored
        self.since = 0.0

    def settle(self, error: TierstreamError | None) -> None:
        settled, self.settled = self.settled, None
        if settled is not None:
            settled(error)


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(tuple[str, bytes, bytes | None, list[tuple[str, bytes | None]]]).decode


class Delivery:
    """Delivers what is put, from its own thread. ``put`` may be called from any thread and from a signal handler.

    ``open_spool`` opens the spool, or there is none; it is called in the thread, and again later when it raises OSError.
    ``on_trouble`` is called in the thread, with ("invalid" | "dropped", one sentence), for what is refused or lost; whatever waits
    while it runs waits longer.
    """

    def __init__(
        self,
        new_transport: TransportFactory,
        open_spool: Callable[[], Spool] | None = None,
        limits: Limits | None = None,
        *,
        on_trouble: OnTrouble | None = None,
    ) -> None:
        self._new_transport = new_transport
        self._open_spool = open_spool
        self._limits = limits or Limits()
        self._on_trouble = on_trouble
        self._transport: Transport = new_transport()
        # Shared with the callers of put; each count has one writer: the holder of the lock, or the thread.
        self._lock = threading.RLock()  # never held while anything is waited for; reentrant, for a signal handler may publish
        self._queue: SimpleQueue[_Entry | None] = SimpleQueue()
        self._reports: SimpleQueue[tuple[str, str]] = SimpleQueue()
        self._accepted = self._accepted_bytes = self._refused = 0
        self._closing = False
        self._deadline = 0.0
        self._left = 0
        # The thread's own.
        self._backlog: deque[_Entry] = deque()
        self._taken = self._taken_bytes = 0
        self._window: deque[_Entry] = deque()
        self._window_bytes = self._in_flight = 0
        self._spool: Spool | None = None
        self._reopen_at = self._store_at = 0.0
        self._late = self._failed = self._fatal = self._purged = False
        self._retry_at: float | None = None
        self._sent = self._lost = self._spooled = self._recovered = self._damaged = 0
        self._throttle = Throttle()
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._thread.start()

    def put(self, record: Record, settled: Settled | None = None) -> bool:
        """Take a record over, in microseconds. False when there is no room, or after ``close``: the record is counted as dropped."""
        entry = _Entry(record, settled)
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
        self.report("dropped", "an event is dropped, for " + ("its buffer is full" if full else "its publisher is closed"))
        return False

    def report(self, outcome: str, sentence: str) -> None:
        """Have trouble told by the thread: a log line now and then, and ``on_trouble`` each time."""
        if self._reports.qsize() < self._limits.buffer_records:
            self._reports.put((outcome, sentence))

    def stats(self) -> Stats:
        """The counts now, without ``invalid``, which is the caller's."""
        spool = self._spool
        lost = self._lost + (spool.lost if spool else 0)
        damaged = self._damaged + (spool.damaged if spool else 0)
        sent, accepted, refused, recovered = self._sent, self._accepted, self._refused, self._recovered
        return Stats(
            published=accepted + refused,
            recovered=recovered,
            sent=sent,
            dropped=refused + lost,
            invalid=0,
            pending=accepted + recovered - sent - lost,
            spooled=self._spooled,
            damaged=damaged,
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
            self._thread.join(timeout_seconds + 5.0)
        return self._left

    def abandon(self) -> None:
        """In a forked child: let go of the parent's files, and of its producer without ending it, for its threads are not here."""
        if self._spool is not None:
            self._spool.abandon()
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._transport))

    # The thread.

    def _run(self) -> None:
        while True:
            try:
                if self._step():
                    return
            except Exception:
                if self._throttle.passes("exception"):
                    log.exception("delivery failed and goes on")
                time.sleep(RETRY_SECONDS)

    def _step(self) -> bool:
        """One turn. Returns whether everything has ended."""
        if self._spool is None and self._open_spool is not None:
            self._try_spool(self._open_spool)
        waiting_for_acks = self._in_flight > 0 and not self._late
        self._take(0.0 if waiting_for_acks or self._can_send() else _LATE_POLL_SECONDS if self._window or self._backlog else _IDLE_SECONDS)
        self._transport.poll(_ACK_POLL_SECONDS if waiting_for_acks and not self._can_send() else 0.0)
        now = time.monotonic()
        self._forget_acknowledged()
        self._note_lateness(now)
        self._retry(now)
        self._store(now)
        self._send(now)
        self._tell()
        if self._closing and (now >= self._deadline or self._is_empty()):
            self._end()
            return True
        return False

    def _can_send(self) -> bool:
        waits = bool(self._backlog) or (self._spool is not None and self._spool.unread > 0)
        return waits and not self._failed and self._has_room()

    def _has_room(self) -> bool:
        return len(self._window) < self._limits.window_records and self._window_bytes < self._limits.window_bytes

    def _is_empty(self) -> bool:
        return not self._window and not self._backlog and self._queue.empty() and not (self._spool and self._spool.unread)

    def _try_spool(self, open_spool: Callable[[], Spool]) -> None:
        now = time.monotonic()
        if now < self._reopen_at:
            return
        try:
            self._spool = open_spool()
        except BlockingIOError:
            self._warn("spool taken", "another process has the spool directory; until it ends, events wait in memory only")
        except OSError as error:
            self._warn("spool", f"the spool can not be opened ({error.strerror}); events wait in memory only")
        else:
            self._recovered += self._spool.unread
            if self._spool.unread or self._spool.damaged:
                log.info("spool taken over", waiting=self._spool.unread, damaged=self._spool.damaged)
        self._reopen_at = now + REOPEN_SECONDS

    def _take(self, wait_seconds: float) -> None:
        try:
            entry = self._queue.get(timeout=wait_seconds) if wait_seconds else self._queue.get_nowait()
            for _ in range(SLICE):
                if entry is not None:
                    self._backlog.append(entry)
                entry = self._queue.get_nowait()
            if entry is not None:
                self._backlog.append(entry)
        except Empty:
            return

    def _forget_acknowledged(self) -> None:
        stored = 0
        while self._window and self._window[0].state is _State.DONE:
            entry = self._window.popleft()
            self._window_bytes -= entry.size
            stored += entry.stored
        if stored and self._spool is not None:
            self._spool.ack(stored)

    def _note_lateness(self, now: float) -> None:
        after = self._limits.spill_after_seconds or _LATE_SECONDS
        late = bool(self._window) and (self._failed or now - self._window[0].since >= after)
        if late and not self._late:
            where = "the spool" if self._spool else "memory"
            self._warn("late", f"Kafka does not acknowledge; events wait in {where} until it does")
        elif self._late and not late and self._throttle.passes("in time"):
            log.info("Kafka acknowledges again", sent=self._sent, waiting=self._spool.pending if self._spool else len(self._backlog))
        self._late = late

    def _store(self, now: float, *, all_of_it: bool = False) -> None:
        """Write to the spool what should not stay in memory alone. The disk's order is the order of delivery."""
        spool = self._spool
        if spool is None or (now < self._store_at and not all_of_it):
            return
        crowded = self._accepted - self._taken > self._limits.buffer_records // 2 or (
            self._accepted_bytes - self._taken_bytes > self._limits.buffer_bytes // 2
        )
        if not (self._late or crowded or all_of_it or spool.unread or self._limits.spill_after_seconds == 0):
            return
        if not spool.unread and not self._append(self._unstored(), now, read=True):
            return
        while self._backlog:
            entries = list(islice(self._backlog, SLICE))
            complete = self._append(entries, now)
            for _ in range(sum(entry.stored for entry in entries)):
                self._leave_backlog()
            if not complete:
                return

    def _append(self, entries: Sequence[_Entry], now: float, *, read: bool = False) -> bool:
        """Write ``entries``; False when not all could be."""
        spool = self._spool
        assert spool is not None
        for begin in range(0, len(entries), SLICE):
            part = entries[begin : begin + SLICE]
            count, problem = spool.append([_pack(entry.record) for entry in part], read=read)
            for entry in part[:count]:
                entry.stored = True
                entry.settle(None)
            self._spooled += count
            if problem is not None:
                self._store_at = now + RETRY_SECONDS
                self._warn("spool", f"{problem}; events wait in memory, and are dropped when there is no room")
                return False
        return True

    def _unstored(self) -> list[_Entry]:
        """The window's entries behind the last stored one: only these can go to the end of the spool and keep the order."""
        found: list[_Entry] = []
        for entry in reversed(self._window):
            if entry.stored:
                break
            if entry.state is not _State.DONE:
                found.append(entry)
        return found[::-1]

    def _leave_backlog(self) -> _Entry:
        entry = self._backlog.popleft()
        self._taken += 1
        self._taken_bytes += entry.size
        return entry

    def _send(self, now: float) -> None:
        for entry in self._next_entries():
            entry.since = now
            self._window.append(entry)
            self._window_bytes += entry.size
            if entry.state is _State.WAITING:
                self._produce(entry)

    def _next_entries(self) -> Iterator[_Entry]:
        spool = self._spool
        room = min(SLICE, self._limits.window_records - len(self._window))
        if self._failed or not self._has_room():
            return
        if spool is not None and spool.unread:
            for payload in spool.read(room, self._limits.window_bytes - self._window_bytes):
                yield self._spooled_entry(payload)
            return
        for _ in range(min(room, len(self._backlog))):
            if not self._has_room():
                return
            yield self._leave_backlog()

    def _spooled_entry(self, payload: bytes) -> _Entry:
        try:
            return _Entry(Record(*_unpack(payload)), stored=True)
        except msgspec.DecodeError:
            entry = _Entry(Record("", b""), stored=True)
            entry.state = _State.DONE
            self._lost += 1
            self._damaged += 1
            self.report("dropped", "an event in the spool is dropped, for it can not be read")
            return entry

    def _produce(self, entry: _Entry) -> None:
        topic, value, key, headers = entry.record
        entry.state = _State.IN_FLIGHT
        self._in_flight += 1
        try:
            self._transport.produce(topic, value, key, on_delivery=partial(self._on_delivery, entry), headers=list(headers))
        except KafkaException as error:
            self._on_delivery(entry, error.args[0])
        except BufferError:
            self._on_delivery(entry, KafkaError(KafkaError._QUEUE_FULL))

    def _on_delivery(self, entry: _Entry, error: KafkaError | None, _message: Any = None) -> None:
        if entry.state is not _State.IN_FLIGHT:
            return
        self._in_flight -= 1
        if error is None:
            entry.state = _State.DONE
            self._sent += 1
            entry.settle(None)
        elif is_too_large(error):
            self._lose(entry, RecordTooLarge(f"A record is larger than {entry.record.topic} takes; send less in one event."))
        else:
            entry.state = _State.FAILED
            self._fatal = self._fatal or is_fatal(error)
            if not self._failed:
                self._failed = True
                self._warn("refused", f"Kafka takes no record of {entry.record.topic} ({error.str()}); they are sent again, in their order")

    def _lose(self, entry: _Entry, error: TierstreamError) -> None:
        entry.state = _State.DONE
        self._lost += 1
        self.report("dropped", str(error))
        entry.settle(error)

    def _retry(self, now: float) -> None:
        """After a failure: have everything in flight settled, and then produce again, in order, what was not acknowledged."""
        if not self._failed:
            return
        if self._in_flight:
            if not self._purged:
                self._transport.purge()
                self._purged = True
            return
        if self._retry_at is None:
            self._retry_at = now + RETRY_SECONDS
        if now < self._retry_at:
            return
        if self._fatal:
            self._transport = self._new_transport()
        self._failed = self._fatal = self._purged = False
        self._retry_at = None
        for entry in self._window:
            if entry.state is _State.FAILED:
                self._produce(entry)

    def _tell(self) -> None:
        while not self._reports.empty():
            outcome, sentence = self._reports.get_nowait()
            self._warn(outcome, sentence)
            if self._on_trouble is not None:
                try:
                    self._on_trouble(outcome, sentence)
                except Exception:
                    log.exception("on_trouble raised")

    def _warn(self, kind: str, sentence: str) -> None:
        if self._throttle.passes(kind):
            log.warning("publisher", problem=sentence)

    def _end(self) -> None:
        """Settle what is in flight, spool what can be, count the rest as lost."""
        while not self._queue.empty():
            self._take(0.0)
        if self._in_flight:
            self._transport.purge()
            until = time.monotonic() + RETRY_SECONDS
            while self._in_flight and time.monotonic() < until:
                self._transport.poll(_ACK_POLL_SECONDS)
        self._forget_acknowledged()
        self._store(time.monotonic(), all_of_it=True)
        waiting = [entry for entry in (*self._window, *self._backlog) if entry.state is not _State.DONE]
        gone = [entry for entry in waiting if not entry.stored]
        kept = len(waiting) - len(gone) + (self._spool.unread if self._spool else 0)
        for entry in gone:
            self._lose(entry, KafkaUnavailable("Kafka did not acknowledge the record before the end, and it could not be spooled."))
        self._left = kept + len(gone)
        self._tell()
        if self._spool is not None:
            self._damaged += self._spool.damaged
            self._lost += self._spool.lost
            spool, self._spool = self._spool, None
            spool.close()
        if self._left:
            log.warning("publisher closed", spooled=kept, dropped=len(gone))
