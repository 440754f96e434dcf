"""As much HTTP as the gateway's routes need, straight on ASGI."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import orjson

MAX_BODY_BYTES = 1_048_576
BODY_SECONDS = 10.0
"""How long a client may take to send its body. Razorpay itself gives up after 5 s."""

OPTIONAL_WHITESPACE = b" \t"

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
HeaderList = tuple[tuple[bytes, bytes], ...]


class Answer:
    """What a request gets: a status, a body of JSON, and headers beside its type and length."""

    __slots__ = ("end", "start", "status")

    def __init__(self, status: int, content: object, headers: HeaderList = ()) -> None:
        body = orjson.dumps(content)
        self.status = status
        self.start: Message = {
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *headers],
        }
        self.end: Message = {"type": "http.response.body", "body": body}


def refusal(status: int, sentence: str, headers: HeaderList = ()) -> Answer:
    """Return an error answer: one sentence that says what is wrong and what to do."""
    return Answer(status, {"error": sentence}, headers)


class Refused(Exception):
    """A request that goes no further; ``answer`` is what it gets."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


class Disconnected(Exception):
    """The client went away before it had sent its body."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request. ``headers`` has lower-case names; of a repeated header the last counts."""

    headers: dict[bytes, bytes]
    receive: Receive
    body_seconds: float = BODY_SECONDS

    def header(self, name: bytes) -> bytes | None:
        """Return a header's value without the spaces and tabs around it, which are no part of it (RFC 9110, section 5.5), or None."""
        value = self.headers.get(name)
        return None if value is None else value.strip(OPTIONAL_WHITESPACE)

    async def body(self) -> bytes:
        """Return the body's raw bytes, at most ``MAX_BODY_BYTES`` of them.

        Raises Refused: 413 as soon as it is known to be larger, without reading the rest; 408 when it does not come in time.
        Raises Disconnected.
        """
        length = self.header(b"content-length") or b""
        if length.isdigit() and int(length[:20]) > MAX_BODY_BYTES:
            raise Refused(TOO_LARGE)
        try:
            async with asyncio.timeout(self.body_seconds):
                return await self._read()
        except TimeoutError:
            raise Refused(TOO_SLOW) from None

    async def _read(self) -> bytes:
        message = await self.receive()
        body: bytes = message.get("body", b"")
        if message["type"] == "http.request" and not message.get("more_body"):
            if len(body) > MAX_BODY_BYTES:
                raise Refused(TOO_LARGE)
            return body
        parts = bytearray(body)
        while True:
            if message["type"] == "http.disconnect":
                raise Disconnected
            if len(parts) > MAX_BODY_BYTES:
                raise Refused(TOO_LARGE)
            if not message.get("more_body"):
                return bytes(parts)
            message = await self.receive()
            parts += message.get("body", b"")


TOO_LARGE = refusal(413, f"The body is larger than {MAX_BODY_BYTES} bytes; send less in one request.")
TOO_SLOW = refusal(408, "The body did not arrive in time; send it again.", ((b"connection", b"close"),))
