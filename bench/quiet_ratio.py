"""What many partitions cost a trickle of webhooks, side by side: two whole stacks, measured in turns.

A machine's pace drifts by a third within minutes, which is more than what is to be seen. So both stacks run for the whole time, one of them
idle, and each window of one has its counterpart right before or after it.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from statistics import median
from typing import Any

from rich.console import Console

from bench.console import bar
from bench.open_loop import send
from bench.quiet import COMPILE_RATE, COMPILE_WEBHOOKS, cpu_by_process, measured_processes, quiet_stack
from streams.embedded.stack import Stack

FEW, MANY = 1, 32
RATE, ROUNDS = 100, 8
LEAD_SECONDS, WINDOW_SECONDS = 3, 8
"""A window begins once webhooks have flowed for ``LEAD_SECONDS``."""


class _Measured:
    """One stack, and how much of a core it used in each window."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._processes = measured_processes(stack)
        self._sent = 0
        self.percents: list[float] = []

    async def send(self, rate: int, count: int) -> None:
        await send(self._stack, rate, self._sent, count)
        self._sent += count

    async def window(self) -> None:
        await self.send(RATE, RATE * LEAD_SECONDS)
        before, began = cpu_by_process(self._processes), time.monotonic()
        await self.send(RATE, RATE * WINDOW_SECONDS)
        used = sum(cpu_by_process(self._processes).values()) - sum(before.values())
        self.percents.append(100 * used / (time.monotonic() - began))


def measure_quiet_ratio(console: Console, rounds: int = ROUNDS) -> dict[str, Any]:
    """Return the CPU of both stacks and its ratio, of each round. Raises TierstreamError."""
    with bar(console, f"quiet, {FEW} and {MANY} partitions in turns", rounds) as on_progress:
        few, many = asyncio.run(_measure(rounds, on_progress))
    ratios = [round(high / low, 3) for low, high in zip(few, many, strict=True)]
    return {
        "rate": RATE,
        "partitions": [FEW, MANY],
        "cpu_percent": [round(median(few), 1), round(median(many), 1)],
        "ratios": ratios,
        "ratio": round(median(ratios), 2),
        "ratio_of_sums": round(sum(many) / sum(few), 2),
    }


async def _measure(rounds: int, on_progress: Callable[[int], object]) -> tuple[list[float], list[float]]:
    async with AsyncExitStack() as stacks:
        few, many = [_Measured(await stacks.enter_async_context(quiet_stack(number))) for number in (FEW, MANY)]
        for each in (few, many):
            await each.send(COMPILE_RATE, COMPILE_WEBHOOKS)
        for number in range(rounds):
            for each in (few, many) if number % 2 == 0 else (many, few):
                await each.window()
            on_progress(number + 1)
    return few.percents, many.percents
