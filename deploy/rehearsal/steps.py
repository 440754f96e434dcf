"""What is done to the running stack. Each step breaks something under load, and ends with the same questions: are the rows and mails those
of a sequential run over all that was sent so far, and does ``tierstream verify`` agree?"""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from deploy.rehearsal.docker import HEALTHY_SECONDS, Compose, RehearsalFailed, wait_until
from deploy.rehearsal.load import Load
from deploy.rehearsal.mailbox import Mailbox
from streams.settings import Settings
from tests.verdict import accepted_mails, compare, delivered_mails, until_settled

WORKERS = ("normalise", "classify", "audit", "forward")
OURS = "tierstream:local"
SETTLE_SECONDS = 180.0


@dataclass(frozen=True)
class Addresses:
    """Where this machine reaches the stack."""

    gateway: str
    loops: str
    postgres: str
    settings: Settings


@dataclass(frozen=True)
class Result:
    """What a step took and found. Times in seconds; rows and mails are those of the whole run so far."""

    name: str
    seconds: float
    posts: int
    sent_again: int
    longest_wait: float
    rows: int
    mails: int
    healthy_after: dict[str, float]


class Rehearsal:
    """The steps, on a running stack; one after the other. Blocking."""

    def __init__(self, compose: Compose, addresses: Addresses, report: Callable[[str], None], seed: int) -> None:
        self._compose = compose
        self._addresses = addresses
        self._report = report
        self._chance = random.Random(seed)
        self._healthy_after: dict[str, float] = {}
        self._mailbox = Mailbox()
        self._forgotten: set[str] = set()
        self.results: list[Result] = []

    def step(self, name: str, breaking: Callable[[Load], None]) -> None:
        """Break something under load; then judge all that was sent so far. Raises RehearsalFailed where something is missing, wrong or doubled."""
        self._healthy_after, began = {}, time.monotonic()
        load = Load(self._addresses.gateway, self._chance)
        load.start()
        breaking(load)
        try:
            sent = load.stop(HEALTHY_SECONDS)
            rows, mails = self._judge(loops_restarted=breaking in (self.restart, self.down_and_up))
        except (AssertionError, TimeoutError) as error:
            raise RehearsalFailed(f"{name}: {error}") from error
        result = Result(
            name, round(time.monotonic() - began, 1), sent.posts, sent.sent_again, sent.longest_wait, rows, mails, self._healthy_after
        )
        self.results.append(result)
        self._report(f"{name}: {told(result)}")

    def _judge(self, *, loops_restarted: bool) -> tuple[int, int]:
        """Return how many rows and mails there are by now. Raises AssertionError with what is not as it should be."""
        settings, postgres, loops = self._addresses.settings, self._addresses.postgres, self._addresses.loops

        async def compared() -> tuple[int, int]:
            await until_settled(settings, postgres, SETTLE_SECONDS)
            self._mailbox.add(await accepted_mails(loops))
            if loops_restarted:
                self._forgotten |= await delivered_mails(postgres) - self._mailbox.ids
            findings = await compare(settings, postgres, self._mailbox.mails, forgotten=self._forgotten)
            assert findings.exact, f"not what a sequential run leaves.\n{findings}"
            return findings.rows, findings.mails + len(self._forgotten)

        found = asyncio.run(compared())
        self._compose.run("run", "--rm", "ops", "verify")
        return found

    def nothing(self, load: Load) -> None:
        """Break nothing while a stream is sent."""

    def kill(self, *services: str) -> Callable[[Load], None]:
        """SIGKILL the first process of each service from outside, as the kernel does when memory is short; the next once it is started again."""

        def killing(load: Load) -> None:
            killed: dict[str, float] = {}
            for service in services:
                (container,) = self._compose.containers(service)
                killed[service] = time.monotonic()
                self._send_kill(container["State"]["Pid"])
                is_restarted = partial(self._is_restarted, service, container["RestartCount"])
                wait_until(is_restarted, partial("{} started again".format, service), HEALTHY_SECONDS)
            for service, moment in killed.items():
                self._compose.until_well(service)
                self._healthy_after[service] = round(time.monotonic() - moment, 1)
            self._compose.until_well()

        return killing

    def _send_kill(self, pid: int) -> None:
        # `docker kill` counts as a stop by hand, after which nothing is started again; and the process may be another user's, or in a
        # virtual machine.
        rights = ("--pid", "host", "--user", "0", "--cap-drop", "ALL", "--cap-add", "KILL", "--network", "none")
        self._compose.docker.run("run", "--rm", *rights, "--entrypoint", "sh", OURS, "-c", f"kill -KILL {pid}")

    def _is_restarted(self, service: str, restarts: int) -> bool:
        (container,) = self._compose.containers(service)
        return bool(container["RestartCount"] > restarts)

    def scale(self, load: Load) -> None:
        """Two workers of classify, and one again."""
        for number in (2, 1):
            began = time.monotonic()
            self._compose.run("up", "--detach", "--wait", "--no-recreate", "--scale", f"classify={number}")
            found = len(self._compose.containers("classify"))
            if found != number:
                raise RehearsalFailed(f"After --scale classify={number} there are {found} containers of classify.")
            self._healthy_after[f"classify={number}"] = round(time.monotonic() - began, 1)

    def restart(self, load: Load) -> None:
        """``docker compose restart``: everything at once, and nobody waits for anybody's health."""
        began = time.monotonic()
        with self._mailbox.watching(self._addresses.loops):
            self._compose.run("restart")
        self._compose.until_well()
        self._healthy_after["the stack"] = round(time.monotonic() - began, 1)

    def down_and_up(self, load: Load) -> None:
        """``docker compose down``, which keeps the volumes, and ``up``; the fake Loops forgets what it had."""
        with self._mailbox.watching(self._addresses.loops):
            self._compose.run("down")
        began = time.monotonic()
        self._compose.run("up", "--detach", "--wait")
        self._healthy_after["the stack"] = round(time.monotonic() - began, 1)


def told(result: Result) -> str:
    """A result in one line."""
    healthy = "".join(f", {name} healthy after {seconds:g} s" for name, seconds in result.healthy_after.items())
    return (
        f"{result.posts} posts, {result.sent_again} sent again, longest wait {result.longest_wait:g} s{healthy}; "
        f"exact: {result.rows} rows, {result.mails} mails; {result.seconds:g} s"
    )
