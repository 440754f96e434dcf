"""What a webhook costs while there are few: the whole embedded stack at fixed rates, by its number of partitions.

CPU is that of the five processes and of the broker, from ``/proc``, in percent of one core; PostgreSQL and the fake Loops run too, and
are not counted.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from bench.console import bar
from bench.open_loop import committed_rows, percentile, send, until
from bench.run import cpu_seconds
from streams.embedded.stack import PROCESS_NAMES, RIDES_WITH, Stack, StackOptions, start_stack
from streams.errors import TierstreamError

RATES = (20, 100, 500)
PARTITIONS = (1, 8, 32, 128)
IDLE_SECONDS, SECONDS, WARM_UP_SECONDS = 10.0, 15, 15
COMPILE_RATE, COMPILE_SECONDS = 200, 80
"""Before anything is measured: by then Java has compiled what the broker does often. It is no part of what a webhook costs."""
COMPILE_WEBHOOKS = COMPILE_RATE * COMPILE_SECONDS
SETTLE_SECONDS = 5.0
LOOPS_LIMIT = 2_000
PROCESSES = tuple(name for name in PROCESS_NAMES if name not in RIDES_WITH)
"""One name for each: feedback has none of its own."""
STAGES = PROCESSES[1:]
KAFKA = "kafka"


def measure_quiet(
    console: Console, partitions: tuple[int, ...] = PARTITIONS, rates: tuple[int, ...] = RATES, seconds: int = SECONDS
) -> list[dict[str, Any]]:
    """Return a row for each number of partitions idle, and for each rate. Raises TierstreamError."""
    rows: list[dict[str, Any]] = []
    for number in partitions:
        total = COMPILE_WEBHOOKS + sum(rates) * (seconds + WARM_UP_SECONDS)
        with bar(console, f"quiet, {number} partitions", total) as on_progress:
            measured = asyncio.run(_measure(number, rates, seconds, on_progress))
        print_rows(measured, console)
        rows += measured
    return rows


def print_rows(rows: list[dict[str, Any]], console: Console) -> None:
    """Print a table."""
    table = Table("partitions", "rate", "CPU %", "ms each", "gateway p50/p99", "row p50/p99", "refused", "threads", "MB", box=None)
    for row in rows:
        if row["rate"]:
            gateway, to_row = (f"{row[f'{name}_p50_ms']:g} / {row[f'{name}_p99_ms']:g}" for name in ("gateway", "row"))
            each, refused = f"{row['cpu_ms']:g}", str(row["refused"])
        else:
            gateway = to_row = each = refused = ""
        cpu = " ".join(f"{name[:4]} {value:g}" for name, value in row["cpu_by_process"].items())
        numbers = (str(row["partitions"]), str(row["rate"]), f"{row['cpu_percent']:g} ({cpu})", each, gateway, to_row, refused)
        table.add_row(*numbers, str(row["threads"]), str(row["rss_mb"]))
    console.print(table)


def quiet_stack(partitions: int) -> AbstractAsyncContextManager[Stack]:
    """Start a stack as those that are measured here."""
    return start_stack(StackOptions({}, overrides={"loops_rate_per_second": LOOPS_LIMIT, "partitions": partitions}, long_lived=True))


def measured_processes(stack: Stack) -> dict[str, psutil.Process]:
    """Return the processes of a stack whose CPU counts, by name."""
    return {name: psutil.Process(pid) for name, (pid, *_) in stack.supervisor.pids.items() if name in (*PROCESSES, KAFKA)}


def cpu_by_process(processes: dict[str, psutil.Process]) -> dict[str, float]:
    """Return the seconds of CPU that each has used so far."""
    return {name: cpu_seconds([process]) for name, process in processes.items()}


async def _measure(partitions: int, rates: tuple[int, ...], seconds: int, on_progress: Callable[[int], object]) -> list[dict[str, Any]]:
    async with quiet_stack(partitions) as stack, committed_rows(stack) as committed:
        processes = measured_processes(stack)
        await send(stack, COMPILE_RATE, 0, COMPILE_WEBHOOKS)
        on_progress(COMPILE_WEBHOOKS)
        await asyncio.sleep(SETTLE_SECONDS)  # what starts up costs is no idle cost
        before, began = cpu_by_process(processes), time.monotonic()
        await asyncio.sleep(IDLE_SECONDS)
        rows = [{"partitions": partitions, "rate": 0, **_used(processes, before, time.monotonic() - began, 0)}]
        first = COMPILE_WEBHOOKS
        for rate in rates:
            row = await _at_rate(stack, processes, committed, rate, first, seconds)
            rows.append({"partitions": partitions, "rate": rate, **row})
            first += rate * (WARM_UP_SECONDS + seconds)
            on_progress(first)
    return rows


async def _at_rate(
    stack: Stack, processes: dict[str, psutil.Process], committed: dict[str, float], rate: int, first: int, seconds: int
) -> dict[str, Any]:
    warm_up = rate * WARM_UP_SECONDS
    await send(stack, rate, first, warm_up)
    before, began = cpu_by_process(processes), time.monotonic()
    sent = await send(stack, rate, first + warm_up, rate * seconds)
    used = _used(processes, before, time.monotonic() - began, rate * seconds)
    with contextlib.suppress(TierstreamError):  # a stack that is overloaded: what has not come by then counts as come now
        await until(lambda: sent.accepted.keys() <= committed.keys(), f"every webhook of {rate}/s has its audit row")
    now = time.time()
    answers, to_row = sorted(sent.answer_seconds), sorted(committed.get(id, now) - sent.sent[id] for id in sent.accepted)
    return {
        **used,
        "refused": sent.refused,
        "late": len(sent.accepted.keys() - committed.keys()),
        **{f"gateway_p{percent}_ms": percentile(answers, percent) for percent in (50, 99)},
        **{f"row_p{percent}_ms": percentile(to_row, percent) for percent in (50, 99)},
    }


def _used(processes: dict[str, psutil.Process], before: dict[str, float], seconds: float, webhooks: int) -> dict[str, Any]:
    by_process = {name: now - before[name] for name, now in cpu_by_process(processes).items()}
    total = sum(by_process.values())
    ours = [process for name, process in processes.items() if name != KAFKA]
    return {
        "cpu_percent": round(100 * total / seconds, 1),
        "cpu_by_process": {name: round(100 * used / seconds, 1) for name, used in by_process.items()},
        "cpu_ms": round(1000 * total / webhooks, 2) if webhooks else None,
        "threads": max(processes[name].num_threads() for name in STAGES),
        "rss_mb": round(sum(process.memory_info().rss for process in ours) / 1e6),
    }
