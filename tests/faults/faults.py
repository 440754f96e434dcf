"""Breaking things for real: signals to processes, tables dropped, Loops misbehaving, poison on every topic."""

import asyncio
import contextlib
import os
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable

import asyncpg
import httpx

from streams.embedded.stack import Stack
from streams.errors import StageFailed
from streams.settings import load_settings
from streams.stores.migrate import migrate
from tests.topic_io import produce

STAGES = ("normalise", "classify", "audit", "forward")
TABLE_STAGES = ("normalise", "classify")

# Loops down, answering too slowly, failing, refusing all but a few, accepting and then not answering, rejecting the key.
BAD_DAYS: tuple[dict[str, object], ...] = (
    {"down": True},
    {"delay_seconds": 1.0},
    {"fail_next": 10_000, "status": 500},
    {"rate": 2},
    {"accept_then_timeout": 5},
    {"fail_next": 1, "status": 401},
)
START_SECONDS = 120.0
"""How long a process that died may take until there is another."""

GOOD_DAY: dict[str, object] = {"down": False, "delay_seconds": 0, "fail_next": 0, "accept_then_timeout": 0}


class Faults:
    """The faults that a run can inject; each method does one and returns when what it broke may work again."""

    def __init__(self, stack: Stack, chance: random.Random) -> None:
        self._stack = stack
        self._chance = chance
        self._poison = 0
        self._bad_days: list[dict[str, object]] = []
        self.count: Counter[str] = Counter()

    async def kill(self, name: str | None = None) -> None:
        """SIGKILL a process of a stage, or the gateway."""
        name = name or self._chance.choice((*STAGES, *TABLE_STAGES, "gateway"))
        await self._signal(name, signal.SIGKILL)
        self.count["kills"] += 1
        self.count[f"kills of {name}"] += 1

    async def terminate(self) -> None:
        """SIGTERM a process of a stage in the middle of its work."""
        await self._signal(self._chance.choice(STAGES), signal.SIGTERM)
        self.count["terminations"] += 1

    async def stall(self, name: str | None = None, seconds: float | None = None) -> None:
        """SIGSTOP a worker for longer than its session, so that another one takes over; then let it wake up and go on."""
        pid = await self._signal(name or self._chance.choice(TABLE_STAGES), signal.SIGSTOP)
        await asyncio.sleep(seconds or self._stack.settings.session_timeout_seconds + 4)
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:  # it was killed while it stood still: that is no stalled worker that wakes up
            await self.stall(name, seconds)
        else:
            self.count["stalls"] += 1

    async def restart_broker(self) -> None:
        """SIGKILL Kafka; it comes back on its port, with its data."""
        await self._signal("kafka", signal.SIGKILL)
        self.count["broker_restarts"] += 1

    async def pause_broker(self, seconds: float) -> None:
        """Stop Kafka from answering for ``seconds``."""
        pid = await self._signal("kafka", signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            with contextlib.suppress(ProcessLookupError):  # killed by a fault beside this one
                os.kill(pid, signal.SIGCONT)
        self.count["broker_pauses"] += 1

    async def restart_postgres(self) -> None:
        """SIGKILL PostgreSQL; it comes back on its port, with its data."""
        await self._signal("postgres", signal.SIGKILL)
        self.count["database_outages"] += 1

    async def drop_audit_log(self) -> None:
        """Rename ``audit_log`` away (a drop would lose rows of which nobody promises that they are written again), and back."""
        try:
            connection = await asyncpg.connect(self._stack.postgres, timeout=5)
            await connection.execute("alter table audit_log rename to audit_log_away")
            await asyncio.sleep(self._chance.uniform(1, 5))
            await connection.execute("alter table audit_log_away rename to audit_log")
            await connection.close()
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
            await self._restore_audit_log()
        self.count["database_outages"] += 1

    async def misbehave(self, seconds: float) -> None:
        """The next of Loops' bad days, for ``seconds``: each kind comes once before one comes again."""
        if not self._bad_days:
            self._bad_days = self._chance.sample(BAD_DAYS, k=len(BAD_DAYS))
        async with httpx.AsyncClient(base_url=self._stack.loops, trust_env=False) as loops:
            await loops.post("/_faults", json=self._bad_days.pop())
            await asyncio.sleep(seconds)
            await loops.post("/_faults", json=GOOD_DAY | {"rate": self._stack.settings.loops_rate_per_second})
        self.count["loops_outages"] += 1

    async def poison(self) -> None:
        """A record that is no JSON on every topic that a stage reads."""
        self._poison += 1
        settings = load_settings(kafka_bootstrap_servers=self._stack.kafka)
        for topic in ("razorpay.webhooks", "team.events", "audit.events"):
            record = (f"poison-{self._poison}".encode(), b"\xff no JSON")
            with contextlib.suppress(AssertionError):  # the broker may just be down: then there is no poison this time
                await asyncio.to_thread(produce, settings, topic, [record])
        self.count["poison_records"] += 3

    async def add_and_remove_worker(self) -> None:
        """Let one more worker of a stage join the group for a while, and leave in order."""
        stage = self._chance.choice(TABLE_STAGES)
        program = self._stack.extra_worker(stage, f"{stage}-extra")
        async with asyncio.timeout(START_SECONDS):
            while program.pid is None:
                # A worker that finds no broker ends; as anybody who runs workers would, start it again.
                with contextlib.suppress(StageFailed):
                    await program.start()
        await asyncio.sleep(self._chance.uniform(2, 6))
        await program.stop()
        self.count["workers_added"] += 1

    async def _signal(self, name: str, number: signal.Signals) -> int:
        """Send the signal to a process of ``name`` that is there, and return its pid; one that has just died is started again soon."""
        async with asyncio.timeout(START_SECONDS):
            while True:
                pid = self._chance.choice(self._stack.supervisor.pids[name])
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    await asyncio.sleep(0.1)
                else:
                    return pid

    async def _restore_audit_log(self) -> None:
        """Bring the table back; the database itself may be away for a moment."""
        async with asyncio.timeout(START_SECONDS):
            while True:
                try:
                    connection = await asyncpg.connect(self._stack.postgres, timeout=5)
                except (OSError, asyncpg.PostgresError, TimeoutError):
                    await asyncio.sleep(0.2)
                else:
                    break
        if await connection.fetchval("select to_regclass('audit_log_away') is not null"):
            await connection.execute("alter table audit_log_away rename to audit_log")
        await connection.close()
        await migrate(self._stack.postgres)


Fault = Callable[[], Awaitable[None]]
