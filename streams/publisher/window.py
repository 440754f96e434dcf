"""The records that librdkafka has and Kafka has not acknowledged, in their order."""

import ctypes
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from streams.errors import TierstreamError
from streams.kafka.producer import MAX_MESSAGE_BYTES, is_too_large, too_large
from streams.publisher.entries import Entry, Limits, State
from streams.publisher.failures import FailureReports
from streams.publisher.transport import TransportFactory, is_fatal

RETRY_SECONDS = 1.0
"""How long delivery waits after Kafka refused records, or the disk did."""

_PURGE_POLL_SECONDS = 0.005


class Window:
    """For one thread. Records are acknowledged in any order (each partition has its own), and leave in the order they came.

    Nothing is given up but what is too large: a record that fails otherwise is produced again, before anything newer. librdkafka sends
    several records in one batch, and the broker refuses all of a batch that is too large for its topic: each of them is then produced
    alone, and only one that is refused alone is too large. ``keep_aside`` takes such a record over, or does not; nothing can be done
    about one that is larger than any topic of ours takes.
    """

    def __init__(
        self, new_transport: TransportFactory, limits: Limits, failures: FailureReports, keep_aside: Callable[[Entry], bool]
    ) -> None:
        self._new_transport = new_transport
        self._transport = new_transport()
        self._limits = limits
        self._failures = failures
        self._keep_aside = keep_aside
        self._bytes = 0
        self._failed = self._backs_off = self._fatal = self._purged = False
        self._retry_at: float | None = None
        self._alone: Entry | None = None
        self.sizes: Mapping[str, int] = {}
        """``max.message.bytes`` of topics, as far as it is known."""
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
        return bool(self.entries) and (self._backs_off or now - self.entries[0].since >= after_seconds)

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

    def forget_acknowledged(self) -> tuple[int, int]:
        """Let go of the oldest records up to the first that is not acknowledged. Returns how many of them are in the spool, and how many
        were kept aside."""
        stored = aside = 0
        while self.entries and self.entries[0].state is State.DONE:
            entry = self.entries.popleft()
            self._bytes -= entry.size
            stored += entry.stored
            aside += entry.aside
        return stored, aside

    def unstored(self) -> list[Entry]:
        """The records behind the last stored one: only these can go to the end of the spool and keep its order.

        Without those that may be too large, which are nowhere until that is known: whoever waits for one is to be told.
        """
        found: list[Entry] = []
        for entry in reversed(self.entries):
            if entry.stored:
                break
            if entry.state is not State.DONE and not entry.aside and not entry.suspect:
                found.append(entry)
        return found[::-1]

    def retry(self, now: float) -> None:
        """After a failure: have everything in flight settled, and then produce again, in order, what was not acknowledged.

        Where a batch was too large, and nothing else failed, that is at once.
        """
        if not self._failed:
            return
        if self.in_flight:
            if self._backs_off and not self._purged:
                self._transport.purge(blocking=False)
                self._purged = True
            return
        if self._backs_off:
            if self._retry_at is None:
                self._retry_at = now + RETRY_SECONDS
            if now < self._retry_at:
                return
        if self._fatal:
            self._transport = self._new_transport()
        self._backs_off = self._fatal = self._purged = False
        self._retry_at = None
        failed = [entry for entry in self.entries if entry.state is State.FAILED]
        if any(entry.suspect for entry in failed):
            self._alone = failed[0]  # the oldest first, for their order
            self._produce(failed[0])
            return
        self._failed, self._alone = False, None
        for entry in failed:
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
        elif is_too_large(error) and (entry is self._alone or entry.record.size > MAX_MESSAGE_BYTES):
            self._too_large(entry)
        else:
            entry.state = State.FAILED
            entry.suspect = is_too_large(error)
            self._failed = True
            self._fatal = self._fatal or is_fatal(error)
            if not entry.suspect and not self._backs_off:
                self._backs_off = True
                refused = f"Kafka takes no record of {entry.record.topic} ({error.str()})"
                self._failures.warn("refused", f"{refused}; they are sent again, in their order")

    def _too_large(self, entry: Entry) -> None:
        """Have one record that was refused alone wait aside, if anybody counts on it or would, and give it up otherwise."""
        error = too_large(entry.record, self.sizes.get(entry.record.topic))
        if entry.record.size > MAX_MESSAGE_BYTES or entry.settled is not None:
            self.lose(entry, error)
        elif self._keep_aside(entry):
            entry.state = State.DONE
            self._failures.warn("too large", f"{error} Until then it waits aside, and nothing waits for it.")
        elif entry.stored or entry.aside:
            entry.state = State.FAILED  # the disk takes no more: what was accepted waits where it is
            self._backs_off = True
        else:
            self.lose(entry, error)
