"""The records that librdkafka has and Kafka has not acknowledged, in their order."""

import ctypes
import time
from collections import deque
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from streams.errors import RecordTooLarge, TierstreamError
from streams.publisher.entries import Entry, Limits, State
from streams.publisher.failures import FailureReports
from streams.publisher.transport import TransportFactory, is_fatal, is_too_large

RETRY_SECONDS = 1.0
"""How long delivery waits after Kafka refused records, or the disk did."""

_PURGE_POLL_SECONDS = 0.005


class Window:
    """For one thread. Records are acknowledged in any order (each partition has its own), and leave in the order they came.

    Nothing is given up but what is too large: a record that fails otherwise is produced again, before anything newer.
    """

    def __init__(self, new_transport: TransportFactory, limits: Limits, failures: FailureReports) -> None:
        self._new_transport = new_transport
        self._transport = new_transport()
        self._limits = limits
        self._failures = failures
        self._bytes = 0
        self._failed = self._fatal = self._purged = False
        self._retry_at: float | None = None
        self.entries: deque[Entry] = deque()
        self.in_flight = 0
        self.sent = 0
        self.lost = 0

    @property
    def room(self) -> int:
        """How many records may be added now."""
        free = not self._failed and self._bytes < self._limits.window_bytes
        return self._limits.window_records - len(self.entries) if free else 0

    @property
    def room_bytes(self) -> int:
        """How many bytes of them."""
        return self._limits.window_bytes - self._bytes

    def is_late(self, now: float, after_seconds: float) -> bool:
        """Whether the oldest record has waited for ``after_seconds``, or Kafka refused some."""
        return bool(self.entries) and (self._failed or now - self.entries[0].since >= after_seconds)

    def add(self, entry: Entry, now: float) -> None:
        """Produce one record, unless nothing is to be done with it any more."""
        entry.since = now
        self.entries.append(entry)
        self._bytes += entry.size
        if entry.state is State.WAITING:
            self._produce(entry)

    def poll(self, timeout_seconds: float) -> None:
        """Hear of deliveries; wait for the first at most ``timeout_seconds``."""
        self._transport.poll(timeout_seconds)

    def forget_acknowledged(self) -> int:
        """Let go of the oldest records up to the first that is not acknowledged. Returns how many of them are in the spool."""
        stored = 0
        while self.entries and self.entries[0].state is State.DONE:
            entry = self.entries.popleft()
            self._bytes -= entry.size
            stored += entry.stored
        return stored

    def unstored(self) -> list[Entry]:
        """The records behind the last stored one: only these can go to the end of the spool and keep its order."""
        found: list[Entry] = []
        for entry in reversed(self.entries):
            if entry.stored:
                break
            if entry.state is not State.DONE:
                found.append(entry)
        return found[::-1]

    def retry(self, now: float) -> None:
        """After a failure: have everything in flight settled, and then produce again, in order, what was not acknowledged."""
        if not self._failed:
            return
        if self.in_flight:
            if not self._purged:
                self._transport.purge(blocking=False)
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
        for entry in self.entries:
            if entry.state is State.FAILED:
                self._produce(entry)

    def stop(self) -> None:
        """Give up what is in flight; some of it may have arrived."""
        self._failed = True
        self._transport.purge(blocking=False)
        until = time.monotonic() + RETRY_SECONDS
        while self.in_flight and time.monotonic() < until:
            self._transport.poll(_PURGE_POLL_SECONDS)

    def lose(self, entry: Entry, error: TierstreamError) -> None:
        """Count a record as lost, and report it."""
        entry.state = State.DONE
        self.lost += 1
        self._failures.report("dropped", str(error))
        entry.settle(error)

    def release(self) -> None:
        """Let the producer go, and be destroyed, which can take its time: nobody should wait for it."""
        del self._transport

    def abandon(self) -> None:
        """In a forked child: never let the producer be destroyed, for that would wait for threads that are not here."""
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._transport))

    def _produce(self, entry: Entry) -> None:
        topic, value, key, headers = entry.record
        entry.state = State.IN_FLIGHT
        self.in_flight += 1
        try:
            self._transport.produce(topic, value, key, on_delivery=partial(self._on_delivery, entry), headers=list(headers))
        except KafkaException as error:
            self._on_delivery(entry, error.args[0])
        except BufferError:
            self._on_delivery(entry, KafkaError(KafkaError._QUEUE_FULL))

    def _on_delivery(self, entry: Entry, error: KafkaError | None, _message: Any = None) -> None:
        if entry.state is not State.IN_FLIGHT:
            return
        self.in_flight -= 1
        if error is None:
            entry.state = State.DONE
            self.sent += 1
            entry.settle(None)
        elif is_too_large(error):
            self.lose(entry, RecordTooLarge(f"A record is larger than {entry.record.topic} takes; send less in one event."))
        else:
            entry.state = State.FAILED
            self._fatal = self._fatal or is_fatal(error)
            if not self._failed:
                self._failed = True
                refused = f"Kafka takes no record of {entry.record.topic} ({error.str()})"
                self._failures.warn("refused", f"{refused}; they are sent again, in their order")
