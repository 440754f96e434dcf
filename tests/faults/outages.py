"""What a service and a sender of webhooks notice while PostgreSQL, Loops and Kafka are away, one after the other.

``make outages`` takes ten minutes and writes ``bench/results/outages.json``; the short form is part of ``make test``.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from rich.console import Console

from streams.embedded.program import Program
from streams.embedded.stack import StackOptions, environment_of, start_stack
from streams.publisher import Stats
from streams.settings import Settings
from tests.faults.sender import ANSWERS_SECONDS, Answered
from tests.faults.servers import Server, Servers, running_servers
from tests.faults.service import CLOSE_SECONDS, SOURCE
from tests.faults.service import Report as ServiceReport
from tests.faults.windows import Sort, Window, broken_promises, ratios, table
from tests.topic_io import read_all, read_json
from tests.verdict import header
from tests.waiting import until

SENDER_SECONDS = ANSWERS_SECONDS + 5
LATEST = 10
BACK_SECONDS = 120.0
SERVICE_SECONDS = CLOSE_SECONDS + 10
LOOPS_PER_SECOND = 500


@dataclass(frozen=True)
class Plan:
    """How long each service is away, how long all is well between, and how much is published and posted meanwhile."""

    seconds: float = 60.0
    normal_seconds: float = 60.0
    publish_per_second: float = 200.0
    post_per_second: float = 50.0

    @property
    def back_seconds(self) -> float:
        """The least time after an outage that is measured apart, for what waited is worked in then."""
        return self.seconds / 6


@dataclass(frozen=True)
class Outage:
    """Something that is away from the one call until the other."""

    name: str
    begin: Callable[[], Awaitable[None]]
    end: Callable[[], Awaitable[None]]
    kafka: bool = False


def _outages(servers: Servers) -> list[Outage]:
    """Each server killed and kept down; Kafka stopped too, when its connections stay and nothing is answered."""
    kafka = servers.kafka
    return [
        Outage("PostgreSQL killed", lambda: _kill(servers.postgres), servers.postgres.start),
        Outage("Loops killed", lambda: _kill(servers.loops), servers.loops.start),
        Outage("Kafka killed", lambda: _kill(kafka), kafka.start, kafka=True),
        Outage("Kafka paused", lambda: _signal(kafka, signal.SIGSTOP), lambda: _signal(kafka, signal.SIGCONT), kafka=True),
    ]


async def _kill(server: Server) -> None:
    server.kill()
    await server.wait()


async def _signal(server: Server, number: signal.Signals) -> None:
    assert server.pid is not None
    os.kill(server.pid, number)


@dataclass(frozen=True)
class Landed:
    """How many ids were taken, how many of them are not on their topic, and how many are there more than once.

    A webhook may be: a producer that does not hear from Kafka sends again, in a new epoch. It has its event id, and counts once.
    """

    count: int
    lacking: int
    repeated: int

    @classmethod
    def compare(cls, taken: Sequence[str | None], topic: Counter[str]) -> Self:
        """What became of the ids that were ``taken``; None is one that was not, and should have been."""
        ids = set(taken)
        return cls(
            len(taken),
            len(taken) - len(ids - {None}) + sum(name not in topic for name in ids if name),
            sum(topic[name or ""] > 1 for name in ids),
        )


@dataclass(frozen=True)
class Report:
    """What a run measured, and what of it breaks a promise."""

    plan: Plan
    windows: list[Window]
    published: Landed
    accepted: Landed
    left: int | None
    spool_is_empty: bool

    @property
    def broken(self) -> list[str]:
        """A sentence for each promise that was not kept."""
        found = list(broken_promises(self.windows))
        if self.left != 0 or not self.spool_is_empty:
            left = "nobody knows how many" if self.left is None else self.left
            found.append(f"{left} events are left, and the spool is {'empty' if self.spool_is_empty else 'not empty'}")
        if self.published.lacking or self.published.repeated:
            found.append(
                f"{self.published.lacking} events of {self.published.count} are not on their topic, {self.published.repeated} twice"
            )
        if self.accepted.lacking:
            found.append(f"{self.accepted.lacking} webhooks of {self.accepted.count} that were answered 200 are not on their topic")
        return found

    def as_json(self) -> dict[str, Any]:
        """The results file."""
        return {
            "command": f"python -m tests.faults.outages --seconds {self.plan.seconds:g} --normal-seconds {self.plan.normal_seconds:g}",
            "seconds": self.plan.seconds,
            "publish_per_second": self.plan.publish_per_second,
            "post_per_second": self.plan.post_per_second,
            "cpus": os.cpu_count(),
            "published": asdict(self.published),
            "accepted": asdict(self.accepted),
            "broken": self.broken,
            "windows": [window.as_json(ratio) for window, ratio in zip(self.windows, ratios(self.windows), strict=True)],
        }


@dataclass
class Load:
    """A service that publishes and a sender of webhooks; what they report goes to the window in which it happened."""

    plan: Plan
    settings: Settings
    gateway: str
    spool: Path
    report: Callable[[str], None]
    windows: list[Window] = field(default_factory=lambda: [Window("start", Sort.BACK)])
    published: list[str | None] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)
    left: int | None = None
    """How many events the service had not delivered at its end."""
    _stats: Stats = field(default_factory=Stats)
    _latest: deque[Answered] = field(default_factory=lambda: deque(maxlen=LATEST))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Publish and post while the block runs; at its end all requests have been answered, and the publisher is closed."""
        post = ("-m", "tests.faults.sender", self.gateway.rpartition(":")[2], str(self.plan.post_per_second))
        publish = ("-m", "tests.faults.service", str(self.spool), str(self.plan.publish_per_second))
        environment = environment_of(self.settings)
        sender = Program("sender", (sys.executable, *post), sink=self._take_answer, stop_seconds=SENDER_SECONDS)
        service = Program("service", (sys.executable, *publish), env=environment, sink=self._take_calls, stop_seconds=SERVICE_SECONDS)
        try:
            await service.start()
            await sender.start()
            yield
        finally:
            await asyncio.gather(sender.stop(), service.stop())

    @contextmanager
    def window(self, name: str, sort: Sort, *, kafka: bool = False) -> Iterator[Window]:
        """What happens in the block is measured as one window; a request is of the window in which it is sent."""
        window, before = Window(name, sort, kafka, time.monotonic()), self._stats
        self.windows.append(window)
        yield window
        window.seconds, after = time.monotonic() - window.began, self._stats
        window.counted = Stats(**{count.name: getattr(after, count.name) - getattr(before, count.name) for count in fields(Stats)})

    def is_well(self) -> bool:
        """Whether hardly an event waits any more, and the latest webhooks of this window were accepted."""
        began = self.windows[-1].began
        answered = sum(one.status == 200 and one.sent_at > began for one in self._latest)
        return answered == LATEST and self._stats.sent > 0 and self._stats.pending < self.plan.publish_per_second

    def _take_calls(self, line: str) -> None:
        """Put what the service says of its calls where it belongs."""
        report = ServiceReport.parse(line)
        if report is None:
            self.report(line)
            return
        self._stats, self.left = report.stats, report.left
        for call in report.calls:
            self._window_at(call.at).publish.append(call.took)
            self.published.append(call.event_id)

    def _take_answer(self, line: str) -> None:
        """Put what the sender says of one request where it belongs."""
        answered = Answered.parse(line)
        self._latest.append(answered)
        window = self._window_at(answered.sent_at + answered.took)
        if window.sort is not Sort.OUTAGE:  # a request that an outage overtakes is the outage's
            window = self._window_at(answered.sent_at)
        window.answers.append((answered.status, answered.took))
        if answered.status == 200:
            self.accepted.append(answered.event_id)

    def _window_at(self, moment: float) -> Window:
        return next((window for window in reversed(self.windows) if window.began <= moment), self.windows[0])


