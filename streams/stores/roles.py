"""PostgreSQL's roles: what each process and command may do with which table, and no more.

They are group roles, which nobody logs in as: a login is made by an administrator and becomes a member of one or more of them. So no password is
ever in here. The tables belong to whoever runs ``tierstream migrate``; none of these roles can alter, drop or truncate one, or delete a row.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import asyncpg

from streams.errors import ConfigurationError, MigrationError

if TYPE_CHECKING:
    from streams.stores.pool import Connection

PREFIX = "tierstream_"
"""Of the roles' names: ``tierstream_audit`` and so on. Roles belong to a whole server, so two installations on one need two prefixes."""

TABLES = ("audit_log", "forwarder_sent", "loops_mails", "address_feedback", "loops_slots", "schema_migrations")
"""All tables of ours."""

PRIVILEGES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    # ``on conflict do nothing`` and the comparison with what is there read; COPY only inserts.
    "audit": {"audit_log": ("select", "insert")},
    "forward": {
        "forwarder_sent": ("select", "insert", "update"),
        "address_feedback": ("select",),
        "loops_slots": ("select", "insert", "update"),
    },
    "feedback": {
        "forwarder_sent": ("select", "update"),
        "loops_mails": ("select", "insert", "update"),
        "address_feedback": ("select", "insert", "update"),
    },
    "reader": {
        "audit_log": ("select",),
        "forwarder_sent": ("select",),
        "loops_mails": ("select",),
        "address_feedback": ("select",),
    },
    "operator": {
        "audit_log": ("select",),
        "forwarder_sent": ("select", "insert", "update"),
        "loops_mails": ("select",),
        "address_feedback": ("select",),
    },
}
"""Role → table → what it may do with it. A process that runs two stages logs in as a member of both roles."""

_PREFIX_FORM = re.compile(r"[a-z_][a-z0-9_]{0,40}")
_RECORD_PREFIX = "roles:"
_RECORD = """
insert into schema_migrations (name, checksum) values ($1, $2)
on conflict (name) do update set checksum = excluded.checksum, applied_at = now()
"""
_MAY_BE_THERE = (asyncpg.DuplicateObjectError, asyncpg.UniqueViolationError)


def checked_prefix(prefix: str) -> str:
    """Return ``prefix``. Raises ConfigurationError unless it can begin the name of a role without quotes."""
    if not _PREFIX_FORM.fullmatch(prefix):
        raise ConfigurationError(f"--role-prefix {prefix[:80]!r}: write up to 41 of a-z, 0-9 and _, and no digit first.")
    return prefix


def statements(prefix: str, schema: str, roles: Sequence[str]) -> tuple[str, ...]:
    """Return the SQL that gives ``roles`` exactly their privileges on the tables in ``schema``, and takes away what else they have on them. Pure."""
    tables = ", ".join(f'"{schema}".{table}' for table in TABLES)
    named = ", ".join(prefix + role for role in roles)
    return (
        f"revoke all on table {tables} from {named}",
        f'grant usage on schema "{schema}" to {named}',
        *(
            f'grant {", ".join(privileges)} on table "{schema}".{table} to {prefix}{role}'
            for role in roles
            for table, privileges in PRIVILEGES[role].items()
        ),
    )


def checksum() -> str:
    """Return what distinguishes these privileges from those of another version."""
    text = repr([(role, table, privileges) for role, tables in PRIVILEGES.items() for table, privileges in tables.items()])
    return hashlib.sha256(text.encode()).hexdigest()


async def create_missing(connection: "Connection", prefix: str) -> None:
    """Create the roles that are not there. Raises MigrationError, with what an administrator has to run, when this user may not."""
    there = await existing(connection, prefix)
    missing = [role for role in PRIVILEGES if role not in there]
    try:
        for role in missing:
            try:
                async with connection.transaction():
                    await connection.execute(f"create role {prefix}{role} nologin")
            except _MAY_BE_THERE:
                continue  # made in this moment for another database of the server
    except asyncpg.InsufficientPrivilegeError as error:
        run = " ".join(f"create role {prefix}{role} nologin;" for role in missing)
        raise MigrationError(f"This user may not create roles; have an administrator run {run} Then run the same command again.") from error


async def existing(connection: "Connection", prefix: str) -> list[str]:
    """Return which of the roles the server has."""
    names = [prefix + role for role in PRIVILEGES]
    rows = await connection.fetch("select rolname from pg_roles where rolname = any($1::text[])", names)
    found = {row["rolname"] for row in rows}
    return [role for role in PRIVILEGES if prefix + role in found]


async def grant(connection: "Connection", prefix: str) -> None:
    """Give those of the roles that there are their privileges, and note that in ``schema_migrations``. Belongs into one transaction."""
    roles = await existing(connection, prefix)
    if roles:
        schema: str = await connection.fetchval("select current_schema()::text")
        for statement in statements(prefix, schema.replace('"', '""'), roles):
            await connection.execute(statement)
    await connection.execute(_RECORD, _RECORD_PREFIX + prefix, checksum())


def granted(recorded: Mapping[str, str]) -> dict[str, bool]:
    """Return the prefixes for which a database has granted, by its records (name → checksum), and whether that was what is granted now."""
    return {
        name.removeprefix(_RECORD_PREFIX): recorded_checksum == checksum()
        for name, recorded_checksum in recorded.items()
        if name.startswith(_RECORD_PREFIX)
    }
