"""What a connection may cost: uvicorn's protocol with limits on headers, in size and in time, and on connections, in all and of a peer.

uvicorn itself bounds none of these with httptools. What is refused is answered by a status and a sentence, and closed.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

from httptools import HttpParserError
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

Networks = tuple[IPv4Network | IPv6Network, ...]

HEADER_SECONDS = 10.0
"""From the connection, or the first byte of a further request, to the end of the headers."""

HEADER_BYTES = 16_384
"""Of the request line and all headers together; Razorpay's take less than 1,000."""

HEADERS = 100
CONNECTIONS = 1_000
CONNECTIONS_OF_A_PEER = 500

_SENTENCES = {
    400: "400 Bad Request\r\n",
    408: "408 Request Timeout\r\n",
    431: "431 Request Header Fields Too Large\r\n",
    503: "503 Service Unavailable\r\nretry-after: 5\r\n",
}
_WHY = {
    400: "This is no HTTP request.",
    408: "The headers did not arrive in time; send the request again.",
    431: f"The headers are more than {HEADERS}, or larger than {HEADER_BYTES} bytes; send fewer.",
    503: "Too many connections are open; try again later.",
}


def networks_of(text: str | None) -> Networks:
    """Return the networks of a setting, which are comma-separated and were checked."""
    return tuple(ip_network(part) for part in text.split(",")) if text else ()


def is_in(address: str, networks: Networks) -> bool:
    """Whether an address lies in one of the networks; False where it is none. An IPv4 address that is written as IPv6 counts as itself."""
    try:
        found = ip_address(address)
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return any((mapped or found) in network for network in networks)


@dataclass(eq=False)
class ConnectionLimits:
    """The limits of one port, and the connections that count."""

    connections: int = CONNECTIONS
    of_a_peer: int = CONNECTIONS_OF_A_PEER
    proxies: Networks = ()
    """Peers that stand for many: only the limit for all counts for them."""
    header_seconds: float = HEADER_SECONDS
    by_peer: Counter[str] = field(default_factory=Counter)

    def enter(self, peer: str) -> bool:
        """Count a connection; return whether it is within the limits."""
        self.by_peer[peer] += 1
        return self.by_peer.total() <= self.connections and (self.by_peer[peer] <= self.of_a_peer or is_in(peer, self.proxies))

    def leave(self, peer: str) -> None:
        """Count a connection no more."""
        self.by_peer[peer] -= 1
        if not self.by_peer[peer]:
            del self.by_peer[peer]


class LimitedProtocol(HttpToolsProtocol):
    """One connection. Requests in flight are not touched: what they may take is up to the app."""

    def __init__(self, limits: ConnectionLimits, **options: Any) -> None:
        super().__init__(**options)
        self._limits = limits
        self._peer = ""
        self._size = self._count = 0
        self._status = 400
        self._header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Count it, and give it its time."""
        super().connection_made(transport)
        self._peer = self.client[0] if self.client else ""
        if self._limits.enter(self._peer):
            self._expect_headers()
        else:
            self._refuse(503)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count it no more."""
        self._limits.leave(self._peer)
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take data in, unless the connection is being closed."""
        if not self.transport.is_closing():
            super().data_received(data)

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._size = self._count = 0
        if self._header_timer is None:
            self._expect_headers()

    def on_url(self, url: bytes) -> None:
        """Take a part of the address in."""
        super().on_url(url)
        self._grow(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header in."""
        super().on_header(name, value)
        self._count += 1
        self._grow(len(name) + len(value))

    def on_headers_complete(self) -> None:
        """Leave the rest to the app."""
        self._stop_timer()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser refused, or what was too much for us."""
        self._refuse(self._status)

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > HEADER_BYTES or self._count > HEADERS:
            self._status = 431
            raise HttpParserError  # the parser ends there, and hands its own error to ``data_received``

    def _expect_headers(self) -> None:
        self._header_timer = self.loop.call_later(self._limits.header_seconds, self._refuse, 408)

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _refuse(self, status: int) -> None:
        self._stop_timer()
        if self.transport.is_closing():
            return
        body = f'{{"error":"{_WHY[status]}"}}'
        head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self.transport.write(f"HTTP/1.1 {_SENTENCES[status]}{head}{body}".encode("ascii"))
        self.transport.close()
