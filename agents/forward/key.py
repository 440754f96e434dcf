"""The API key: while Loops rejects it nothing is sent, and it is asked for at intervals until Loops accepts it."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from streams.errors import LoopsKeyRejected, LoopsUnavailable
from streams.loops.client import EventSender
from streams.loops.rate_limit import Limiter
from streams.metrics import PAUSED
from streams.runtime.waiting import Backoff, begin_waiting, end_waiting

KEY_BACKOFF = Backoff(first_seconds=2.0, cap_seconds=30.0)
"""Between the questions whether a rejected key works again."""

BEGIN_SECONDS = 2.0
"""How long the first question waits for its turn under the rate limit."""

SERVICE = "loops api key"
"""What the stage waits for while it is paused, in the log, ``tierstream_waiting`` and ``/readyz``."""

_REASON = "key_rejected"

_log = structlog.get_logger(__name__)


class ApiKey:
    """Whether Loops accepts the key, as far as it was asked. ``aclose`` it in the event loop that uses it."""

    def __init__(
        self,
        stage: str,
        loops: EventSender,
        limiter: Limiter,
        *,
        backoff: Backoff = KEY_BACKOFF,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._stage = stage
        self._loops = loops
        self._limiter = limiter
        self._backoff = backoff
        self._sleep = sleep
        self._turn = asyncio.Lock()
        self._checks = 0
        self._unavailable: LoopsUnavailable | None = None
        self._pause: asyncio.Task[None] | None = None
        PAUSED.labels(_REASON).set(0)

    async def begin(self) -> None:
        """Find a wrong key at the start, and not at the first mail. Loops may be away: then mails wait for it.

        The limit may be used up by others, or PostgreSQL away, which keeps it: then the first mail finds out.
        """
        try:
            await self._check(BEGIN_SECONDS)
        except LoopsUnavailable as error:
            _log.warning("loops_key_unchecked", error=str(error))
        except TimeoutError:
            _log.warning("loops_key_unchecked", error=f"The rate limit lets no request start within {BEGIN_SECONDS:g} s.")

    async def accepted(self) -> None:
        """Return at once, or, while the key is rejected, once it is accepted."""
        while self._pause is not None:
            await asyncio.shield(self._pause)

    async def confirm(self) -> bool:
        """Ask, and return True when Loops accepts the key, or False once it does so again after it was rejected.

        Callers that ask at once share an answer. Raises LoopsUnavailable when Loops does not say.
        """
        await self._check()
        if self._pause is None:
            return True
        await self.accepted()
        return False

    async def aclose(self) -> None:
        """Ask no more."""
        pause, self._pause = self._pause, None
        if pause is not None:
            pause.cancel()
            await asyncio.wait({pause})
            self._end_alarm()

    async def _check(self, patience_seconds: float | None = None) -> None:
        asked = self._checks
        async with self._turn:
            if self._checks == asked and self._pause is None:
                self._unavailable = None
                try:
                    await self._ask(patience_seconds)
                except LoopsKeyRejected as error:
                    self._reject(error)
                except LoopsUnavailable as error:
                    self._unavailable = error
                self._checks += 1
        if self._unavailable is not None:
            raise self._unavailable

    async def _ask(self, patience_seconds: float | None = None) -> None:
        async with asyncio.timeout(patience_seconds):
            started = await self._limiter.start()
        try:
            await self._loops.check_key()
        finally:
            self._limiter.finish(started, answered=False)

    def _reject(self, error: LoopsKeyRejected) -> None:
        PAUSED.labels(_REASON).set(1)
        begin_waiting(self._stage, SERVICE, str(error))
        self._pause = asyncio.create_task(self._until_accepted(), name="loops-api-key")

    async def _until_accepted(self) -> None:
        """Ask until Loops accepts the key."""
        tries = 0
        while True:
            await self._sleep(self._backoff.delay(tries))
            tries += 1
            try:
                await self._ask()
                break
            except LoopsKeyRejected as error:
                begin_waiting(self._stage, SERVICE, str(error))
            except LoopsUnavailable as error:
                begin_waiting(self._stage, SERVICE, f"Loops rejected the API key, and does not say now whether it works: {error}")
        self._pause = None
        self._end_alarm()

    def _end_alarm(self) -> None:
        PAUSED.labels(_REASON).set(0)
        end_waiting(self._stage, SERVICE)
