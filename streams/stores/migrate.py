"""Migrations: the numbered SQL files of ``streams/stores/migrations``, applied in order, each in a transaction of its own.

The only place that creates or alters a table. Every file is written so that it can be applied again (``if not exists``), for a
table that somebody dropped is brought back by applying every file that mentions it once more.
"""

import hashlib
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files

import asyncpg

from streams.errors import MigrationError, PostgresUnavailable, TierstreamError
from streams.stores import roles
from streams.stores.pool import TIMEOUT_SECONDS, Connection, connect, describe_server, translate
from streams.stores.tables import check_database

LOCK_SECONDS = 30.0
"""Longest wait for any one lock: while a change of a table waits for it, everybody else's statements wait behind that change."""

_LOCK = int.from_bytes(b"tierstre")
"""Key of the advisory lock that lets one migration at a time through. It belongs to a transaction, for one of a session would stay
behind in a pool."""

_SESSION = "a.pid, a.usename, a.application_name, a.state"
_LOCK_HOLDERS = f"""
select {_SESSION} from pg_locks l join pg_stat_activity a using (pid)
where l.granted and l.locktype = 'advisory' and l.objsubid = 1 and (l.classid::bigint << 32) + l.objid::bigint = $1
    and l.database = (select oid from pg_database where datname = current_database())
"""
_TABLE_LOCKS = f"""
select {_SESSION}, c.relname as "table" from pg_locks l join pg_stat_activity a using (pid) join pg_class c on c.oid = l.relation
where l.granted and l.locktype = 'relation' and l.pid <> pg_backend_pid()
    and l.database = (select oid from pg_database where datname = current_database())
"""
_RECORD = "insert into schema_migrations (name, checksum) values ($1, $2) on conflict (name) do update set applied_at = now()"

