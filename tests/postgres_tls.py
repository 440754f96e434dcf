"""PostgreSQL behind TLS. The embedded one is built without OpenSSL, so that a server of its own takes PostgreSQL's request for TLS, and passes on
what it reads to the plain one.

The way of the protocol up to the handshake is PostgreSQL's own: the client asks in 8 bytes, and one byte says yes or no.
"""

import asyncio
import contextlib
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

from tests.certificates import Issued

_REQUEST = struct.pack("!ii", 8, 80_877_103)
_READ_BYTES = 65_536


@asynccontextmanager
async def behind_tls(dsn: str, issued: Issued, *, host: str = "127.0.0.1") -> AsyncIterator[str]:
    """Yield the address, under the name ``host``, of a server that shows ``issued`` and leads to the PostgreSQL at ``dsn``."""
    target, context = urlsplit(dsn), issued.context()
    assert target.hostname is not None
    assert target.port is not None
    where = (target.hostname, target.port)
    open_ones: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_ones.add(task)
        try:
            # CancelledError: by ourselves at the end, and before Python 3.12 the server reports a task that ends with it.
            with contextlib.suppress(OSError, ssl.SSLError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await _serve(reader, writer, where, context)
        finally:
            open_ones.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    login = target.netloc.rpartition("@")[0]
    try:
        yield urlunsplit(target._replace(netloc=f"{login}@{host}:{port}"))
    finally:
        server.close()
        for task in list(open_ones):
            task.cancel()
        if open_ones:
            await asyncio.wait(open_ones)


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, where: tuple[str, int], context: ssl.SSLContext) -> None:
    if await reader.readexactly(len(_REQUEST)) != _REQUEST:
        return  # it would speak in the clear
    writer.write(b"S")
    await writer.drain()
    await writer.start_tls(context)
    inner_reader, inner_writer = await asyncio.open_connection(*where)
    try:
        async with asyncio.TaskGroup() as both:
            both.create_task(_pump(reader, inner_writer))
            both.create_task(_pump(inner_reader, writer))
    except* (OSError, ssl.SSLError):
        pass  # one side has gone
    finally:
        inner_writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while part := await reader.read(_READ_BYTES):
        writer.write(part)
        await writer.drain()
    writer.close()
