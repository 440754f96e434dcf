"""What is done to the running stack. Each step breaks something under load, and ends with the same questions: are the rows and mails those
of a sequential run over all that was sent so far, and does ``tierstream verify`` agree?"""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from deploy.rehearsal.docker import Compose, RehearsalFailed
from streams.settings import Settings
from tests.faults.traffic import traffic
from tests.verdict import compare, until_settled

WORKERS = ("normalise", "classify", "audit", "forward")
LOAD_EVENTS, LOAD_PER_SECOND = 400, 20.0
HEALTHY_SECONDS = 180.0
SETTLE_SECONDS = 240.0
LOOK_SECONDS = 0.3
OURS = "tierstream:local"
"""The image whose containers have no rights."""


@dataclass(frozen=True)
class Addresses:
    """Where this machine reaches the stack."""

    gateway: str
    loops: str
    postgres: str
    settings: Settings


@dataclass(frozen=True)
class Result:
    """What a step took and found. Times in seconds."""

    name: str
    seconds: float
    posts: int
    sent_again: int
    longest_wait: float
    rows: int
    mails: int
    healthy_after: dict[str, float]


class Rehearsal:
    """The steps, on a running stack; one after the other."""

    def __init__(self, compose: Compose, addresses: Addresses, report: Callable[[str], None], seed: int) -> None:
        self._compose = compose
        self._addresses = addresses
        self._report = report
        self._chance = random.Random(seed)
        self._healthy_after: dict[str, float] = {}
        self.results: list[Result] = []

    async def kill(self, *services: str) -> None:
        """SIGKILL the first process of each service from outside, as the kernel does when memory is short; the next once it is healthy."""
        for service in services:
            (container,) = self._compose.containers(service)
            restarts, began = container["RestartCount"], time.monotonic()
            os.kill(container["State"]["Pid"], signal.SIGKILL)
            await self._until(lambda name=service, count=restarts: self._is_restarted(name, count), f"{service} is started again")  # type: ignore[misc]
            await self.until_healthy()
            self._healthy_after[service] = round(time.monotonic() - began, 1)

    def _is_restarted(self, service: str, restarts: int) -> bool:
        (container,) = self._compose.containers(service)
        return bool(container["RestartCount"] > restarts)

    async def scale(self) -> None:
        """Two workers of classify, and one again."""
        for number in (2, 1):
            await self._run("up", "--detach", "--wait", "--no-recreate", "--scale", f"classify={number}")

    async def restart(self) -> None:
        """``docker compose restart``: everything at once, and nobody waits for anybody's health."""
        await self._run("restart")
        await self.until_healthy()

    async def down_and_up(self) -> None:
        """``docker compose down``, which keeps the volumes, and ``up``."""
        await self._run("down")
        began = time.monotonic()
        await self._run("up", "--detach", "--wait")
        self._healthy_after["the whole stack"] = round(time.monotonic() - began, 1)

    async def until_healthy(self) -> None:
        """Return once every container is healthy, and those that end have ended well."""
        await self._until(self._compose.is_healthy, "every container is healthy")

    async def step(self, name: str, breaking: Callable[[], Awaitable[object]]) -> None:
        """Break something under load; then judge all that was sent so far. Raises RehearsalFailed where something is missing, wrong or doubled."""
        self._report(name)
        self._healthy_after, began = {}, time.monotonic()
        stream = traffic(self._addresses.gateway, self._chance.randrange(1 << 30), LOAD_EVENTS, LOAD_PER_SECOND)
        async with asyncio.TaskGroup() as both:
            both.create_task(stream.run())
            both.create_task(_awaited(breaking()))
        rows, mails = await self._judge(name)
        seconds, waited = round(time.monotonic() - began, 1), round(stream.longest_wait_seconds, 1)
        self.results.append(Result(name, seconds, stream.accepted, stream.retries, waited, rows, mails, self._healthy_after))

    async def _judge(self, name: str) -> tuple[int, int]:
        settings, postgres, loops = self._addresses.settings, self._addresses.postgres, self._addresses.loops
        await until_settled(settings, postgres, SETTLE_SECONDS)
        findings = await compare(settings, postgres, loops)
        if not findings.exact:
            raise RehearsalFailed(f"After {name}: {findings}")
        await self._run("run", "--rm", "ops", "verify")
        return findings.rows, findings.mails

    async def _run(self, *arguments: str) -> str:
        return await asyncio.to_thread(self._compose.run, *arguments)

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + HEALTHY_SECONDS
        while not await asyncio.to_thread(condition):
            if time.monotonic() > deadline:
                raise RehearsalFailed(f"Not within {HEALTHY_SECONDS:g} s: {what}.")
            await asyncio.sleep(LOOK_SECONDS)


async def _awaited(breaking: Awaitable[object]) -> None:
    await breaking


def check_limits(compose: Compose) -> None:
    """Raise RehearsalFailed unless our containers run as nobody in particular, with no capability, and can write to ``/tmp`` alone."""
    for container in compose.containers():
        if container["Config"]["Image"] != OURS or not container["State"]["Running"]:
            continue
        name = container["Name"].strip("/")
        said = compose.docker.run(
            "exec", name, "sh", "-c", "id -u; (: > /file) 2>/dev/null && echo writable; grep CapEff /proc/1/status"
        ).split()
        if said[0] == "0" or "writable" in said or int(said[-1], 16) != 0:
            raise RehearsalFailed(f"{name} has more rights than docker-compose.yml says: {' '.join(said)}.")


def check_secrets(compose: Compose, secrets: tuple[str, ...]) -> None:
    """Raise RehearsalFailed where a secret stands in a command line, a label, the output of a health check, or a log."""
    for container in compose.containers():
        name = container["Name"].strip("/")
        health = container["State"].get("Health", {}).get("Log") or []
        logged = compose.docker.attempt("logs", name)
        places = {
            "its command line": f"{container['Path']} {container['Args']} {compose.docker.attempt('top', name, '-eo', 'args').stdout}",
            "a label": str(container["Config"]["Labels"]),
            "its health check": str(health),
            "its log": logged.stdout + logged.stderr,
        }
        for place, text in places.items():
            if any(secret in text for secret in secrets):
                raise RehearsalFailed(f"A secret stands in {place} ({name}).")


@contextlib.asynccontextmanager
async def taken_down(compose: Compose) -> AsyncIterator[None]:
    """Run the block, then ``down -v``. Raises RehearsalFailed where that leaves something behind."""
    try:
        yield
    finally:
        await asyncio.to_thread(compose.run, "--profile", "ops", "down", "--volumes")
    label = f"label=com.docker.compose.project={compose.name}"
    kinds = {"container": ("ps", "--all"), "volume": ("volume", "ls"), "network": ("network", "ls")}
    for kind, command in kinds.items():
        if left := compose.docker.run(*command, "--quiet", "--filter", label).split():
            raise RehearsalFailed(f"`docker compose down --volumes` left a {kind} behind: {', '.join(left)}.")
