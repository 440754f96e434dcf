"""A TCP proxy whose network fails in the ways that real ones do, for as long as it is asked to."""

import asyncio
import contextlib
import random
import socket
import struct
from dataclasses import dataclass

from streams.embedded.process import free_port

CHUNK_BYTES = 65_536
_ABORT = struct.pack("ii", 1, 0)
"""SO_LINGER without a wait: a close sends RST, and what was not sent is gone."""


@dataclass(slots=True)
class Direction:
    """How bytes go one way. What is held is delivered once ``open`` is set again, late and in order, as TCP does after lost packets."""

    open: asyncio.Event
    delay_seconds: float = 0.0


class _Connection:
    """A client's connection and the one to the server behind it."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.writers = (client, server)
        self.is_forgotten = False

    def reset(self) -> None:
        """End both with RST."""
        for writer in self.writers:
            with contextlib.suppress(OSError):
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
            writer.transport.abort()


class Proxy:
    """Forwards 127.0.0.1:``port`` to a server. Use it from one event loop.

    ``hold`` and ``delay`` concern all connections, those that begin meanwhile too; ``forget`` those that there are now; ``reset_share``
    is the share of chunks in whose middle a connection is reset.
    """

    def __init__(self, server_port: int, chance: random.Random, port: int | None = None) -> None:
        self.port = port or free_port()
        self.reset_share = 0.0
        self._server_port = server_port
        self._chance = chance
        self._to_server, self._to_client = (Direction(asyncio.Event()) for _ in range(2))
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening: asyncio.Server | None = None
        self.heal()

    async def start(self) -> None:
        """Begin to listen."""
        self._listening = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def stop(self) -> None:
        """Listen no more and end every connection."""
        if self._listening is not None:
            self._listening.close()
        self.heal()
        for connection in self._connections:
            connection.reset()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def hold(self, *, requests: bool = True, answers: bool = True) -> None:
        """Deliver nothing of what clients send, or of what they are to get, until ``heal``."""
        for held, direction in ((requests, self._to_server), (answers, self._to_client)):
            if held:
                direction.open.clear()

    def delay(self, seconds: float) -> None:
        """Deliver each chunk so much later, in both directions."""
        self._to_server.delay_seconds = self._to_client.delay_seconds = seconds

    def forget(self) -> int:
        """Deliver nothing of the present connections any more, without a word to either side; return how many there are."""
        for connection in self._connections:
            connection.is_forgotten = True
        return len(self._connections)

    def heal(self) -> None:
        """Work as a proxy should, but for connections that are forgotten."""
        self.reset_share = 0.0
        for direction in (self._to_server, self._to_client):
            direction.open.set()
            direction.delay_seconds = 0.0

    async def _accept(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            from_server, server = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:
            client.transport.abort()
            return
        connection = _Connection(client, server)
        self._connections.add(connection)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._forward(connection, reader, server, self._to_server))
                both.create_task(self._forward(connection, from_server, client, self._to_client))
        except* OSError:
            connection.reset()
        finally:
            self._connections.discard(connection)
            for writer in connection.writers:
                writer.close()

    async def _forward(
        self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction
    ) -> None:
        while chunk := await reader.read(CHUNK_BYTES):
            if direction.delay_seconds:
                await asyncio.sleep(direction.delay_seconds)
            await direction.open.wait()
            if connection.is_forgotten:
                continue
            if self._chance.random() < self.reset_share:
                writer.write(chunk[: len(chunk) // 2])
                await writer.drain()
                raise ConnectionResetError
            writer.write(chunk)
            await writer.drain()
        await direction.open.wait()
        if not connection.is_forgotten and writer.can_write_eof():
            writer.write_eof()
