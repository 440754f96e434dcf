"""What a connection may cost, over real sockets: headers that never end, that are too many or too large, and connections without number."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_network
from typing import Any

import pytest

from streams.runtime.http_limits import HEADER_BYTES, HEADERS, ConnectionLimits, is_in
from streams.runtime.http_server import listen, serving
from tests.waiting import eventually

PLAIN = b"GET /healthz HTTP/1.1\r\nhost: gateway\r\n"


class App:
    """Answers each request with 200, and notes its path."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    async def __call__(self, scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
        self.paths.append(scope["path"])
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def answer(self, *parts: bytes) -> bytes:
        """Send and return all that comes back until the connection is closed."""
        for part in parts:
            self.writer.write(part)
        async with asyncio.timeout(10):
            return await self.reader.read()

    async def status(self, *parts: bytes) -> int:
        return int((await self.answer(*parts)).split()[1])


@asynccontextmanager
async def served(app: App, limits: ConnectionLimits) -> AsyncIterator[Callable[[], Awaitable[Client]]]:
    listener = listen("127.0.0.1", 0, "GATEWAY")
    port = listener.getsockname()[1]
    clients: list[Client] = []

    async def connect() -> Client:
        clients.append(Client(*await asyncio.open_connection("127.0.0.1", port)))
        return clients[-1]

    async with serving(app, listener, grace_seconds=0.5, limits=limits):
        try:
            yield connect
        finally:
            for client in clients:
                client.writer.close()


async def test_request_within_the_limits_is_answered_and_the_connection_stays_open() -> None:
    app = App()
    async with served(app, ConnectionLimits(header_seconds=0.3)) as connect:
        client = await connect()
        for _ in range(2):
            client.writer.write(PLAIN + b"\r\n")
            assert (await client.reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
            await asyncio.sleep(0.4)  # for longer than headers may take: between two requests nothing is expected

    assert app.paths == ["/healthz", "/healthz"]


@pytest.mark.parametrize("sent", [b"", b"GET / HT", PLAIN])
async def test_headers_that_never_end_are_closed_in_time(sent: bytes) -> None:
    app = App()
    async with served(app, ConnectionLimits(header_seconds=0.2)) as connect:
        assert await (await connect()).status(sent) == 408

    assert app.paths == []


async def test_headers_of_a_further_request_have_the_same_time() -> None:
    async with served(App(), ConnectionLimits(header_seconds=0.2)) as connect:
        client = await connect()
        client.writer.write(PLAIN + b"\r\n")
        await client.reader.readuntil(b"ok")

        assert await client.status(PLAIN) == 408


@pytest.mark.parametrize(
    "headers",
    [
        b"x: " + b"a" * HEADER_BYTES + b"\r\n",
        b"x: a\r\n" * HEADERS,
        b"x: " + b"a" * 70_000 + b"\r\n",
        b"x: a\r\n" * 5_000,
    ],
    ids=["large", "many", "70 KB", "5,000"],
)
async def test_headers_that_are_too_much_are_431(headers: bytes) -> None:
    app = App()
    async with served(app, ConnectionLimits()) as connect:
        answer = await (await connect()).answer(PLAIN + headers + b"\r\n")

    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b"connection: close" in answer
    assert app.paths == []


async def test_address_that_is_too_long_is_431() -> None:
    async with served(App(), ConnectionLimits()) as connect:
        assert await (await connect()).status(b"GET /" + b"a" * HEADER_BYTES + b" HTTP/1.1\r\nhost: g\r\n\r\n") == 431


async def test_headers_just_within_the_limits_are_taken() -> None:
    app = App()
    most = b"".join(b"x-%03d: a\r\n" % number for number in range(HEADERS - 2)) + b"connection: close\r\n"
    async with served(app, ConnectionLimits()) as connect:
        assert await (await connect()).status(PLAIN + most + b"\r\n") == 200

    assert app.paths == ["/healthz"]


async def test_connections_beyond_the_limit_are_503_and_room_again_is_used() -> None:
    limits = ConnectionLimits(connections=3)
    async with served(App(), limits) as connect:
        held = [await connect() for _ in range(3)]
        await eventually(lambda: limits.by_peer.total() == 3)
        refused = await (await connect()).answer()
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 5" in refused

        held[0].writer.close()
        await eventually(lambda: limits.by_peer.total() == 2)
        assert await (await connect()).status(PLAIN + b"connection: close\r\n\r\n") == 200


async def test_connections_of_a_peer_are_limited_unless_it_stands_for_many() -> None:
    limits = ConnectionLimits(of_a_peer=1)
    async with served(App(), limits) as connect:
        await connect()
        await eventually(lambda: limits.by_peer.total() == 1)
        assert await (await connect()).status() == 503

    behind_a_proxy = ConnectionLimits(of_a_peer=1, proxies=(ip_network("127.0.0.0/8"),))
    async with served(App(), behind_a_proxy) as connect:
        await connect()
        await eventually(lambda: behind_a_proxy.by_peer.total() == 1)
        assert await (await connect()).status(PLAIN + b"connection: close\r\n\r\n") == 200


BODY = b"5\r\nhello\r\n0\r\n\r\n"
SMUGGLED = {
    "length and chunks": b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n" + BODY,
    "chunks and length": b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n" + BODY,
    "two lengths": b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
    "length with a sign": b"content-length: +5\r\n\r\nhello",
    "length in hex": b"content-length: 0x5\r\n\r\nhello",
    "a list of lengths": b"content-length: 5, 5\r\n\r\nhello",
    "chunked and more": b"transfer-encoding: chunked, identity\r\n\r\n" + BODY,
    "chunked twice": b"transfer-encoding: chunked\r\ntransfer-encoding: x\r\n\r\n" + BODY,
    "space before the colon": b"content-length : 5\r\n\r\nhello",
    "a folded header": b"x: a\r\n content-length: 5\r\n\r\nhello",
    "chunk size with a sign": b"transfer-encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n",
    "no line feed after a chunk": b"transfer-encoding: chunked\r\n\r\n5\r\nhello0\r\n\r\n",
    "a null in a value": b"x: a\0b\r\ncontent-length: 0\r\n\r\n",
}


@pytest.mark.parametrize("form", SMUGGLED)
async def test_forms_that_two_servers_may_read_in_two_ways_never_make_two_requests(form: str) -> None:
    app = App()
    hidden = b"GET /hidden HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n"
    async with served(app, ConnectionLimits(header_seconds=1.0)) as connect:
        answer = await (await connect()).answer(b"POST /webhooks/razorpay HTTP/1.1\r\nhost: gateway\r\n", SMUGGLED[form], hidden)

    assert b" 400 " in answer.partition(b"\r\n")[0] or answer.count(b"HTTP/1.1 400 ") == 1
    assert "/hidden" not in app.paths


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("11.1.2.3", False),
        ("fd00::1", True),
        ("fe80::1", False),
        ("unknown", False),
        ("", False),
    ],
)
def test_address_is_in_a_network_or_not(address: str, inside: bool) -> None:
    assert is_in(address, (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))) is inside
