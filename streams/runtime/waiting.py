"""Waiting out a service that is away, with a circuit breaker: exponential back-off with full jitter, one probe at a time, one log line for
each change.

closed: calls are made; open: several in a row have failed, and callers wait; half_open: one of them probes. The first answer closes it.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

import structlog

from streams.errors import TierstreamError, Unavailable
from streams.metrics import BREAKER, WAITING

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[object]]

_PROBE_AFTER = 3
"""Failures in a row, of any callers, after which a service counts as away. One request that fails by itself stays below."""


class Breaker(StrEnum):
    """The state of a service's circuit breaker."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class _Outage:
    """``since`` the first of the failures that no answer has followed, on the monotonic clock; ``why`` is the sentence of the latest."""

    since: float
    why: str


_AWAY: dict[tuple[str, str], _Outage] = {}
"""By (stage, service)."""


def services_away(stage: str, for_seconds: float = 0.0) -> list[str]:
    """Return the services that have not answered ``stage``, in this process, for so long; by default those that it waits for at all.

    A service that answers now and then is away for no longer than a moment, however often one of its callers fails.
    """
    latest = time.monotonic() - for_seconds
    return sorted(service for (waiting, service), outage in _AWAY.items() if waiting == stage and outage.since <= latest)


def describe_waits(stage: str) -> list[str]:
    """Return a sentence for each service that ``stage`` waits for in this process: what, where, what to do."""
    return [f"waits for {service}: {_AWAY[stage, service].why}" for service in services_away(stage)]


def begin_waiting(stage: str, service: str, why: str) -> None:
    """Say in the log, the metric and the state of health that ``stage`` waits for ``service``. Repeated, it only replaces the sentence."""
    known = _AWAY.get((stage, service))
    _AWAY[stage, service] = _Outage(time.monotonic() if known is None else known.since, why)
    if known is None:
        WAITING.labels(stage, service).set(1)
        _log.warning("waiting", stage=stage, service=service, error=why)


def end_waiting(stage: str, service: str) -> None:
    """Say that ``stage`` goes on. Does nothing when it did not wait."""
    if _AWAY.pop((stage, service), None) is not None:
        WAITING.labels(stage, service).set(0)
        _log.info("available_again", stage=stage, service=service)


_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential back-off with full jitter: before try ``n`` (0 is the first retry) wait 0 to ``min(cap, first * 2**n)`` seconds.

    Full jitter spreads callers that failed together over the whole time, instead of letting them come back together.
    """

    first_seconds: float
    cap_seconds: float

    def ceiling(self, retry: int) -> float:
        """The longest wait before this retry, in seconds."""
        return min(self.cap_seconds, self.first_seconds * 2.0 ** min(retry, 60))

    def delay(self, retry: int) -> float:
        """A random wait before this retry, in seconds."""
        return random.uniform(0.0, self.ceiling(retry))


PROBE_BACKOFF = Backoff(first_seconds=0.05, cap_seconds=2.0)
"""Cap: an outage's end is seen within this, and a service that is down gets one call in a second on average."""


class Waiting:
    """How one stage waits for one service. Share one object between all callers of that service in a process.

    A caller whose call fails backs off by itself. When several calls in a row have failed, no matter whose, the service counts
    as away: then callers queue up and one of them at a time probes, so that a long outage costs the service little and its end
    is seen within ``backoff.cap_seconds``; the first answer lets everybody go on.
    """

    def __init__(
        self,
        stage: str,
        service: str,
        *,
        backoff: Backoff = PROBE_BACKOFF,
        retry_backoff: Backoff | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """``backoff`` paces the probes; ``retry_backoff`` (the same when None) the retries of one call while others get answers."""
        self.stage, self._service = stage, service
        self._backoff = backoff
        self._retry_backoff = retry_backoff or backoff
        self._sleep = sleep
        self._failures = 0
        self._callers = 0
        self._probe = asyncio.Lock()
        self._state: Breaker | None = None
        self._enter(Breaker.CLOSED)

    async def until_available(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Return ``operation``'s result, calling it again for as long as it raises Unavailable. Everything else passes through.

        ``operation`` must be idempotent: a call that failed may have had its effect.
        """
        self._callers += 1
        try:
            return await self._until_available(operation)
        finally:
            self._callers -= 1
            if not self._callers:
                self._answered()  # those who waited were cancelled: nobody waits, and the next call is the first

    @property
    def is_open(self) -> bool:
        """Whether callers wait for a probe's answer, or one probes."""
        return self._is_open()

    @property
    def callers(self) -> int:
        """Those that make a call or wait now."""
        return self._callers

    async def _until_available(self, operation: Callable[[], Awaitable[T]]) -> T:
        tries = 0
        while True:
            if tries and not self._is_open():
                await self._sleep(self._retry_backoff.delay(tries - 1))
            if not self._is_open():
                answer = await self._try(operation)
            else:
                async with self._probe:
                    if not self._is_open():  # somebody got an answer while this caller queued
                        tries = 0
                        continue
                    await self._sleep(self._backoff.delay(self._failures - 1))
                    if self._is_open():  # a call from before the outage may have been answered meanwhile
                        self._enter(Breaker.HALF_OPEN)
                    try:
                        answer = await self._try(operation)
                    finally:
                        self._enter(Breaker.OPEN if self._is_open() else Breaker.CLOSED)
            if answer is not None:
                return answer[0]
            tries += 1

    async def _try(self, operation: Callable[[], Awaitable[T]]) -> tuple[T] | None:
        try:
            result = await operation()
        except Unavailable as error:
            self._failed(error)
            return None
        except TierstreamError:
            self._answered()
            raise
        self._answered()
        return (result,)

    def _is_open(self) -> bool:
        return self._failures >= _PROBE_AFTER

    def _failed(self, error: Unavailable) -> None:
        self._failures += 1
        begin_waiting(self.stage, self._service, str(error))
        if self._is_open():
            self._enter(Breaker.OPEN)

    def _answered(self) -> None:
        if self._failures:
            self._failures = 0
            end_waiting(self.stage, self._service)
            self._enter(Breaker.CLOSED)

    def _enter(self, state: Breaker) -> None:
        before, self._state = self._state, state
        if before is state:
            return
        for each in Breaker:
            BREAKER.labels(self.stage, self._service, each.value).set(each is state)
        # A probe that fails is nothing new.
        if (before, state) in ((Breaker.CLOSED, Breaker.OPEN), (Breaker.OPEN, Breaker.CLOSED), (Breaker.HALF_OPEN, Breaker.CLOSED)):
            _log.warning("breaker", stage=self.stage, service=self._service, state=state.value)
