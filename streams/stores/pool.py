"""Connections to PostgreSQL, and what its errors mean: the row's own fault, that of a constraint of others, or an outage."""

import asyncio
import contextlib
import re
import ssl
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import TypeAlias, TypeVar
from urllib.parse import urlsplit

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from streams.errors import ConfigurationError, ConstraintRefuses, PostgresUnavailable, RowRejected
from streams.runtime.waiting import Waiting
from streams.stores.tables import OUR_TABLES, Table, check_table

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"
T = TypeVar("T")

TIMEOUT_SECONDS = 10.0
"""Longest wait for a connection or a statement. A server that is stopped or unreachable shows in no other way."""

_CLOSE_SECONDS = 5.0
_BAD_DSN = (asyncpg.exceptions.ClientConfigurationError,)
_CLIENT_ENCODING = (UnicodeError, OverflowError)
"""What COPY's encoder raises for a value that no row can hold; elsewhere asyncpg wraps them in DataError (class 22)."""

_FAULTS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError, EOFError, *_CLIENT_ENCODING)


_NO_TLS = "rejected SSL upgrade"
"""In asyncpg's message when a server answers that it has no TLS."""


class Fault(Enum):
    """Whose fault a failed statement is."""

    POISON = auto()
    """The rows': SQLSTATE class 22 (data exception), or null in a column of ours. No retry helps."""
    CONSTRAINT = auto()
    """That of a constraint or a trigger which is not ours: SQLSTATE class 23, 44 or P0. It may be mended, or what it asks for may come."""
    OUTAGE = auto()
    """Anything else, a missing table and a refused login too: waited out."""


def classify_error(error: BaseException) -> Fault:
    """Distinguish a row that PostgreSQL refuses, and who made the rule, from an outage, by the SQLSTATE."""
    if isinstance(error, _CLIENT_ENCODING):
        return Fault.POISON
    state = sqlstate(error) or ""
    if state[:2] == "22" or (state == "23502" and _is_ours(error)):
        return Fault.POISON
    return Fault.CONSTRAINT if state[:2] in ("23", "44", "P0") else Fault.OUTAGE


def _is_ours(error: BaseException) -> bool:
    """Whether the column that must not be null is one that we define so. Uniqueness of the key is never violated: ``on conflict``."""
    table = OUR_TABLES.get(getattr(error, "table_name", None) or "")
    return table is not None and getattr(error, "column_name", None) in table.required


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


