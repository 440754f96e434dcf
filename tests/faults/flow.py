"""Processes that end at a given point, on a test's own topics and database, and what is compared when all has come to rest."""

import asyncio
import contextlib
import json
import os
import signal
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence

import orjson
from pydantic import SecretStr
from starlette.responses import JSONResponse

from agents.registry import stage_factory
from schemas.serialize import rfc3339
from streams.embedded.stack import EXAMPLE_PLANS, environment_of
from streams.gateway.http import Message, Receive, Request, Scope, Send
from streams.loops.sink import create_sink
from streams.runtime.http_server import listen, serving
from streams.settings import Settings
from tests.faults.traffic import SECRET
from tests.forked import Forked
from tests.load import OLDEST_SECONDS, PLANS
from tests.topic_io import produce, read_all
from tests.verdict import Findings, compare, decided
from tests.waiting import until
from tests.workers import committed, running

REFUSED = "refused"
"""An address that begins so is refused by our Loops, whenever a mail to it comes."""

CALM_SECONDS = 120.0
"""Far more than anything here takes: a slow machine must not fail a test."""


def refuses(address: str) -> bool:
    """Whether our Loops refuses mails to ``address``."""
    return address.startswith(REFUSED)


class _RefusingLoops:
    """The fake Loops, as an ASGI application, behind a look at the address of each mail."""

    def __init__(self) -> None:
        self._sink = create_sink(rate_per_second=None, api_key=None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/api/v1/events/send":
            await self._sink(scope, receive, send)
            return
        body = await Request(dict(scope["headers"]), receive).body()
        if refuses(json.loads(body)["email"]):
            answer = JSONResponse({"success": False, "message": "This address takes no mail."}, 422)
            await answer(scope, receive, send)
            return
        request = deque[Message]([{"type": "http.request", "body": body}])

        async def receive_again() -> Message:
            return request.popleft() if request else await receive()

        await self._sink(scope, receive_again, send)


@contextlib.asynccontextmanager
async def loops() -> AsyncIterator[str]:
    """Serve the fake Loops, which refuses some addresses for good; gives its URL."""
    async with serving(_RefusingLoops(), listen("127.0.0.1", 0, "LOOPS_SINK"), grace_seconds=0.2) as url:
        yield url


@contextlib.asynccontextmanager
async def flow(stage_settings: Settings, **changes: object) -> AsyncIterator[Settings]:
    """Settings for all stages on the test's own topics and database, with a fake Loops while the block runs."""
    async with loops() as url:
        own: dict[str, object] = {
            "plans": EXAMPLE_PLANS,
            "loops_base_url": url,
            "loops_api_key": SecretStr("key"),
            "loops_rate_per_second": 1_000.0,
            "forward_max_age_seconds": OLDEST_SECONDS,
            "razorpay_webhook_secrets": SecretStr(SECRET),
            "ingest_tokens": SecretStr("demo-ingest"),
            "gateway_host": "127.0.0.1",
            "session_timeout_seconds": 6.0,
            "instance_id": "0",  # kept over restarts, so that a successor need not wait until a session has expired
        }
        yield stage_settings.model_copy(update={**own, **changes})


class Crashing:
    """A process of a stage, or the gateway, by ``tests.faults.crashing_worker``; ``options`` are its arguments."""

    def __init__(self, settings: Settings, stage: str, *options: str) -> None:
        self.lines: deque[str] = deque(maxlen=40)
        self.title = " ".join([stage, *options])
        self.process = Forked(
            "tests.faults.crashing_worker", [stage, *options], env={**os.environ, **environment_of(settings)}, sink=self.lines.append
        )

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Return once ``condition`` holds; fail with the process's last lines when it ends before that, or in no time."""
        try:
            await until(lambda: self.process.pid is None or condition(), what, CALM_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self}") from None
        assert self.process.pid is not None, f"{self.title} ended before {what}\n{self}"

    async def status(self) -> int:
        """Wait for its end and return its exit status, negative for a signal; fail with its last lines when it does not end."""
        try:
            async with asyncio.timeout(CALM_SECONDS):
                return await self.process.wait()
        except TimeoutError:
            raise AssertionError(f"{self.title} did not end; its last lines:\n{self}") from None

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        pid = self.process.pid
        assert pid is not None, str(self)
        os.kill(pid, number)

    def __str__(self) -> str:
        return "\n".join(self.lines)

    async def __aenter__(self) -> "Crashing":
        await self.process.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.process.kill()
        await self.process.wait()


def charges(teams: Sequence[str], turns: range) -> list[tuple[bytes, bytes]]:
    """Records for ``team.events``: in each turn a charge of every team, on another plan than in the turn before."""
    start = int(time.time()) - 3_600
    found = []
    for turn in turns:
        plan = list(PLANS)[turn % len(PLANS)]
        for team in teams:
            name, at = team[:8], start + turn
            data = {"event_id": f"e{name}{turn}", "subscription_id": f"sub_{name}", "occurred_at": at, "time_source": "created_at"}
            data |= {"plan_id": plan, "tier": PLANS[plan], "paid_count": turn + 1, "email": f"{name}@example.com"}
            envelope = {"specversion": "1.0", "id": f"f{name}{turn}", "source": "test", "type": "subscription.charged", "subject": team}
            found.append((team.encode(), orjson.dumps(envelope | {"time": rfc3339(at), "data": data})))
    return found


def at_rest(settings: Settings, *stages: str) -> bool:
    """Whether the deciding stages have worked all in, nothing is due in the next moments, and ``stages`` without a table have read to the
    end, whatever they made of it."""
    if not decided(settings):
        return False
    ends = Counter(dict.fromkeys(range(settings.partitions), 0))
    for message in read_all(settings, "audit.events"):
        ends[message.partition() or 0] = (message.offset() or 0) + 1
    return all(committed(settings, stage, "audit.events") == ends for stage in stages)


async def work(settings: Settings, *stages: str) -> None:
    """Run ordinary stages in this process until all is at rest."""
    without_table = [stage for stage in stages if stage in ("audit", "forward")]
    async with running(settings, *(stage_factory(settings, stage) for stage in stages)) as run:
        await run.until(lambda: at_rest(settings, *without_table), f"{', '.join(stages)} at the end of their topics", CALM_SECONDS)


async def judged(settings: Settings) -> Findings:
    """What the oracles say of all that is there."""
    assert settings.postgres_dsn is not None
    return await compare(settings, settings.postgres_dsn.get_secret_value(), settings.loops_base_url, refuses)


def named_in(findings: Findings, difference: str) -> bool:
    """Whether there is a difference that begins so, its sort first: ``missing: audit row``."""
    sort, _, beginning = difference.partition(": ")
    return any(sentence.startswith(beginning) for sentence in getattr(findings, sort))


async def land(settings: Settings, records: Sequence[tuple[bytes, bytes]]) -> None:
    """Produce records to ``team.events``."""
    await asyncio.to_thread(produce, settings, "team.events", records)
