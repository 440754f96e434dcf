"""Publishing events from a Python service that must never wait for them, nor fail because of them.

    publisher = Publisher("kafka:9092", source="billing", spool=Path("/var/lib/billing/tierstream"))
    publisher.publish("near_quota_wall", team_id, {"resource_type": "seats", "used": 9, "limit": 10})

``docs/publisher.md`` is its guide; ``delivery`` says how events wait, and what a crash costs.
"""

import asyncio
import atexit
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self
from uuid import UUID
from weakref import WeakSet

from schemas.envelope import HEADERS
from schemas.kinds import Kind
from schemas.service_events import Enveloped, Invalid, enveloped, unchecked
from streams.errors import ConfigurationError
from streams.kafka.producer import Record
from streams.publisher.delivery import Delivery
from streams.publisher.entries import Limits, Stats
from streams.publisher.failures import OnFailure
from streams.publisher.spool import Opener, Spool, open_private
from streams.publisher.transport import TransportFactory, kafka_transport
from streams.settings import Settings, changed, load_settings
from streams.topics import TEAM_EVENTS

__all__ = ["Limits", "Publisher", "Stats"]

LINGER_MS = 5.0
CLOSE_SECONDS = 5.0
AT_EXIT_SECONDS = 2.0
SPOOL_MAX_BYTES = 268_435_456

Clock = Callable[[], datetime]

log = logging.getLogger(__name__)


def _now() -> datetime:
    return datetime.now(UTC)


