"""Migrations: the numbered SQL files of ``streams/stores/migrations``, applied in order, each in a transaction of its own.

The only place that creates or alters a table. Every file is written so that it can be applied again (``if not exists``), for a
table that somebody dropped is brought back by applying every file that mentions it once more.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import asyncpg

from streams.errors import MigrationError, TierstreamError
from streams.stores.pool import TIMEOUT_SECONDS, Connection, describe_server, translate

_LOCK = int.from_bytes(b"tierstre")
"""Key of the advisory lock that lets one migration at a time through."""

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


async def migrate(dsn: str, migrations: Sequence[Migration] | None = None) -> list[str]:
    """Bring the database at ``dsn`` to this version and return the names of the files that were applied, in order.

    Idempotent; two at once are safe (the second waits, then finds nothing to do). A table that was dropped comes back, empty.
    Raises PostgresUnavailable, MigrationError, ConfigurationError.
    """
    server = describe_server(dsn)
    try:
        connection = await asyncpg.connect(dsn, timeout=TIMEOUT_SECONDS, server_settings={"application_name": "tierstream-migrate"})
        try:
            return await _migrate(connection, read_migrations() if migrations is None else migrations)
        finally:
            await connection.close(timeout=TIMEOUT_SECONDS)  # and with it the lock goes
    except TierstreamError:
        raise
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
        raise translate(error, server) from error


async def _migrate(connection: Connection, migrations: Sequence[Migration]) -> list[str]:
    await connection.execute("select pg_advisory_lock($1)", _LOCK)
    await connection.execute(_BOOKKEEPING)
    recorded = {row["name"]: row["checksum"] for row in await connection.fetch("select name, checksum from schema_migrations")}
    created = [table for migration in migrations if migration.name in recorded for table in migration.creates]
    gone = await connection.fetch("select name from unnest($1::text[]) as name where to_regclass(name) is null", created)
    applied = plan(migrations, recorded, frozenset(row["name"] for row in gone))
    for migration in applied:
        async with connection.transaction():
            await connection.execute(migration.sql)
            await connection.execute(
                "insert into schema_migrations (name, checksum) values ($1, $2) on conflict (name) do update set applied_at = now()",
                migration.name,
                migration.checksum,
            )
    return [migration.name for migration in applied]
