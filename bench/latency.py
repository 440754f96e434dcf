"""How long a webhook takes through the whole embedded stack: from its 200 to its committed audit row, and to Loops' receipt.

Webhooks are sent at a fixed rate, whatever the answers (an open loop). The row's time is that of PostgreSQL's notification to a
listener, which a trigger raises and the commit releases; the mail's is the receipt that the fake Loops notes.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import aiohttp
import asyncpg
from rich.console import Console

from bench.console import bar
from bench.webhooks import Webhook, live_charges
from streams.embedded.stack import EMBEDDED_DEFAULTS, Stack, StackOptions, start_stack
from streams.errors import TierstreamError

RATE = 200
SECONDS, WARM_UP_SECONDS = 30, 5
TEAMS = 1_000
ARRIVAL_SECONDS = 30.0
LOOPS_LIMIT = 2_000

_NOTIFY = """
create function bench_notify() returns trigger language plpgsql as $$ begin perform pg_notify('bench', new.id::text); return null; end $$;
create trigger bench_notify after insert on audit_log for each row execute function bench_notify();
"""


def measure_latency(console: Console, seconds: int = SECONDS, warm_up_seconds: int = WARM_UP_SECONDS) -> dict[str, Any]:
    """Return the percentiles in milliseconds."""
    with bar(console, "latency", (seconds + warm_up_seconds) * RATE) as on_progress:
        return asyncio.run(_measure(seconds, warm_up_seconds, on_progress))


async def _measure(seconds: int, warm_up_seconds: int, on_progress: Callable[[int], object]) -> dict[str, Any]:
    async with start_stack(StackOptions({}, overrides={"loops_rate_per_second": LOOPS_LIMIT})) as stack:
        listener = await asyncpg.connect(stack.postgres)
        await listener.execute(_NOTIFY)
        rows: dict[str, float] = {}

        def on_row(_connection: object, _pid: int, _channel: str, audit_id: object) -> None:
            rows.setdefault(str(audit_id), time.time())

        await listener.add_listener("bench", on_row)
        try:
            accepted = await _send(stack, (seconds + warm_up_seconds) * RATE, on_progress)
            await _until(lambda: accepted.keys() <= rows.keys(), "every webhook has its audit row")
            mails = await _mails(stack, accepted)
        finally:
            await listener.close()
    measured = list(accepted)[warm_up_seconds * RATE :]
    to_row = sorted(rows[id] - accepted[id] for id in measured)
    to_loops = sorted(mails[id] - accepted[id] for id in measured)
    return {
        "rate": RATE,
        "events": len(measured),
        "row_p50_ms": _percentile(to_row, 50),
        "row_p99_ms": _percentile(to_row, 99),
        "loops_p50_ms": _percentile(to_loops, 50),
        "loops_p99_ms": _percentile(to_loops, 99),
    }


async def _send(stack: Stack, number: int, on_progress: Callable[[int], object]) -> dict[str, float]:
    """Send ``number`` webhooks, and return when each audit row's webhook was accepted (Unix seconds)."""
    secret = EMBEDDED_DEFAULTS["razorpay_webhook_secrets"].encode()
    accepted: dict[str, float] = {}
    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=64)) as session, asyncio.TaskGroup() as tasks:
        began = time.monotonic()
        for index in range(number):
            await asyncio.sleep(max(0.0, began + index / RATE - time.monotonic()))
            webhook, audit_id = live_charges(TEAMS, int(time.time()), index)
            accepted[audit_id] = 0.0
            tasks.create_task(_post(session, stack.gateway, webhook, secret, accepted, audit_id))
            if not index % RATE:
                on_progress(index)
    return accepted


async def _post(
    session: aiohttp.ClientSession, url: str, webhook: Webhook, secret: bytes, accepted: dict[str, float], audit_id: str
) -> None:
    headers = {
        "content-type": "application/json",
        "x-razorpay-event-id": webhook.event_id,
        "x-razorpay-signature": webhook.signature(secret),
    }
    async with session.post(f"{url}/webhooks/razorpay", data=webhook.body, headers=headers) as answer:
        if answer.status != 200:
            raise TierstreamError(f"The gateway answered {answer.status} to a webhook of the benchmark.")
        accepted[audit_id] = time.time()


async def _mails(stack: Stack, accepted: dict[str, float]) -> dict[str, float]:
    """When Loops received each mail (Unix seconds), by audit id."""
    found: dict[str, float] = {}
    async with aiohttp.ClientSession() as session:

        async def all_there() -> bool:
            async with session.get(f"{stack.loops}/_sent", params={"offset": str(len(found))}) as answer:
                for mail in await answer.json():
                    found[mail["idempotency_key"]] = datetime.fromisoformat(mail["received_at"]).timestamp()
            return accepted.keys() <= found.keys()

        deadline = time.monotonic() + ARRIVAL_SECONDS
        while not await all_there():
            _check(deadline, "every webhook has its mail")
            await asyncio.sleep(0.1)
    return found


async def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + ARRIVAL_SECONDS
    while not condition():
        _check(deadline, what)
        await asyncio.sleep(0.05)


def _check(deadline: float, what: str) -> None:
    if time.monotonic() > deadline:
        raise TierstreamError(f"Not within {ARRIVAL_SECONDS:.0f} s: {what}.")


def _percentile(ascending: Sequence[float], percent: int) -> float:
    return round(1000 * ascending[min(len(ascending) - 1, len(ascending) * percent // 100)], 1)