class Publisher:
    """Publishes to ``team.events``, in the order of the calls. Make one for a process, after it has forked; close it at the end.

    ``source`` names the service: the CloudEvents source, which together with an event's id names the event. ``spool`` is a
    directory for what waits while Kafka is away, ``spool_max_bytes`` its limit, ``fsync`` whether it survives a power cut too.
    ``strict`` refuses what breaks the contract of its kind; otherwise it is sent as it is if it can be encoded at all. ``on_failure``
    is called, in another thread, with ("invalid" | "dropped", one sentence) for each event that is refused or lost. What else
    Kafka needs (TLS, SASL, the topics' prefix) comes from ``settings``, by default from the environment.

    Raises ConfigurationError when the settings are wrong; Kafka and the spool need not be there.
    """

    def __init__(
        self,
        bootstrap_servers: str | None = None,
        *,
        source: str,
        spool: Path | None = None,
        spool_max_bytes: int = SPOOL_MAX_BYTES,
        fsync: bool = True,
        strict: bool = True,
        limits: Limits | None = None,
        on_failure: OnFailure | None = None,
        settings: Settings | None = None,
        new_transport: TransportFactory | None = None,
        opener: Opener = open_private,
        clock: Clock = _now,
    ) -> None:
        settings = settings or load_settings()
        if bootstrap_servers:
            settings = changed(settings, kafka_bootstrap_servers=bootstrap_servers)
        if not settings.kafka_bootstrap_servers:
            raise ConfigurationError(
                "The publisher needs Kafka's addresses: give bootstrap_servers, or set TIERSTREAM_KAFKA_BOOTSTRAP_SERVERS."
            )
        settings.check_kafka_certificates()
        if not source:
            raise ConfigurationError("The publisher needs a source that names the service, such as source='billing'.")
        self._source = source
        self._strict = strict
        self._clock = clock
        self._topic = TEAM_EVENTS.full_name(settings)
        # A service need not know the number; one that does is independent of what the broker says.
        partitions = settings.partitions if "partitions" in settings.model_fields_set else None
        self._new_transport = new_transport or (lambda: kafka_transport(settings, linger_ms=LINGER_MS, partitions=partitions))
        self._open_spool = None if spool is None else lambda: Spool(spool, max_bytes=spool_max_bytes, fsync=fsync, opener=opener)
        self._limits = limits
        self._on_failure = on_failure
        self._lock = threading.RLock()
        self._random = Random()
        self._invalid = self._unstarted = 0
        self._closed = False
        self._delivery: Delivery | None = self._start()
        _publishers.add(self)
        atexit.register(self.close, AT_EXIT_SECONDS)

    def publish(
        self, kind: Kind | str, team_id: str | UUID, data: object, id: str | UUID | None = None, occurred_at: object = None
    ) -> str | None:
        """Hand one event over and return its id at once, in some 50 microseconds; None when it is refused or there is no room.

        ``data`` is what the kind's contract says, copied before this returns; ``occurred_at`` is an aware datetime, RFC 3339 text
        or Unix seconds, by default now; ``id``, of 1 to 100 characters, makes a repeated call count once, and is random by
        default. May be called from any thread, from asyncio and from a signal handler. Never waits and never raises: see
        ``stats`` and ``on_failure``.
        """
        try:
            event_id = self._new_id() if id is None else _text(id)
            event = self._envelop({"kind": kind, "team_id": _text(team_id), "data": data, "id": event_id, "occurred_at": occurred_at})
        except Invalid as invalid:
            self._refuse("; ".join(f"{fault.field} {fault.problem}".strip() for fault in invalid.faults))
            return None
        except Exception as error:  # noqa: BLE001 - whatever a caller's objects raise, it is the event that is wrong, never the call
            self._refuse(f"it can not be encoded ({type(error).__name__})")
            return None
        delivery = self._delivery or self._restart()
        if delivery is None or not delivery.put(Record(self._topic, event.value, event.team_id.encode(errors="replace"), HEADERS)):
            return None
        return event.id

    def stats(self) -> Stats:
        """The counts of this process since the publisher's start; after a fork the child counts from nothing."""
        counted = self._delivery.stats() if self._delivery else Stats()
        return replace(
            counted,
            published=counted.published + self._invalid + self._unstarted,
            dropped=counted.dropped + self._unstarted,
            invalid=self._invalid,
        )

    def close(self, timeout: float = CLOSE_SECONDS) -> int:
        """Deliver what waits, for at most ``timeout`` seconds, and write the rest to the spool.

        Returns how many events are not delivered: they are in the spool, for the next process, as far as there is one and it has
        room, and counted as dropped otherwise. What is published afterwards is dropped. Blocks; asyncio code awaits ``aclose``.
        """
        self._closed = True
        atexit.unregister(self.close)
        return self._delivery.close(timeout) if self._delivery else 0

    async def aclose(self, timeout: float = CLOSE_SECONDS) -> int:
        """``close``, without blocking the event loop."""
        return await asyncio.to_thread(self.close, timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        await self.aclose()

    def _new_id(self) -> str:
        # uuid4 asks the kernel, and lets go of the interpreter for that: another thread may then hold it for milliseconds.
        return str(UUID(int=self._random.getrandbits(128), version=4))

    def _envelop(self, event: dict[str, object]) -> Enveloped:
        now = self._clock()
        if self._strict:
            return enveloped(event, self._source, now)
        try:
            return enveloped(event, self._source, now)
        except Exception:  # noqa: BLE001 - what the contract refuses is sent as it is
            return unchecked(event, self._source, now)

    def _refuse(self, why: str) -> None:
        with self._lock:
            self._invalid += 1
        if self._delivery is not None:
            self._delivery.failures.report("invalid", f"an event is refused: {why}")

    def _start(self) -> Delivery:
        return Delivery(self._new_transport, self._open_spool, self._limits, on_failure=self._on_failure)

    def _restart(self) -> Delivery | None:
        """In a forked child, at the first event: a thread and a producer of its own. The parent keeps the spool."""
        with self._lock:
            try:
                if self._delivery is None and not self._closed:
                    self._delivery = self._start()
            except Exception:
                log.exception("the publisher can not start again after a fork")
            if self._delivery is None:
                self._unstarted += 1
            return self._delivery

    def _forked(self) -> None:
        delivery, self._delivery = self._delivery, None
        self._lock = threading.RLock()
        self._random = Random()  # or parent and child would give the same ids
        self._invalid = self._unstarted = 0
        if delivery is not None:
            delivery.abandon()


_publishers: WeakSet[Publisher] = WeakSet()


def _after_fork() -> None:
    for publisher in list(_publishers):
        publisher._forked()


os.register_at_fork(after_in_child=_after_fork)


def _text(value: object) -> object:
    return str(value) if isinstance(value, UUID) else value
