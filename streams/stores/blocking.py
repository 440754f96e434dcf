"""A connection for commands: blocking, with an event loop of its own."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Self, TypeVar

import asyncpg

from streams.stores.pool import connect, describe_server, translate

_FAULTS = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError, EOFError)

T = TypeVar("T")


class BlockingConnection:
    """One connection. Use it in a thread without an event loop, and as a context manager, which closes it."""

    def __init__(self, dsn: str, application: str) -> None:
        """Connect. Raises PostgresUnavailable, ConfigurationError."""
        self._server = describe_server(dsn)
        self._runner = asyncio.Runner()
        try:
            self._connection = self._run(lambda: connect(dsn, application))
        except BaseException:
            self._runner.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection; a transaction that is open is rolled back."""
        self._connection.terminate()
        self._runner.close()

    def _run(self, call: Callable[[], Awaitable[T]]) -> T:
        """Return what ``call`` gives. Raises PostgresUnavailable, and what else ``translate`` makes of PostgreSQL's errors."""

        async def made() -> T:
            return await call()

        try:
            return self._runner.run(made())
        except _FAULTS as error:
            raise translate(error, self._server) from error
