"""Reports of failed events, emitted by delivery's own thread: a publishing service must not even wait for a log line."""

import logging
from collections.abc import Callable
from queue import SimpleQueue

from streams.logging import Throttle

MAX_WAITING = 10_000

OnFailure = Callable[[str, str], None]
"""Called with ("invalid" | "dropped", one sentence) for each event that is refused or lost. No sentence holds an event's values."""

log = logging.getLogger(__name__)


class FailureReports:
    """Reports from any thread, emitted by one."""

    def __init__(self, on_failure: OnFailure | None) -> None:
        self._on_failure = on_failure
        self._reports: SimpleQueue[tuple[str, str]] = SimpleQueue()
        self.throttle = Throttle()

    def report(self, outcome: str, sentence: str) -> None:
        """Report the outcome of an event: each to ``on_failure``, the first of each outcome to the log. Never waits."""
        if self._reports.qsize() < MAX_WAITING:
            self._reports.put((outcome, sentence))

    def emit(self) -> None:
        """Emit what was reported."""
        while not self._reports.empty():
            outcome, sentence = self._reports.get_nowait()
            self.warn(outcome, sentence)
            if self._on_failure is not None:
                try:
                    self._on_failure(outcome, sentence)
                except Exception:
                    log.exception("on_failure raised")

    def warn(self, kind: str, sentence: str) -> None:
        """Log one sentence, unless one of its kind was logged just before."""
        if self.throttle.passes(kind):
            log.warning("%s", sentence)