async def run(plan: Plan, report: Callable[[str], None]) -> Report:
    """Run ``plan`` on a stack of its own. Raises AssertionError when all is not well again in time after an outage."""
    with tempfile.TemporaryDirectory(prefix="tierstream-outages-", ignore_cleanup_errors=True) as directory:
        spool = Path(directory) / "spool"
        async with (
            running_servers(Path(directory), LOOPS_PER_SECOND) as servers,
            start_stack(StackOptions({}, overrides=servers.settings())) as stack,
        ):
            load = Load(plan, stack.settings, stack.gateway, spool, report)
            async with load.running():
                await until(load.is_well, "events and webhooks are taken")
                await _measure(plan, _outages(servers), load, report)
            published, accepted = await _readable(stack.settings, load)
            return Report(plan, load.windows[1:], published, accepted, load.left, not any(spool.glob("*.spool")))


async def _measure(plan: Plan, outages: Sequence[Outage], load: Load, report: Callable[[str], None]) -> None:
    for outage in outages:
        with load.window("normal", Sort.NORMAL):
            report("normal")
            await asyncio.sleep(plan.normal_seconds)
        with load.window(outage.name, Sort.OUTAGE, kafka=outage.kafka):
            report(outage.name)
            await outage.begin()
            await asyncio.sleep(plan.seconds)
        with load.window(f"{outage.name.split()[0]} back", Sort.BACK, kafka=outage.kafka):
            await outage.end()
            await asyncio.sleep(plan.back_seconds)
            await until(load.is_well, f"all is well again after: {outage.name}", BACK_SECONDS)
    with load.window("normal", Sort.NORMAL):
        report("normal")
        await asyncio.sleep(plan.normal_seconds)