_BOOKKEEPING = """
create table if not exists schema_migrations (
    name text primary key,
    checksum text not null,
    applied_at timestamptz not null default now()
)
"""
_CREATED = re.compile(r"create table if not exists (\w+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Migration:
    """One file."""

    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the text."""
        return hashlib.sha256(self.sql.encode()).hexdigest()

    @property
    def creates(self) -> frozenset[str]:
        """The tables that the file creates."""
        return frozenset(_CREATED.findall(self.sql))

    def mentions(self, tables: frozenset[str]) -> bool:
        """Whether the file creates, alters or indexes one of ``tables``."""
        return any(re.search(rf"\b{re.escape(table)}\b", self.sql) for table in tables)


def read_migrations() -> tuple[Migration, ...]:
    """Return the files of this version, in order."""
    folder = files("streams.stores") / "migrations"
    found = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".sql")), key=lambda entry: entry.name)
    return tuple(Migration(entry.name, entry.read_text(encoding="utf-8").replace("\r\n", "\n")) for entry in found)


def plan(migrations: Sequence[Migration], recorded: dict[str, str], missing: frozenset[str]) -> tuple[Migration, ...]:
    """Return the files to apply: those not ``recorded`` (name → checksum), and those that a ``missing`` table needs again.

    Raises MigrationError when a recorded file has been changed. Recorded names without a file belong to a newer version and are
    left alone.
    """
    for migration in migrations:
        if recorded.get(migration.name, migration.checksum) != migration.checksum:
            raise MigrationError(
                f"Migration {migration.name} has been changed since it was applied; put the file back as it was and write the change as a new file."
            )
    return tuple(migration for migration in migrations if migration.name not in recorded or migration.mentions(missing))


async def migrate(
    dsn: str, migrations: Sequence[Migration] | None = None, *, lock_seconds: float = LOCK_SECONDS, role_prefix: str | None = None
) -> list[str]:
    """Bring the database at ``dsn`` to this version and return the names of the files that were applied, in order.

    Idempotent; several at once are safe: each file is applied by one of them. A table that was dropped comes back, empty. Works through
    a pool that gives each transaction another session. ``lock_seconds`` is how long it waits for any one lock. With ``role_prefix`` the roles of
    ``streams.stores.roles`` are created and get their privileges; once that was done, each later run that applies something does the same for the
    roles that there are, since a new table has no privileges. Raises PostgresUnavailable, also when somebody holds a lock for longer than that,
    MigrationError, ConfigurationError, DatabaseUnfit.
    """
    server = describe_server(dsn)
    try:
        connection = await connect(dsn, "tierstream-migrate")
        try:
            run = _Run(connection, server, lock_seconds)
            applied = await run.apply(read_migrations() if migrations is None else migrations)
            await run.grant(role_prefix, is_changed=bool(applied))
            return applied
        finally:
            await connection.close(timeout=TIMEOUT_SECONDS)
    except TierstreamError:
        raise
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
        raise translate(error, server) from error


class _Run:
    """One run. Each transaction takes the lock anew, and so waits for those of other runs; nothing is kept in the session."""

    def __init__(self, connection: Connection, server: str, lock_seconds: float) -> None:
        self._connection = connection
        self._server = server
        self._lock_seconds = lock_seconds

    async def apply(self, migrations: Sequence[Migration]) -> list[str]:
        """Apply what is to be applied; return the names."""
        await check_database(self._connection, self._server)
        async with self._locked():
            recorded = await self._recorded()
            created = [table for migration in migrations if migration.name in recorded for table in migration.creates]
            gone = await self._connection.fetch("select name from unnest($1::text[]) as name where to_regclass(name) is null", created)
        checksums = {name: checksum for name, (checksum, _) in recorded.items()}
        planned = plan(migrations, checksums, frozenset(row["name"] for row in gone))
        return [migration.name for migration in planned if await self._apply(migration, recorded.get(migration.name))]

    async def grant(self, role_prefix: str | None, *, is_changed: bool) -> None:
        """Create and grant the roles of ``role_prefix``; grant those of earlier runs again where tables or their privileges have changed."""
        async with self._locked():
            if role_prefix is not None:
                await roles.create_missing(self._connection, roles.checked_prefix(role_prefix))
                await roles.grant(self._connection, role_prefix)
            recorded = {name: checksum for name, (checksum, _) in (await self._recorded()).items()}
            for prefix, is_current in roles.granted(recorded).items():
                if prefix != role_prefix and (is_changed or not is_current):
                    await roles.grant(self._connection, prefix)

    async def _apply(self, migration: Migration, seen: "tuple[str, datetime] | None") -> bool:
        """Apply one file, unless another run has done so since it was ``seen`` in the records."""
        try:
            async with self._locked():
                if (await self._recorded()).get(migration.name) != seen:
                    return False
                await self._connection.execute(migration.sql)
                await self._connection.execute(_RECORD, migration.name, migration.checksum)
                return True
        except asyncpg.LockNotAvailableError as error:
            sessions = [row for row in await self._connection.fetch(_TABLE_LOCKS) if migration.mentions(frozenset((row["table"],)))]
            raise PostgresUnavailable(
                f"{self._server}: migration {migration.name} waits for a lock on its tables for more than {self._lock_seconds:g} s"
                f"{_named(sessions)}; run `tierstream migrate` again once it is free."
            ) from error

    @asynccontextmanager
    async def _locked(self) -> AsyncIterator[None]:
        """A transaction that no other run has at the same time."""
        async with self._connection.transaction():
            await self._connection.execute("select set_config('lock_timeout', $1, true)", f"{int(self._lock_seconds * 1000)}ms")
            try:
                # In a block of its own, so that who holds it can still be asked for.
                async with self._connection.transaction():
                    await self._connection.execute("select pg_advisory_xact_lock($1)", _LOCK)
            except asyncpg.LockNotAvailableError as error:
                sessions = await self._connection.fetch(_LOCK_HOLDERS, _LOCK)
                raise PostgresUnavailable(
                    f"{self._server}: another session holds the lock of migrations for more than {self._lock_seconds:g} s{_named(sessions)}; "
                    "wait for its end, or end it with pg_terminate_backend, and run `tierstream migrate` again."
                ) from error
            yield

    async def _recorded(self) -> dict[str, tuple[str, datetime]]:
        """Return checksum and time of each file that was applied, by name."""
        await self._connection.execute(_BOOKKEEPING)
        rows = await self._connection.fetch("select name, checksum, applied_at from schema_migrations")
        return {row["name"]: (row["checksum"], row["applied_at"]) for row in rows}


def _named(sessions: Sequence[asyncpg.Record]) -> str:
    """Say which sessions these are, in brackets; nothing when they have gone meanwhile."""
    said = {
        f"process {row['pid']}, user {row['usename']}, application {row['application_name'] or 'unnamed'}, {row['state'] or 'unknown state'}"
        for row in sessions
    }
    return f" ({'; '.join(sorted(said))})" if said else ""
