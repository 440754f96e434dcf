"""What a stack needs, under no supervisor that would bring it back at once: to be broken, or reached on ways that break."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from streams.embedded.kafka import EmbeddedKafka
from streams.embedded.postgres import EmbeddedPostgres
from streams.embedded.process import free_port
from streams.embedded.program import Program

Server = EmbeddedKafka | EmbeddedPostgres | Program


@dataclass(frozen=True)
class Servers:
    """Kafka, PostgreSQL and a fake Loops."""

    kafka: EmbeddedKafka
    postgres: EmbeddedPostgres
    loops: Program
    loops_port: int
    loops_rate: int

    @property
    def loops_url(self) -> str:
        """Where the fake Loops is."""
        return f"http://127.0.0.1:{self.loops_port}"

    def settings(self) -> dict[str, object]:
        """The settings of a stack that uses them."""
        return {
            "kafka_bootstrap_servers": self.kafka.bootstrap_servers,
            "partitions": 8,
            "replication_factor": 1,
            "postgres_dsn": self.postgres.dsn,
            "loops_base_url": self.loops_url,
            "loops_api_key": "demo-loops",
            "loops_rate_per_second": self.loops_rate,
        }


@asynccontextmanager
async def running_servers(directory: Path, loops_rate: int, kafka: EmbeddedKafka | None = None) -> AsyncIterator[Servers]:
    """Run them, with their data in ``directory``, while the block runs; with that Kafka, or with one as it is by itself."""
    port = free_port()
    arguments = ("-m", "streams.cli", "loops-sink", "--port", str(port), "--rate", str(loops_rate))
    servers = Servers(
        kafka or EmbeddedKafka(directory / "kafka"),
        EmbeddedPostgres(directory / "postgres", durable=False),
        Program("loops", (sys.executable, *arguments)),
        port,
        loops_rate,
    )
    async with AsyncExitStack() as stack:
        for server in (servers.kafka, servers.postgres, servers.loops):
            stack.push_async_callback(server.stop)
        await asyncio.gather(servers.kafka.start(), servers.postgres.start(), servers.loops.start())
        yield servers
