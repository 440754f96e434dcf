"""A load generator for HTTP/1.1: so many connections, each sending its next request as soon as it has its answer. A process of its
own; prints JSON. Whole requests are built beforehand, and answers are only looked at for their status and their length.

``python -m bench.http_load PORT CONNECTIONS SECONDS WARM_UP_SECONDS`` (the secret is in BENCH_SECRET).
"""

import asyncio
import json
import os
import sys
import time
from collections import Counter
from itertools import cycle
from typing import cast

import uvloop

from bench.webhooks import signed_requests

DIFFERENT_REQUESTS = 2_000


class Load:
    """What all connections share."""

    def __init__(self, requests: list[bytes]) -> None:
        self.requests = cycle(requests)
        self.statuses: Counter[int] = Counter()
        self.seconds: list[float] = []
        self.lost = 0
        self.counting = False


class Connection(asyncio.Protocol):
    """One connection with one request under way."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._answer = b""
        self._sent_at = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's does not inherit from it
        self._send()

    def connection_lost(self, _error: Exception | None) -> None:
        """Note that the server closed it."""
        self._load.lost += 1

    def data_received(self, data: bytes) -> None:
        """Once the answer is whole, count it and send the next request."""
        answer = self._answer + data if self._answer else data
        end = answer.find(b"\r\n\r\n")
        if end < 0 or len(answer) < end + 4 + _content_length(answer[:end]):
            self._answer = answer
            return
        self._answer = b""
        load = self._load
        if load.counting:
            load.statuses[int(answer[9:12])] += 1
            load.seconds.append(time.perf_counter() - self._sent_at)
        self._send()

    def _send(self) -> None:
        assert self._transport is not None
        self._sent_at = time.perf_counter()
        self._transport.write(next(self._load.requests))


def _content_length(head: bytes) -> int:
    start = head.lower().find(b"content-length:")
    return int(head[start + 15 :].split(b"\r\n", 1)[0]) if start >= 0 else 0


async def main(port: int, connections: int, seconds: float, warm_up_seconds: float) -> None:
    """Load the server, and print what it did."""
    load = Load(signed_requests(DIFFERENT_REQUESTS, os.environ["BENCH_SECRET"].encode()))
    loop = asyncio.get_running_loop()
    await asyncio.gather(*(loop.create_connection(lambda: Connection(load), "127.0.0.1", port) for _ in range(connections)))
    await asyncio.sleep(warm_up_seconds)
    load.counting, began = True, time.perf_counter()
    await asyncio.sleep(seconds)
    load.counting, took = False, time.perf_counter() - began
    times = sorted(load.seconds) or [0.0]
    result = {
        "requests_per_second": len(load.seconds) / took,
        "statuses": dict(load.statuses),
        "lost_connections": load.lost,
        "p50_ms": 1000 * times[len(times) // 2],
        "p99_ms": 1000 * times[len(times) * 99 // 100],
    }
    sys.stdout.write(json.dumps(result))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])))
