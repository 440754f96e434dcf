"""Databases whose processes and commands log in as members of their roles, as an administrator would set them up."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from streams.stores.migrate import migrate
from streams.stores.roles import PRIVILEGES
from tests.integration.databases import query


@dataclass(frozen=True)
class Installation:
    """A database with its roles. ``dsn`` is its owner's login; ``logins`` has that of each role."""

    dsn: str
    prefix: str
    logins: dict[str, str]

    def named(self, role: str) -> str:
        """The name of a role."""
        return self.prefix + role

    async def change(self, statement: str) -> None:
        """Run a statement as the owner."""
        await query(self.dsn, statement)


@asynccontextmanager
async def owner_of(admin_dsn: str) -> AsyncIterator[tuple[str, str]]:
    """Yield the address of a login that may create roles and tables and no more, and the prefix of its roles. ``admin_dsn`` is the superuser's.

    All roles of the prefix are gone afterwards, and what they own.
    """
    prefix = f"t{secrets.token_hex(5)}_"
    password = secrets.token_hex(8)
    await query(admin_dsn, f"create role {prefix}owner login password '{password}' createrole")
    await query(admin_dsn, f"grant create, usage on schema public to {prefix}owner")
    try:
        yield _with_login(admin_dsn, f"{prefix}owner", password), prefix
    finally:
        names = [row["rolname"] for row in await query(admin_dsn, "select rolname from pg_roles where starts_with(rolname, $1)", prefix)]
        for statement in ("drop owned by {} cascade", "drop role {}"):
            for name in names:
                await query(admin_dsn, statement.format(name))


async def installed(admin_dsn: str, owner: tuple[str, str], together: dict[str, tuple[str, ...]] | None = None) -> Installation:
    """Migrate with roles as ``owner``, and make a login for each role, and for each name in ``together`` one with all of its roles."""
    dsn, prefix = owner
    await migrate(dsn, role_prefix=prefix)
    logins: dict[str, str] = {}
    for name, roles in ({role: (role,) for role in PRIVILEGES} | (together or {})).items():
        password = secrets.token_hex(8)
        members = ", ".join(prefix + role for role in roles)
        await query(admin_dsn, f"create role {prefix}login_{name} login password '{password}' in role {members}")
        logins[name] = _with_login(admin_dsn, f"{prefix}login_{name}", password)
    return Installation(dsn, prefix, logins)


def _with_login(dsn: str, user: str, password: str) -> str:
    parts = urlsplit(dsn)
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{parts.netloc.rpartition('@')[2]}"))
