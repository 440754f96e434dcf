"""PostgreSQL's roles on the real server: each can do all that it is for, and nothing that it is not for."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from streams.errors import MigrationError, PostgresUnavailable
from streams.stores.migrate import migrate, read_migrations
from streams.stores.pool import connect
from streams.stores.roles import PRIVILEGES
from tests.integration.databases import query
from tests.role_logins import Installation, installed, owner_of
from tests.role_uses import use

each_role = pytest.mark.parametrize("role", PRIVILEGES)

_EVERYBODY = (
    "create table other (id int)",
    "alter table audit_log add column note text",
    "drop table audit_log",
    "create index other on forwarder_sent (attempts)",
    "delete from audit_log where false",
    "truncate audit_log",
    "update audit_log set summary = '' where false",
    "delete from forwarder_sent where false",
    "truncate forwarder_sent",
    "delete from loops_mails where false",
    "delete from address_feedback where false",
    "select from schema_migrations",
    "create role another",
)
_ADD_ROW = "insert into audit_log (id, kind, summary, metadata, created_at) select gen_random_uuid(), 'x', '', '{}', now() where false"
_ADD_MAIL = "insert into forwarder_sent (audit_id, template_kind, classification) select gen_random_uuid(), 'x', 'sent' where false"
_READ_SLOTS = "select from loops_slots"
FORBIDDEN: dict[str, tuple[str, ...]] = {
    "audit": (
        *("select from forwarder_sent", "select from loops_mails", "select from address_feedback", _READ_SLOTS),
        *(_ADD_MAIL, "create trigger t before insert on audit_log for each row execute function suppress_redundant_updates_trigger()"),
    ),
    "forward": (
        "select from audit_log",
        _ADD_ROW,
        "select from loops_mails",
        "update address_feedback set complaint_at = null where false",
    ),
    "feedback": ("select from audit_log", _ADD_ROW, _ADD_MAIL, _READ_SLOTS),
    "reader": (
        *(_ADD_ROW, _ADD_MAIL, "update forwarder_sent set attempts = 0 where false", _READ_SLOTS),
        "update loops_mails set kind = null where false",
    ),
    "operator": (_ADD_ROW, "update loops_mails set kind = null where false", "update address_feedback set complaint_at = null where false"),
}


@pytest.fixture
async def owner(direct_database: str) -> AsyncIterator[tuple[str, str]]:
    async with owner_of(direct_database) as owner:
        yield owner


@pytest.fixture
async def installation(direct_database: str, owner: tuple[str, str]) -> Installation:
    return await installed(direct_database, owner)


async def is_refused(dsn: str, statement: str) -> bool:
    """Whether PostgreSQL refuses a statement for want of rights; what it does otherwise is rolled back."""
    connection = await connect(dsn, "test")
    try:
        transaction = connection.transaction()
        await transaction.start()
        try:
            await connection.execute(statement)
        except asyncpg.InsufficientPrivilegeError:
            return True
        finally:
            await transaction.rollback()
    finally:
        await connection.close()
    return False


async def test_each_role_can_do_what_it_is_for(installation: Installation) -> None:
    for role in PRIVILEGES:
        await use(role, installation.logins)


@each_role
async def test_role_can_do_nothing_else(installation: Installation, role: str) -> None:
    done = [each for each in (*_EVERYBODY, *FORBIDDEN[role]) if not await is_refused(installation.logins[role], each)]

    assert done == []


async def test_the_owner_can_do_all_of_that_so_that_what_is_refused_is_refused_for_want_of_rights(installation: Installation) -> None:
    statements = dict.fromkeys((*_EVERYBODY, *(each for some in FORBIDDEN.values() for each in some)))

    assert [each for each in statements if await is_refused(installation.dsn, each)] == []


@each_role
async def test_no_privilege_is_more_than_the_role_needs(installation: Installation, role: str) -> None:
    not_needed, refused = list[str](), list[str]()
    for table, privileges in PRIVILEGES[role].items():
        for privilege in privileges:
            await installation.change(f"revoke {privilege} on {table} from {installation.named(role)}")
            try:
                await use(role, installation.logins)
                not_needed.append(f"{privilege} on {table}")
            except PostgresUnavailable as error:
                refused.append(str(error))
            await installation.change(f"grant {privilege} on {table} to {installation.named(role)}")

    assert not_needed == []
    assert all("SQLSTATE 42501" in each for each in refused), refused
    await use(role, installation.logins)


async def test_what_somebody_granted_in_addition_is_taken_away_by_the_next_run(installation: Installation) -> None:
    audit = installation.logins["audit"]
    await installation.change(f"grant delete, truncate, update (summary) on audit_log to {installation.named('audit')}")
    statements = ("delete from audit_log where false", "truncate audit_log", "update audit_log set summary = '' where false")
    assert [await is_refused(audit, each) for each in statements] == [False, False, False]

    await migrate(installation.dsn, role_prefix=installation.prefix)

    assert [await is_refused(audit, each) for each in statements] == [True, True, True]


async def test_table_that_was_dropped_and_is_made_again_has_its_privileges_again(installation: Installation) -> None:
    await installation.change("drop table audit_log")

    assert await migrate(installation.dsn) == ["0001_audit_log.sql"]

    await use("audit", installation.logins)
    assert await is_refused(installation.logins["forward"], "select from audit_log")


async def test_privileges_of_another_version_become_those_of_this_one(installation: Installation) -> None:
    await installation.change(f"revoke insert on audit_log from {installation.named('audit')}")
    assert await migrate(installation.dsn) == []
    assert await is_refused(installation.logins["audit"], "insert into audit_log select * from audit_log where false"), (
        "nothing has changed"
    )

    await installation.change("update schema_migrations set checksum = 'of another version' where starts_with(name, 'roles:')")
    assert await migrate(installation.dsn) == []

    await use("audit", installation.logins)


async def test_roles_asked_for_at_once_are_made_once_and_nobody_logs_in_as_one(direct_database: str, owner: tuple[str, str]) -> None:
    dsn, prefix = owner

    await asyncio.gather(*(migrate(dsn, role_prefix=prefix) for _ in range(4)))

    found = await query(direct_database, "select rolname, rolcanlogin from pg_roles where starts_with(rolname, $1) order by 1", prefix)
    assert [(row["rolname"], row["rolcanlogin"]) for row in found if row["rolname"] != f"{prefix}owner"] == [
        (prefix + role, False) for role in sorted(PRIVILEGES)
    ]


async def test_missing_right_is_named_with_what_grants_it(installation: Installation) -> None:
    await installation.change(f"revoke insert on audit_log from {installation.named('audit')}")

    with pytest.raises(
        PostgresUnavailable, match=r"permission denied for table audit_log\); make it a member of the role .*migrate --roles"
    ):
        await use("audit", installation.logins)


async def test_owner_who_may_not_create_roles_is_told_what_an_administrator_has_to_run(
    direct_database: str, owner: tuple[str, str]
) -> None:
    dsn, prefix = owner
    await query(direct_database, f"alter role {prefix}owner nocreaterole")

    with pytest.raises(MigrationError) as refused:
        await migrate(dsn, role_prefix=prefix)

    statements = str(refused.value).partition(" run ")[2].partition(" Then ")[0]
    assert await query(direct_database, "select to_regclass('audit_log') as found") == [{"found": "audit_log"}], "the tables are there"
    for statement in filter(None, map(str.strip, statements.split(";"))):
        await query(direct_database, statement)
    assert await migrate(dsn, role_prefix=prefix) == []
    assert await is_refused(dsn, "create role another")


async def test_database_without_roles_is_migrated_as_ever(direct_database: str) -> None:
    assert await migrate(direct_database) == [migration.name for migration in read_migrations()]
    assert await query(direct_database, "select name from schema_migrations where name like 'roles:%'") == []
