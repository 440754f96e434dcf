"""A fake Loops on a port of its own, and a client of it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from starlette.applications import Starlette

from streams.loops.client import LoopsClient
from streams.loops.sink import LoopsSink, create_sink
from streams.runtime.http_server import listen, serving


@dataclass
class ServedSink:
    """Where it is, and what is in it."""

    url: str
    sink: LoopsSink

    def client(self, *, api_key: str = "key", timeout_seconds: float = 5.0) -> LoopsClient:
        return LoopsClient(self.url, api_key, timeout_seconds=timeout_seconds)

    @property
    def keys(self) -> list[str | None]:
        """The idempotency keys of what was accepted, in order."""
        return [mail["idempotency_key"] for mail in self.sink.sent]

    def break_it(self, **faults: Any) -> None:
        self.sink.faults = self.sink.faults.model_copy(update=faults)


@asynccontextmanager
async def served(app: Starlette) -> AsyncIterator[str]:
    """Serve ``app`` on a free port; gives its URL."""
    async with serving(app, listen("127.0.0.1", 0, "GATEWAY"), grace_seconds=0.2) as url:
        yield url


@asynccontextmanager
async def served_sink(
    rate_per_second: float | None = None, api_key: str | None = None, **options: Callable[[], float]
) -> AsyncIterator[ServedSink]:
    """Serve a fake Loops; the arguments are ``create_sink``'s."""
    app = create_sink(rate_per_second, api_key, **options)
    async with served(app) as url:
        yield ServedSink(url, app.state.sink)


async def post(url: str, body: Any = None) -> Any:
    """POST JSON and return the answer's JSON."""
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as response:
        return await response.json()


async def get(url: str) -> Any:
    """GET and return the answer's JSON."""
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return await response.json()
