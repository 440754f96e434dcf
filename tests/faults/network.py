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

from streams.embedded.kafka import EmbeddedKafka, Node, new_id
from streams.embedded.postgres import EmbeddedPostgres
from streams.embedded.process import free_ports
from streams.embedded.program import Program
from streams.embedded.stack import StackOptions, start_stack
from tests.faults.proxy import Proxy
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
class Servers:
    """Kafka, PostgreSQL and Loops, each behind a proxy: those, the settings to reach them so, and their own addresses."""

    proxies: dict[str, Proxy]
    settings: dict[str, object]
    kafka: str
    postgres: str
    loops: str


@asynccontextmanager
async def _proxied(chance: random.Random) -> AsyncIterator[Servers]:
    async with AsyncExitStack() as servers:
        directory = Path(servers.enter_context(tempfile.TemporaryDirectory(prefix="tierstream-network-", ignore_cleanup_errors=True)))
        kafka_port, behind, controller_port, loops_port = free_ports(4)
        proxies = {"kafka": Proxy(behind, chance), "loops": Proxy(loops_port, chance)}
        listeners = {"PLAINTEXT": kafka_port, "CLIENTS": behind, "CONTROLLER": controller_port}
        advertised = {"PLAINTEXT": kafka_port, "CLIENTS": proxies["kafka"].port}
        properties = {
            "listeners": _addresses(listeners),
            "advertised.listeners": _addresses(advertised),
            "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in listeners),
        }
        node = Node(1, (controller_port,), new_id())
        kafka = EmbeddedKafka(directory / "kafka", kafka_port, properties=properties, node=node)
        postgres = EmbeddedPostgres(directory / "postgres", durable=False)
        arguments = ("-m", "streams.cli", "loops-sink", "--port", str(loops_port), "--rate", str(LOOPS_PER_SECOND))
        loops = Program("loops", (sys.executable, *arguments))
        for server in (kafka, postgres, loops):
            servers.push_async_callback(server.stop)
        await asyncio.gather(kafka.start(), postgres.start(), loops.start())
        proxies["postgres"] = Proxy(postgres.port, chance)
        for proxy in proxies.values():
            servers.push_async_callback(proxy.stop)
            await proxy.start()
        settings: dict[str, object] = {
            "kafka_bootstrap_servers": f"127.0.0.1:{proxies['kafka'].port}",
            "partitions": 8,
            "replication_factor": 1,
            "postgres_dsn": postgres.dsn.replace(f":{postgres.port}/", f":{proxies['postgres'].port}/"),
            "loops_base_url": f"http://127.0.0.1:{proxies['loops'].port}",
            "loops_api_key": "demo-loops",
            "loops_rate_per_second": LOOPS_PER_SECOND,
            "loops_timeout_seconds": 2.0,
            "session_timeout_seconds": 6.0,
            "forward_max_age_seconds": OLDEST_SECONDS,
        }
        yield Servers(proxies, settings, kafka.bootstrap_servers, postgres.dsn, f"http://127.0.0.1:{loops_port}")


def _addresses(listeners: dict[str, int]) -> str:
    return ",".join(f"{name}://127.0.0.1:{port}" for name, port in listeners.items())


async def run(plan: Plan, report: Callable[[str], None]) -> Report:
    """Run ``plan`` on a stack of its own. Raises AssertionError when things do not settle."""
    began, chance = time.monotonic(), random.Random(plan.seed)
    async with _proxied(chance) as servers, start_stack(StackOptions({}, overrides=servers.settings)) as stack:
        stream = traffic(stack.gateway, plan.seed, int(plan.seconds * plan.per_second), plan.per_second)
        counts = Counter[str]()
        async with asyncio.TaskGroup() as group:
            group.create_task(stream.run())
            for service, failure in plan.failures:
                report(f"{service}: {failure}")
                FAILURES[failure](servers.proxies[service])
                await asyncio.sleep(plan.failing_seconds)
                servers.proxies[service].heal()
                counts[failure] += 1
                await asyncio.sleep(plan.well_seconds)
        report("settling")
        # Judged past the proxies, which stand still while this thread reads.
        settings = stack.settings.model_copy(update={"kafka_bootstrap_servers": servers.kafka})
        await until_settled(settings, servers.postgres, plan.settle_seconds)
        findings = await compare(settings, servers.postgres, servers.loops)
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
