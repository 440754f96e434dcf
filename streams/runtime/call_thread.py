"""Blocking calls in a thread that may be left behind."""

import asyncio
import contextlib
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

T = TypeVar("T")


class CallThread:
    """Runs blocking calls one after the other in a thread of its own.

    The thread is a daemon: a call that never returns holds up neither a stop nor the interpreter's end, as it would in a
    ``ThreadPoolExecutor``.
    """

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        Thread(target=self._run, name=name, daemon=True).start()

    async def call(self, function: Callable[..., T], *arguments: object) -> T:
        """Return what ``function`` returns, or raise what it raises. Cancelling does not end a call that has begun."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def run() -> None:
            result, error = None, None
            try:
                result = function(*arguments)
            except BaseException as raised:  # noqa: BLE001  # whoever awaits it gets it
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_answer, answer, result, error)

        self._calls.put(run)
        return await answer

    def close(self) -> None:
        """End the thread after the calls that were made, or leave it behind in one that does not return. Returns at once."""
        self._calls.put(None)

    def _run(self) -> None:
        call: Any
        while (call := self._calls.get()) is not None:
            call()


def _answer(future: "asyncio.Future[Any]", result: object, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
