"""Connections to PostgreSQL, and what its errors mean: the row's own fault, or an outage to be waited out."""

import asyncio
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import TypeAlias, TypeVar
from urllib.parse import urlsplit

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from streams.errors import ConfigurationError, PostgresUnavailable, RowRejected
from streams.runtime.waiting import Waiting

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"
T = TypeVar("T")

TIMEOUT_SECONDS = 10.0
"""Longest wait for a connection or a statement. A server that is stopped or unreachable shows in no other way."""

_CLOSE_SECONDS = 5.0
_BAD_DSN = (asyncpg.exceptions.ClientConfigurationError,)
_CLIENT_ENCODING = (UnicodeError, OverflowError)
"""What COPY's encoder raises for a value that no row can hold; elsewhere asyncpg wraps them in DataError (class 22)."""

_FAULTS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError, EOFError, *_CLIENT_ENCODING)


class Fault(Enum):
    """Whose fault a failed statement is."""

    POISON = auto()
    """The rows': SQLSTATE class 22 (data exception) or 23 (constraint violation). No retry helps."""
    OUTAGE = auto()
    """Anything else, a missing table and a refused login too: waited out."""


def classify_error(error: BaseException) -> Fault:
    """Distinguish a row that PostgreSQL refuses from an outage, by the SQLSTATE's class."""
    if isinstance(error, _CLIENT_ENCODING):
        return Fault.POISON
    state = sqlstate(error)
    return Fault.POISON if state is not None and state[:2] in ("22", "23") else Fault.OUTAGE


def sqlstate(error: BaseException) -> str | None:
    """The five characters of PostgreSQL's error code, or None when the error does not come from a statement."""
    state = getattr(error, "sqlstate", None)
    return state if isinstance(state, str) else None


def describe_server(dsn: str) -> str:
    """Name the server of a DSN in a sentence, without user and password."""
    try:
        parts = urlsplit(dsn)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "PostgreSQL"
    return f"PostgreSQL at {host}:{port or 5432}{parts.path}" if host else "PostgreSQL"


def translate(error: BaseException, server: str) -> PostgresUnavailable | RowRejected | ConfigurationError:
    """Return our error for one of the driver's. Messages never quote a value, for it may be an address."""
    if isinstance(error, _BAD_DSN):
        return ConfigurationError("TIERSTREAM_POSTGRES_DSN is no PostgreSQL address; write postgresql://user:password@host:port/database.")
    state = sqlstate(error)
    name = type(error).__name__
    if classify_error(error) is Fault.POISON:
        return RowRejected(f"{server} refuses the row ({f'SQLSTATE {state}, ' if state else ''}{name}); correct it at its source.")
    if state is None:
        return PostgresUnavailable(f"{server} does not answer ({name}); start it, or correct TIERSTREAM_POSTGRES_DSN.")
    if state in ("42P01", "42703", "3F000"):
        return PostgresUnavailable(f"{server} lacks a table or a column (SQLSTATE {state}: {_message(error)}); run `tierstream migrate`.")
    if state[:2] == "28" or state == "3D000":
        return PostgresUnavailable(f"{server} refuses the login (SQLSTATE {state}: {_message(error)}); correct TIERSTREAM_POSTGRES_DSN.")
    return PostgresUnavailable(f"{server} can not do its work now (SQLSTATE {state}: {_message(error)}).")


def _message(error: BaseException) -> str:
    return str(getattr(error, "message", None) or type(error).__name__)


class _Session(asyncpg.Connection):
    """A connection that goes back to the pool without a reset: nothing here leaves state in a session, and it would cost a round trip."""

    def get_reset_query(self) -> str:
        return ""


class PostgresPool:
    """A pool for one event loop, and the waiting of one stage.

    Nothing is connected before the first statement, so ``open`` works while PostgreSQL is away. ``waiting`` says how an outage
    is waited out, logged and counted.
    """

    def __init__(self, dsn: str, waiting: Waiting, *, max_connections: int = 4, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._dsn = dsn
        self._waiting = waiting
        self._max_connections = max_connections
        self._timeout_seconds = timeout_seconds
        self._server = describe_server(dsn)
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None

    async def open(self) -> None:
        """Make the pool on the running event loop, which is the one it must be used and closed on. Does nothing when it is open."""
        if self._pool is None:
            self._pool = await asyncpg.create_pool(
                self._dsn,
                min_size=0,
                max_size=self._max_connections,
                timeout=self._timeout_seconds,
                command_timeout=self._timeout_seconds,
                connection_class=_Session,
                server_settings={"application_name": "tierstream"},
            )

    async def close(self) -> None:
        """Close every connection, by force after five seconds. Does nothing when it is closed."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await pool.close()
        except TimeoutError:
            pool.terminate()

    async def attempt(self, operation: Callable[[Connection], Awaitable[T]]) -> T:
        """Run ``operation`` once on a connection.

        Raises PostgresUnavailable for an outage (it may have committed all the same), RowRejected when PostgreSQL refuses the
        rows, ConfigurationError when the DSN can not be read.
        """
        assert self._pool is not None, "open the pool first"
        try:
            async with self._pool.acquire(timeout=self._timeout_seconds) as connection:
                return await operation(connection)
        except _FAULTS as error:
            translated = translate(error, self._server)
            if isinstance(translated, PostgresUnavailable) and self._pool is not None:
                # Sessions remember plans and types of tables that may since have been dropped and made again.
                await self._pool.expire_connections()
            raise translated from error

    async def run(self, operation: Callable[[Connection], Awaitable[T]]) -> T:
        """Like ``attempt``, but an outage is waited out: ``operation`` must be idempotent."""
        return await self._waiting.until_available(lambda: self.attempt(operation))
