"""Waiting for a condition, with a deadline."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def until(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Return once ``condition`` holds; fail after ``seconds``. The condition runs in a thread: it may block."""
    deadline = time.monotonic() + seconds
    while True:
        asked = time.monotonic()
        if await asyncio.to_thread(condition):
            return
        now = time.monotonic()
        assert now < deadline, f"not within {seconds:.0f} s: {what}"
        await asyncio.sleep(max(0.05, now - asked))  # to ask takes a share of the broker from those that are waited for


async def answered(ask: Callable[[], Awaitable[T | None]], what: Callable[[], str], seconds: float = 60.0) -> T:
    """Return the first answer to ``ask`` that is not None; fail after ``seconds``, saying ``what`` is not so."""
    deadline = time.monotonic() + seconds
    while (found := await ask()) is None:
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what()}"
        await asyncio.sleep(0.05)
    return found


async def eventually(condition: Callable[[], object], seconds: float = 15.0) -> None:
    """Return as soon as ``condition()`` is true; fail after ``seconds``. The condition runs in the event loop: it must not block."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so within {seconds} s: {condition}"
        await asyncio.sleep(0.02)


def blocked_until(condition: Callable[[], object], seconds: float = 5.0, every_seconds: float = 0.005) -> None:
    """Return as soon as ``condition()`` is true, for a test without an event loop; fail after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so within {seconds} s: {condition}"
        time.sleep(every_seconds)