async def _readable(settings: Settings, load: Load) -> tuple[Landed, Landed]:
    """Compare once all is there, or ``BACK_SECONDS`` have passed: what stands behind a transaction that an outage has left open, and its
    worker or the broker has yet to decide, can not be read before."""
    deadline = time.monotonic() + BACK_SECONDS
    while True:
        landed = await asyncio.to_thread(_landed, settings, load)
        if not any(each.lacking for each in landed) or time.monotonic() > deadline:
            return landed
        await asyncio.sleep(0.5)


def _landed(settings: Settings, load: Load) -> tuple[Landed, Landed]:
    events = Counter(str(event["id"]) for event in read_json(settings, "team.events") if event["source"] == SOURCE)
    webhooks = Counter(header(message, "razorpay-event-id") for message in read_all(settings, "razorpay.webhooks"))
    return Landed.compare(load.published, events), Landed.compare(load.accepted, webhooks)


def main() -> int:
    """The command line of ``make outages``."""
    parser = argparse.ArgumentParser(description="Measure what a service and a sender of webhooks notice of outages.")
    parser.add_argument("--seconds", type=float, default=Plan.seconds, help="how long each service is away")
    parser.add_argument("--normal-seconds", type=float, help="how long all is well between; as long when not given")
    parser.add_argument("--out", type=Path, help="write the result to this JSON file")
    arguments = parser.parse_args()
    plan = Plan(arguments.seconds, arguments.normal_seconds or arguments.seconds)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 180)
    report = asyncio.run(run(plan, console.print))
    console.print(table(report.windows))
    landed = f"{report.published.count} events published, {report.accepted.count} webhooks accepted"
    console.print(f"{landed}, of which {report.accepted.repeated} stand on their topic twice", style="bold")
    for sentence in report.broken or ["every promise was kept, and all of it is on its topic"]:
        console.print(sentence, style="red" if report.broken else "green")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(report.as_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return 1 if report.broken else 0


if __name__ == "__main__":
    sys.exit(main())
