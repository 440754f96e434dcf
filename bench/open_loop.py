"""Webhooks into a running embedded stack at a fixed rate, whatever the answers (an open loop), and when their rows are committed."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import aiohttp
import asyncpg

from bench.webhooks import Webhook, live_charges
from streams.embedded.stack import EMBEDDED_DEFAULTS, Stack
from streams.errors import TierstreamError

TEAMS = 10_000
"""So many that webhooks of one team are seconds apart: one that overtakes another of its team takes that one's row away."""
ARRIVAL_SECONDS = 30.0
CONNECTIONS = 64

_NOTIFY = """
create function bench_notify() returns trigger language plpgsql as $$ begin perform pg_notify('bench', new.id::text); return null; end $$;
create trigger bench_notify after insert on audit_log for each row execute function bench_notify();
"""


@dataclass(slots=True)
class Sent:
    """What became of the webhooks of one run. Times are Unix seconds; ``sent`` and ``accepted`` are by the id of the audit row."""

    sent: dict[str, float] = field(default_factory=dict)
    accepted: dict[str, float] = field(default_factory=dict)
    answer_seconds: list[float] = field(default_factory=list)
    refused: int = 0


@contextlib.asynccontextmanager
async def committed_rows(stack: Stack) -> AsyncIterator[dict[str, float]]:
    """Give when each audit row was committed, by its id: PostgreSQL's notification comes with the commit."""
    listener = await asyncpg.connect(stack.postgres)
    rows: dict[str, float] = {}

    def on_row(_connection: object, _pid: int, _channel: str, audit_id: object) -> None:
        rows.setdefault(str(audit_id), time.time())

    try:
        await listener.execute(_NOTIFY)
        await listener.add_listener("bench", on_row)
        yield rows
    finally:
        await listener.close()


async def send(stack: Stack, rate: int, first: int, count: int, on_progress: Callable[[int], object] = lambda _: None) -> Sent:
    """Send ``count`` webhooks, each when it is due; the first is number ``first`` of the stream."""
    secret = EMBEDDED_DEFAULTS["razorpay_webhook_secrets"].encode()
    sent = Sent()
    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10), connector=connector) as session, asyncio.TaskGroup() as tasks:
        began = time.monotonic()
        for index in range(count):
            await asyncio.sleep(max(0.0, began + index / rate - time.monotonic()))
            webhook, audit_id = live_charges(TEAMS, int(time.time()), first + index)
            tasks.create_task(_post(session, stack.gateway, webhook, secret, sent, audit_id))
            if not index % rate:
                on_progress(index)
    return sent


async def _post(session: aiohttp.ClientSession, url: str, webhook: Webhook, secret: bytes, sent: Sent, audit_id: str) -> None:
    headers = {
        "content-type": "application/json",
        "x-razorpay-event-id": webhook.event_id,
        "x-razorpay-signature": webhook.signature(secret),
    }
    began = sent.sent[audit_id] = time.time()
    async with session.post(f"{url}/webhooks/razorpay", data=webhook.body, headers=headers) as answer:
        ended = time.time()
        if answer.status not in (200, 503):
            raise TierstreamError(f"The gateway answered {answer.status} to a webhook of the benchmark.")
        sent.answer_seconds.append(ended - began)
        if answer.status == 200:
            sent.accepted[audit_id] = ended
        else:
            sent.refused += 1


async def until(condition: Callable[[], bool], what: str, seconds: float = ARRIVAL_SECONDS) -> None:
    """Return once ``condition`` holds. Raises TierstreamError after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TierstreamError(f"Not within {seconds:.0f} s: {what}.")
        await asyncio.sleep(0.05)


def percentile(ascending: Sequence[float], percent: int) -> float:
    """Return the percentile of seconds, in milliseconds."""
    return round(1000 * ascending[min(len(ascending) - 1, len(ascending) * percent // 100)], 1)
