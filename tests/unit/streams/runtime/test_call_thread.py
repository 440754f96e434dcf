"""Calls in a thread: their answers, their order, and one that never returns."""

import asyncio
import threading

import pytest

from streams.runtime.call_thread import CallThread


async def test_call_returns_what_the_function_returns_in_another_thread() -> None:
    thread = CallThread("test")

    assert await thread.call(lambda number: number + 1, 1) == 2
    assert await thread.call(threading.current_thread) is not threading.current_thread()
    thread.close()


async def test_call_raises_what_the_function_raises_and_goes_on() -> None:
    thread = CallThread("test")

    with pytest.raises(ZeroDivisionError):
        await thread.call(lambda: 1 / 0)

    assert await thread.call(str, 1) == "1"
    thread.close()


async def test_calls_run_one_after_the_other_in_their_order() -> None:
    thread, done = CallThread("test"), list[int]()

    await asyncio.gather(*(thread.call(done.append, number) for number in range(100)))

    assert done == list(range(100))
    thread.close()


async def test_a_call_that_does_not_return_can_be_left_behind() -> None:
    thread, never = CallThread("test"), threading.Event()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await thread.call(never.wait)
    thread.close()

    never.set()  # an answer that nobody waits for any more is dropped
    assert all(each.daemon for each in threading.enumerate() if each.name == "test")
