"""The network between the stack and Kafka, PostgreSQL and Loops fails in the middle of what is said; then all is compared with the oracles.

``python -m tests.faults.network`` runs it for minutes; the short form is part of ``make test``.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from streams.embedded.kafka import EmbeddedKafka
from streams.embedded.process import free_ports
from streams.embedded.stack import StackOptions, start_stack
from tests.faults.proxy import Proxy
from tests.faults.servers import Servers, running_servers
from tests.faults.traffic import traffic
from tests.load import OLDEST_SECONDS
from tests.verdict import Findings, compare, until_settled

LOOPS_PER_SECOND = 2_000
LATENCY_SECONDS = 0.25
RESET_SHARE = 0.02
SERVICES = ("kafka", "postgres", "loops")

Failure = Callable[[Proxy], object]
FAILURES: dict[str, Failure] = {
    "latency": lambda proxy: proxy.delay(LATENCY_SECONDS),
    "nothing arrives": lambda proxy: proxy.hold(),
    "requests are lost": lambda proxy: proxy.hold(answers=False),
    "answers are lost": lambda proxy: proxy.hold(requests=False),
    "half-open connections": lambda proxy: proxy.forget(),
    "resets": lambda proxy: setattr(proxy, "reset_share", RESET_SHARE),
}


@dataclass(frozen=True)
class Plan:
    """How long each failure of each service's network lasts, and how long all is well after it."""

    seed: int
    per_second: float = 60.0
    failing_seconds: float = 20.0
    well_seconds: float = 6.0
    failures: tuple[tuple[str, str], ...] = tuple((service, failure) for failure in FAILURES for service in SERVICES)
    settle_seconds: float = 180.0

    @property
    def seconds(self) -> float:
        """All of it."""
        return len(self.failures) * (self.failing_seconds + self.well_seconds)


SHORT = Plan(
    0,
    per_second=40.0,
    failing_seconds=7.0,
    well_seconds=1.0,
    failures=(("kafka", "answers are lost"), ("postgres", "half-open connections"), ("kafka", "resets"), ("loops", "requests are lost")),
)


@dataclass(frozen=True)
class Report:
    """What was found, how often requests had to be sent again, and how often each failure was there."""

    findings: Findings
    accepted: int
    retries: int
    counts: Counter[str]
    seconds: float


@dataclass(frozen=True)
class Proxied:
    """Servers, the proxies before them, and the settings of a stack that reaches them by those."""

    servers: Servers
    proxies: dict[str, Proxy]
    settings: dict[str, object]


@asynccontextmanager
async def _proxied(directory: Path, chance: random.Random) -> AsyncIterator[Proxied]:
    async with AsyncExitStack() as running:
        port, proxied_port = free_ports(2)
        advertised = {"advertised.listeners": f"PLAINTEXT://127.0.0.1:{port},CLIENTS://127.0.0.1:{proxied_port}"}
        kafka = EmbeddedKafka(directory / "kafka", port, listeners={"CLIENTS": "PLAINTEXT"}, properties=advertised)
        servers = await running.enter_async_context(running_servers(directory, LOOPS_PER_SECOND, kafka))
        proxies = {
            "kafka": Proxy(int(kafka.address("CLIENTS").rpartition(":")[2]), chance, proxied_port),
            "postgres": Proxy(servers.postgres.port, chance),
            "loops": Proxy(servers.loops_port, chance),
        }
        for proxy in proxies.values():
            running.push_async_callback(proxy.stop)
            await proxy.start()
        settings = servers.settings() | {
            "kafka_bootstrap_servers": f"127.0.0.1:{proxied_port}",
            "postgres_dsn": servers.postgres.dsn.replace(f":{servers.postgres.port}/", f":{proxies['postgres'].port}/"),
            "loops_base_url": f"http://127.0.0.1:{proxies['loops'].port}",
            "loops_timeout_seconds": 2.0,
            "session_timeout_seconds": 6.0,
            "forward_max_age_seconds": OLDEST_SECONDS,
        }
        yield Proxied(servers, proxies, settings)


async def run(plan: Plan, report: Callable[[str], None]) -> Report:
    """Run ``plan`` on a stack of its own. Raises AssertionError when things do not settle."""
    began, chance = time.monotonic(), random.Random(plan.seed)
    async with AsyncExitStack() as running:
        directory = running.enter_context(tempfile.TemporaryDirectory(prefix="tierstream-network-", ignore_cleanup_errors=True))
        proxied = await running.enter_async_context(_proxied(Path(directory), chance))
        stack = await running.enter_async_context(start_stack(StackOptions({}, overrides=proxied.settings)))
        stream = traffic(stack.gateway, plan.seed, int(plan.seconds * plan.per_second), plan.per_second)
        counts = Counter[str]()
        async with asyncio.TaskGroup() as group:
            group.create_task(stream.run())
            for service, failure in plan.failures:
                report(f"{service}: {failure}")
                FAILURES[failure](proxied.proxies[service])
                await asyncio.sleep(plan.failing_seconds)
                proxied.proxies[service].heal()
                counts[failure] += 1
                await asyncio.sleep(plan.well_seconds)
        report("settling")
        servers = proxied.servers
        # Judged past the proxies, which stand still while this thread reads.
        settings = stack.settings.model_copy(update={"kafka_bootstrap_servers": servers.kafka.bootstrap_servers})
        await until_settled(settings, servers.postgres.dsn, plan.settle_seconds)
        findings = await compare(settings, servers.postgres.dsn, servers.loops_url)
    return Report(findings, stream.accepted, stream.retries, counts, time.monotonic() - began)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Let the network fail in the middle, and compare with the oracles.")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--seconds", type=float, default=Plan.failing_seconds, help="how long each failure lasts")
    arguments = parser.parse_args()
    console = Console(highlight=False)
    console.print(f"seed {arguments.seed} (repeat with --seed {arguments.seed})")
    report = asyncio.run(run(replace(Plan(arguments.seed), failing_seconds=arguments.seconds), console.print))
    console.print(f"{report.accepted} posts accepted, {report.retries} sent again, {report.seconds:.0f} s")
    console.print(str(report.findings), soft_wrap=True)
    return 0 if report.findings.exact else 1


if __name__ == "__main__":
    sys.exit(main())
