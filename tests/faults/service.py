"""A service that publishes, in a process of its own, as services are: what it measures is ``publish()``, and not what measures.

``python -m tests.faults.service SPOOL PER_SECOND`` publishes when an event is due, one from asyncio and one from a thread in turn,
until SIGTERM; then it closes its publisher. Kafka's addresses are those of ``TIERSTREAM_*``. Each line is one report as JSON.
"""

import asyncio
import signal
import sys
import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import msgspec

from streams.publisher import Publisher, Stats
from tests.publishing_service import publish

SOURCE = "outages"
CLOSE_SECONDS = 30.0
REPORT_SECONDS = 0.1


class Call(msgspec.Struct, frozen=True, array_like=True):
    """One call of ``publish()``: when, in monotonic seconds; how long it took; what it returned."""

    at: float
    took: float
    event_id: str | None


class Report(msgspec.Struct, frozen=True):
    """The calls since the last report, and the publisher's counts. ``left`` is what ``close()`` returned, in the last report."""

    calls: list[Call]
    stats: Stats
    left: int | None = None

    def line(self) -> str:
        """As it is printed."""
        return msgspec.json.encode(self).decode() + "\n"

    @classmethod
    def parse(cls, line: str) -> "Report | None":
        """Read a printed line; None when it is something else, such as a line of the log."""
        return msgspec.json.decode(line, type=cls) if line.startswith("{") else None


class Service:
    """Publishes from two places at once."""

    def __init__(self, publisher: Publisher, per_second: float) -> None:
        self._publisher = publisher
        self._turn_seconds = 2 / per_second
        self._stopping = threading.Event()
        self._numbers = count(1)
        self._lock = threading.Lock()  # or a call that is noted while a report is made would be in none
        self._calls: list[Call] = []

    async def run(self) -> None:
        """Publish until SIGTERM, and close the publisher."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._stopping.set)
        thread = threading.Thread(target=self._publish_from_thread, name="publishes")
        thread.start()
        reported_at = 0.0
        for wait in self._turns(self._turn_seconds / 2):
            await asyncio.sleep(wait)
            if self._stopping.is_set():
                break
            self._publish()
            if time.monotonic() - reported_at > REPORT_SECONDS:
                self._report()
                reported_at = time.monotonic()
        await asyncio.to_thread(thread.join)
        self._report(await self._publisher.aclose(CLOSE_SECONDS))

    def _publish_from_thread(self) -> None:
        for wait in self._turns(0.0):
            if self._stopping.wait(wait):
                return
            self._publish()

    def _publish(self) -> None:
        number, at, before = next(self._numbers), time.monotonic(), time.perf_counter()
        event_id = publish(self._publisher, number)
        call = Call(at, time.perf_counter() - before, event_id)
        with self._lock:
            self._calls.append(call)

    def _report(self, left: int | None = None) -> None:
        with self._lock:
            calls, self._calls = self._calls, []
        sys.stdout.write(Report(calls, self._publisher.stats(), left).line())
        sys.stdout.flush()

    def _turns(self, offset: float) -> Iterator[float]:
        """How long to wait for each turn, in seconds; turns that were missed are made up for at once."""
        due = time.monotonic() + offset
        while True:
            due += self._turn_seconds
            yield max(0.0, due - time.monotonic())


async def main(spool: Path, per_second: float) -> None:
    """Publish until SIGTERM."""
    await Service(Publisher(source=SOURCE, spool=spool), per_second).run()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), float(sys.argv[2])))
