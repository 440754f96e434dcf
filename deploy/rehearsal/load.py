"""The load that lasts as long as something is broken: webhooks and service events, each sent again until it is accepted."""

import asyncio
import random
from dataclasses import dataclass
from threading import Event, Thread

from tests.faults.traffic import traffic

EVENTS, PER_SECOND = 100, 25.0
"""Of one stream of teams; the next begins when its last event has been accepted."""


@dataclass(frozen=True)
class Sent:
    """What a sender saw: posts that were accepted, tries that were not, and the longest wait from first try to acceptance, in seconds."""

    posts: int
    sent_again: int
    longest_wait: float


class Load:
    """A sender in a thread of its own, for what breaks the stack blocks."""

    def __init__(self, gateway: str, chance: random.Random) -> None:
        """Make it ready; nothing is sent before ``start``."""
        self._gateway = gateway
        self._chance = chance
        self._over = Event()
        self._failed: Exception | None = None
        self._posts, self._sent_again, self._longest_wait = 0, 0, 0.0
        self._thread = Thread(target=self._run, name="load", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self, seconds: float) -> Sent:
        """Let the stream that is under way come to its end, and return what was seen. Raises what ended the sender, and TimeoutError after ``seconds``."""
        self._over.set()
        self._thread.join(seconds)
        if self._failed:
            raise self._failed
        if self._thread.is_alive():
            raise TimeoutError(f"the gateway has not accepted everything within {seconds:g} s of the last fault")
        return Sent(self._posts, self._sent_again, round(self._longest_wait, 1))

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                stream = traffic(self._gateway, self._chance.randrange(1 << 30), EVENTS, PER_SECOND)
                asyncio.run(stream.run())
                self._posts += stream.accepted
                self._sent_again += stream.retries
                self._longest_wait = max(self._longest_wait, stream.longest_wait_seconds)
        except ExceptionGroup as group:  # of the tasks that send; whoever stops the load is told
            self._failed = group.exceptions[0]
