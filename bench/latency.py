"""How long a webhook takes through the whole embedded stack: from its 200 to its committed audit row, and to Loops' receipt."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any

import aiohttp
from rich.console import Console

from bench.console import bar
from bench.open_loop import committed_rows, percentile, send, until
from streams.embedded.stack import Stack, StackOptions, start_stack
from streams.errors import TierstreamError

RATE = 200
SECONDS, WARM_UP_SECONDS = 30, 5
LOOPS_LIMIT = 2_000


def measure_latency(console: Console, seconds: int = SECONDS, warm_up_seconds: int = WARM_UP_SECONDS) -> dict[str, Any]:
    """Return the percentiles in milliseconds. Raises TierstreamError when the gateway refuses one."""
    with bar(console, "latency", (seconds + warm_up_seconds) * RATE) as on_progress:
        return asyncio.run(_measure(seconds, warm_up_seconds, on_progress))


async def _measure(seconds: int, warm_up_seconds: int, on_progress: Callable[[int], object]) -> dict[str, Any]:
    async with start_stack(StackOptions({}, overrides={"loops_rate_per_second": LOOPS_LIMIT})) as stack, committed_rows(stack) as rows:
        sent = await send(stack, RATE, 0, (seconds + warm_up_seconds) * RATE, on_progress)
        if sent.refused:
            raise TierstreamError(f"The gateway answered 503 to {sent.refused} webhooks of the benchmark.")
        accepted = sent.accepted
        await until(lambda: accepted.keys() <= rows.keys(), "every webhook has its audit row")
        mails: dict[str, float] = {}
        while not accepted.keys() <= mails.keys():
            await _receive(stack, mails)
    measured = list(sent.sent)[warm_up_seconds * RATE :]
    to_row = sorted(rows[id] - accepted[id] for id in measured)
    to_loops = sorted(mails[id] - accepted[id] for id in measured)
    return {
        "rate": RATE,
        "events": len(measured),
        "row_p50_ms": percentile(to_row, 50),
        "row_p99_ms": percentile(to_row, 99),
        "loops_p50_ms": percentile(to_loops, 50),
        "loops_p99_ms": percentile(to_loops, 99),
    }


async def _receive(stack: Stack, mails: dict[str, float]) -> None:
    """Wait for mails that are not in ``mails`` yet, and put in when Loops received each (Unix seconds), by audit id."""
    known = len(mails)
    async with aiohttp.ClientSession() as session, asyncio.timeout(30):
        while len(mails) == known:
            async with session.get(f"{stack.loops}/_sent", params={"offset": str(known)}) as answer:
                for mail in await answer.json():
                    mails[mail["idempotency_key"]] = datetime.fromisoformat(mail["received_at"]).timestamp()
            await asyncio.sleep(0.1)
