"""Serving HTTP from inside an event loop that is not the server's own: the gateway's port and each process' admin port."""

import asyncio
import errno
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import uvicorn

from streams.errors import ConfigurationError
from streams.runtime.http_limits import ConnectionLimits, LimitedProtocol
from streams.settings import PREFIX

BACKLOG = 2_048


def listen(host: str, port: int, name: str) -> socket.socket:
    """Return a listening TCP socket; port 0 lets the system choose.

    ``name`` is the setting's stem, ``GATEWAY`` or ``ADMIN``. Raises ConfigurationError naming the variable to change.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigurationError(f"{PREFIX}{name}_HOST: {host} is no address of this machine; set it to one, such as 127.0.0.1.") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigurationError(f"{PREFIX}{name}_PORT: port {port} of {host} is taken by another process; choose another.") from error
        raise ConfigurationError(
            f"{PREFIX}{name}_HOST, {PREFIX}{name}_PORT: can not listen on {host}:{port} ({error.strerror})."
        ) from error


def url_of(listener: socket.socket) -> str:
    """The address of a listening socket, as ``http://host:port``."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """A server that leaves the process' signals alone and signals when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


@asynccontextmanager
async def serving(
    app: Any, listener: socket.socket, *, grace_seconds: float, limits: ConnectionLimits | None = None
) -> AsyncGenerator[str]:
    """Serve the ASGI ``app`` on ``listener`` while the block runs, within ``limits``; gives its URL.

    At the end no connection is accepted any more, requests in flight have ``grace_seconds`` to finish, and are then
    cancelled. Takes the socket over.
    """
    config = uvicorn.Config(
        app,
        loop="none",
        http=partial(LimitedProtocol, limits or ConnectionLimits()),  # type: ignore[arg-type]  # uvicorn calls it, and no more
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,  # longer than the 60 s for which load balancers reuse a connection
        timeout_graceful_shutdown=grace_seconds,  # type: ignore[arg-type]  # handed to asyncio.wait_for, which takes a float
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    listening = asyncio.create_task(server.listening.wait())
    try:
        await asyncio.wait((task, listening), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        yield url_of(listener)
    finally:
        listening.cancel()
        server.should_exit = True
        await task
        listener.close()
