"""A producer that only remembers, and a client that speaks bare ASGI."""

import asyncio
from collections.abc import MutableMapping, Sequence
from typing import Any

from streams.gateway.app import Gateway
from streams.kafka.dead_letters import Headers
from streams.kafka.producer import Record


class RememberingProducer:
    """Acknowledges everything at once, or raises ``failure``."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.failure: Exception | None = None

    async def send(self, topic: str, value: bytes, key: bytes | None = None, headers: Headers = (), *, timeout_seconds: float) -> None:
        await self.send_many([Record(topic, value, key, headers)], timeout_seconds=timeout_seconds)

    async def send_many(self, records: Sequence[Record], *, timeout_seconds: float) -> None:
        assert timeout_seconds < 2
        if self.failure:
            raise self.failure
        self.records += records


async def ask(
    app: Gateway,
    path: str,
    parts: Sequence[bytes | asyncio.Event | Exception | None],
    headers: dict[bytes, bytes] | None = None,
    *,
    client: str = "192.0.2.1",
) -> tuple[int, bytes]:
    """POST over bare ASGI, the body in ``parts``: None is a disconnect, an Event never comes. Returns status 0 without an answer."""
    waiting, sent = list(parts), list[MutableMapping[str, Any]]()

    async def receive() -> MutableMapping[str, Any]:
        part = waiting.pop(0)
        if isinstance(part, Exception):
            raise part
        if isinstance(part, asyncio.Event):
            await part.wait()
        if not isinstance(part, bytes):
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": part, "more_body": bool(waiting)}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": list((headers or {}).items()), "client": (client, 40_000)}
    await app(scope, receive, send)
    return (sent[0]["status"], sent[1]["body"]) if sent else (0, b"")
