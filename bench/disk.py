"""``python -m bench.disk``: what a webhook leaves on disk, in Kafka's logs and in PostgreSQL, at a low rate and at a higher one.

The whole embedded stack, one copy of each topic. Each webhook changes a tier, so each has a row and a mail. The logs are measured before
anything is compacted or deleted, with the markers of the transactions, of which a low rate has more. Written to
``bench/results/disk.json``; a minute and a half a rate at most.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

import asyncpg
import orjson
from rich.console import Console

from bench.document import markdown_table
from bench.open_loop import send
from bench.quiet import quiet_stack
from bench.report import RESULTS
from streams.embedded.stack import Stack
from streams.errors import TierstreamError
from streams.topics import TOPICS

PATH = RESULTS / "disk.json"
PARTITIONS = 8
RUNS = ((20, 600), (100, 3_000))
"""Rate and webhooks of each run."""
ARRIVAL_SECONDS = 60.0
TABLES = ("audit_log", "forwarder_sent")


def measure_disk(runs: tuple[tuple[int, int], ...] = RUNS) -> dict[str, Any]:
    """Return the bytes that a webhook left in each topic, and a row in each table, by the rate. Raises TierstreamError."""
    return {"partitions": PARTITIONS, "rates": [asyncio.run(_measure(rate, webhooks)) for rate, webhooks in runs]}


async def _measure(rate: int, webhooks: int) -> dict[str, Any]:
    async with quiet_stack(PARTITIONS) as stack:
        empty = topic_bytes(stack.data_dir)
        connection = await asyncpg.connect(stack.postgres)
        try:
            sent = await send(stack, rate, 0, webhooks)
            await _arrived(connection, len(sent.accepted))
            tables = {table: round(await connection.fetchval(f"select pg_total_relation_size('{table}')") / webhooks) for table in TABLES}
        finally:
            await connection.close()
        full = topic_bytes(stack.data_dir)
        _check(stack, sent.refused)
    return {
        "rate": rate,
        "webhooks": webhooks,
        "topics": {name: round((full[name] - empty[name]) / webhooks) for name in full if full[name] > empty[name]},
        "tables": tables,
    }


async def _arrived(connection: "asyncpg.Connection[asyncpg.Record]", webhooks: int) -> None:
    """Return once each webhook has its row and its mail."""
    for _ in range(int(ARRIVAL_SECONDS / 0.2)):
        rows, mails = [await connection.fetchval(f"select count(*) from {table}") for table in TABLES]
        if min(rows, mails) >= webhooks:
            return
        await asyncio.sleep(0.2)
    raise TierstreamError(f"Of {webhooks} webhooks, {rows} had a row and {mails} a mail after {ARRIVAL_SECONDS:.0f} s.")


def _check(stack: Stack, refused: int) -> None:
    if refused:
        raise TierstreamError(f"The gateway at {stack.gateway} answered 503 to {refused} webhooks: what they left is not what they cost.")


def topic_bytes(directory: Path) -> dict[str, int]:
    """Return the bytes in the logs of each topic, by its name, from Kafka's files below ``directory``."""
    found = {topic.name: 0 for topic in TOPICS}
    for log in directory.rglob("*.log"):
        name, dash, number = log.parent.name.rpartition("-")
        if dash and number.isdigit() and name in found:
            found[name] += log.stat().st_size
    return found


def main() -> int:
    """Measure, print and write; the exit status is 2 when nothing could be measured."""
    console = Console(highlight=False)
    try:
        disk = measure_disk()
    except (TierstreamError, TimeoutError, ExceptionGroup) as error:  # a group of all senders that got no answer
        console.print(f"bench: {error}", style="red", markup=False)
        return 2
    PATH.write_bytes(orjson.dumps(disk, option=orjson.OPT_INDENT_2) + b"\n")
    console.print(disk_table(disk), markup=False)
    return 0


def disk_table(disk: dict[str, Any]) -> str:
    """Return the table of what was measured, in Markdown."""
    rates = disk["rates"]
    rows = [
        (f"`{name}`", *(f"{rate[kind].get(name, 0):,}" for rate in rates))
        for kind in ("topics", "tables")
        for name in sorted({name for rate in rates for name in rate[kind]}, key=lambda name: (-rates[0][kind].get(name, 0), name))
    ]
    return markdown_table(("bytes a webhook", *(f"at {rate['rate']}/s" for rate in rates)), rows)


if __name__ == "__main__":
    sys.exit(main())