def translate(error: BaseException, server: str) -> PostgresUnavailable | RowRejected | ConstraintRefuses | ConfigurationError:
    """Return our error for one of the driver's. Messages never quote a value, for it may be an address."""
    if isinstance(error, _BAD_DSN):
        return ConfigurationError("TIERSTREAM_POSTGRES_DSN is no PostgreSQL address; write postgresql://user:password@host:port/database.")
    state = sqlstate(error)
    name = type(error).__name__
    fault = classify_error(error)
    if fault is Fault.POISON:
        return RowRejected(f"{server} refuses the row ({f'SQLSTATE {state}, ' if state else ''}{name}); correct it at its source.")
    if fault is Fault.CONSTRAINT:
        constraint = _constraint(error)
        advice = "add the row that it asks for" if state == "23503" else "drop or mend it, or give its column a default"
        return ConstraintRefuses(
            f"{server} refuses a row by the {constraint}, which is not tierstream's (SQLSTATE {state}, {name}); {advice}.",
            constraint,
            is_missing_reference=state == "23503",
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        return PostgresUnavailable(
            f"{server} shows a certificate that is not trusted ({error.verify_message.rstrip('.')}); in TIERSTREAM_POSTGRES_DSN name the CA that "
            "signed it as sslrootcert, and the host as the certificate does."
        )
    if isinstance(error, ConnectionError) and _NO_TLS in str(error):
        return PostgresUnavailable(f"{server} takes no TLS connections, which sslmode asks for; turn TLS on there (ssl = on).")
    if state is None:
        return PostgresUnavailable(f"{server} does not answer ({name}); start it, or correct TIERSTREAM_POSTGRES_DSN.")
    if state in ("42P01", "42703", "3F000"):
        return PostgresUnavailable(f"{server} lacks a table or a column (SQLSTATE {state}: {_message(error)}); run `tierstream migrate`.")
    if state[:2] == "28" or state == "3D000":
        return PostgresUnavailable(f"{server} refuses the login (SQLSTATE {state}: {_message(error)}); correct TIERSTREAM_POSTGRES_DSN.")
    if state == "42501":
        return PostgresUnavailable(
            f"{server} does not allow that to its user (SQLSTATE {state}: {_message(error)}); make it a member of the role for it, "
            "which `tierstream migrate --roles` creates."
        )
    return PostgresUnavailable(f"{server} can not do its work now (SQLSTATE {state}: {_message(error)}).")


_FUNCTION = re.compile(r"PL/pgSQL function (\w+)")


def _constraint(error: BaseException) -> str:
    """Name what refuses a row, and its table. Without the server's own message, which may quote a value."""
    constraint, column, context = (getattr(error, name, None) for name in ("constraint_name", "column_name", "context"))
    table = getattr(error, "table_name", None)
    if constraint:
        what = f"constraint {constraint}"
    elif column:
        what = f"column {column}"
    elif function := _FUNCTION.search(context or ""):
        what = f"trigger function {function[1]}"
    else:
        what = "rule"
    return f"{what} of {table}" if table else what


def _message(error: BaseException) -> str:
    return str(getattr(error, "message", None) or type(error).__name__)


class _Session(asyncpg.Connection):
    """A connection that goes back to the pool without a reset: nothing here leaves state in a session, and it would cost a round trip."""

    def get_reset_query(self) -> str:
        return ""


NO_NAMED_STATEMENTS = 0
"""asyncpg's ``statement_cache_size`` for every connection: a statement with a name lives in a session, and behind a pool that gives
each transaction another session it is missing in one and in the way in the next. Cursors of asyncpg have one all the same."""


async def connect(dsn: str, application: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> "asyncpg.Connection[asyncpg.Record]":
    """Connect without a pool of our own. Raises what asyncpg raises; ``translate`` says what that means."""
    return await asyncpg.connect(
        dsn, timeout=timeout_seconds, statement_cache_size=NO_NAMED_STATEMENTS, server_settings={"application_name": application}
    )


class PostgresPool:
    """A pool for one event loop, and the waiting of one stage.

    Nothing is connected before the first statement, so ``open`` works while PostgreSQL is away. ``waiting`` says how an outage
    is waited out, logged and counted. Before the first statement the database is asked whether it can hold ``table``.
    """

    def __init__(
        self,
        dsn: str,
        waiting: Waiting,
        *,
        table: Table | None = None,
        max_connections: int = 4,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self._dsn = dsn
        self._waiting = waiting
        self._unchecked = table
        self._max_connections = max_connections
        self._timeout_seconds = timeout_seconds
        self._server = describe_server(dsn)
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None

    @property
    def stage(self) -> str:
        """Whose pool it is."""
        return self._waiting.stage

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
                statement_cache_size=NO_NAMED_STATEMENTS,
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
        rows, ConstraintRefuses when a constraint of others does, ConfigurationError when the DSN can not be read, DatabaseUnfit.
        """
        assert self._pool is not None, "open the pool first"
        try:
            async with self._pool.acquire(timeout=self._timeout_seconds) as connection:
                if self._unchecked is not None:
                    await check_table(connection, self._server, self._unchecked)
                    self._unchecked = None
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

    async def check(self) -> None:
        """Ask once whether the database can hold what is written. Raises DatabaseUnfit, and PostgresUnavailable when it does not answer."""
        await self.attempt(_nothing)

    async def takes(self, insert: Callable[[Connection], Awaitable[object]]) -> bool:
        """Whether a row that nothing can be wrong with is taken; ``insert`` writes it, and it is rolled back.

        Where it is not, the rows are not to blame for being refused: returns False once it is taken, and until then waits as for an outage.
        """

        async def probe() -> None:
            try:
                await self.attempt(lambda connection: _rolled_back(connection, insert))
            except ConstraintRefuses:
                return  # that is said of each row by itself
            except RowRejected as error:
                raise PostgresUnavailable(f"{error} It refuses every row.") from error

        try:
            await probe()
        except PostgresUnavailable:
            await self._waiting.until_available(probe)
            return False
        return True


async def _nothing(_: Connection) -> None:
    """Check, and do no more."""


class _RollBack(Exception):
    """Ends the transaction of a row that is not to stay."""


async def _rolled_back(connection: Connection, operation: Callable[[Connection], Awaitable[object]]) -> None:
    with contextlib.suppress(_RollBack):
        async with connection.transaction():
            await operation(connection)
            raise _RollBack
