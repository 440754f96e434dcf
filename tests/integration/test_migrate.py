"""Migrations on the real PostgreSQL."""

import asyncio
import secrets
from itertools import chain
from urllib.parse import quote, urlsplit

import asyncpg
import pytest

from streams.errors import ConfigurationError, MigrationError, PostgresUnavailable
from streams.settings import load_settings
from streams.stores.accounts import StoredAccounts
from streams.stores.migrate import Migration, migrate, read_migrations
from streams.stores.pool import connect
from tests.integration.databases import pool_of

NAMES = [migration.name for migration in read_migrations()]
COLUMNS = """
select column_name, data_type, is_nullable = 'NO' as required, column_default from information_schema.columns
where table_schema = 'public' and table_name = $1 order by ordinal_position
"""


async def columns(dsn: str, table: str) -> dict[str, tuple[str, bool, str | None]]:
    connection = await connect(dsn, "test")
    rows = await connection.fetch(COLUMNS, table)
    await connection.close()
    return {row["column_name"]: (row["data_type"], row["required"], row["column_default"]) for row in rows}


async def run(dsn: str, statement: str) -> list[asyncpg.Record]:
    connection = await connect(dsn, "test")
    try:
        return await connection.fetch(statement)
    finally:
        await connection.close()


async def test_migrate_empty_database_gets_the_tables_of_the_contract(database: str) -> None:
    assert await migrate(database) == NAMES

    assert await columns(database, "audit_log") == {
        "id": ("uuid", True, None),
        "team_id": ("uuid", False, None),
        "user_id": ("uuid", False, None),
        "actor": ("text", True, "'agent'::text"),
        "kind": ("text", True, None),
        "resource_type": ("text", False, None),
        "resource_id": ("uuid", False, None),
        "summary": ("text", True, None),
        "metadata": ("jsonb", True, None),
        "created_at": ("timestamp with time zone", True, None),
    }
    assert {name: kind for name, (kind, _, _) in (await columns(database, "forwarder_sent")).items()} == {
        "audit_id": "uuid",
        "provider": "text",
        "provider_id": "text",
        "recipient": "text",
        "template_kind": "text",
        "classification": "text",
        "attempts": "integer",
        "first_attempt_at": "timestamp with time zone",
        "sent_at": "timestamp with time zone",
        "delivered_at": "timestamp with time zone",
        "last_error": "text",
        "team_id": "uuid",
        "recorded_at": "timestamp with time zone",
        "address_hash": "bytea",
        "forwarded_as": "text",
        "resolution": "jsonb",
        "resolution_open": "boolean",
        "resends": "integer",
        "waiting_topic": "text",
        "waiting_due": "timestamp with time zone",
        "waiting_round": "integer",
        "origin_partition": "integer",
        "origin_offset": "bigint",
    }
    indexes = await run(database, "select indexdef from pg_indexes where tablename = 'audit_log'")
    assert any("(team_id, created_at DESC)" in row["indexdef"] for row in indexes)


async def test_migrate_again_does_nothing(database: str) -> None:
    await migrate(database)

    assert await migrate(database) == []


async def test_migrate_two_at_once_apply_each_file_once(database: str) -> None:
    applied = await asyncio.gather(*(migrate(database) for _ in range(4)))

    assert sorted(chain.from_iterable(applied)) == NAMES


async def test_migrate_dropped_table_comes_back_with_its_index_and_the_other_keeps_its_rows(database: str) -> None:
    await migrate(database)
    await run(database, "insert into forwarder_sent (audit_id, template_kind, classification) values (gen_random_uuid(), 'x', 'sent')")
    await run(database, "drop table audit_log")

    assert await migrate(database) == ["0001_audit_log.sql"]

    assert len(await columns(database, "audit_log")) == 10
    assert len(await run(database, "select indexname from pg_indexes where tablename = 'audit_log'")) == 2
    assert len(await run(database, "select * from forwarder_sent")) == 1
    assert await migrate(database) == []


async def test_migrate_table_made_by_hand_is_taken_over(database: str) -> None:
    await run(database, "create table audit_log (id uuid primary key, team_id uuid, created_at timestamptz)")

    assert await migrate(database) == NAMES


async def test_migrate_failing_file_leaves_nothing_of_itself_and_names_the_server(database: str) -> None:
    good = Migration("0001_good.sql", "create table if not exists good (id int);")
    bad = Migration("0002_bad.sql", "create table if not exists half (id int); select * from nowhere;")

    with pytest.raises(PostgresUnavailable, match=r'^PostgreSQL at .* \(SQLSTATE 42P01: relation "nowhere" does not exist\)'):
        await migrate(database, [good, bad])

    assert await columns(database, "good")
    assert not await columns(database, "half")
    assert await migrate(database, [good]) == []


async def test_migrate_changed_file_changes_nothing(database: str) -> None:
    await migrate(database, [Migration("0001_one.sql", "create table if not exists one (id int);")])

    with pytest.raises(MigrationError, match=r"0001_one\.sql has been changed"):
        await migrate(database, [Migration("0001_one.sql", "create table if not exists other (id int);")])
    assert not await columns(database, "other")


async def test_migrate_lock_that_somebody_holds_is_waited_for_and_then_says_who_holds_it(direct_database: str) -> None:
    holder = await connect(direct_database, "an older version")
    await holder.execute("select pg_advisory_lock($1)", int.from_bytes(b"tierstre"))

    said = (
        r"^PostgreSQL at .*: another session holds the lock of migrations for more than 0.2 s "
        rf"\(process {holder.get_server_pid()}, user {urlsplit(direct_database).username}, application an older version, idle\); wait for its end, or end it"
    )
    with pytest.raises(PostgresUnavailable, match=said):
        await migrate(direct_database, lock_seconds=0.2)
    waiting = asyncio.create_task(migrate(direct_database))
    await holder.close()
    assert await asyncio.wait_for(waiting, 10) == NAMES


async def test_migrate_table_that_somebody_locks_is_waited_for_and_then_says_who_locks_it(direct_database: str) -> None:
    await migrate(direct_database)
    change = Migration("0099_change.sql", "alter table audit_log add column if not exists note text;")
    holder = await connect(direct_database, "a report")
    reading = holder.transaction()
    await reading.start()
    await holder.fetch("select count(*) from audit_log")

    with pytest.raises(
        PostgresUnavailable, match=r"migration 0099_change.sql waits for a lock .*application a report, idle in transaction"
    ):
        await migrate(direct_database, [change], lock_seconds=0.2)
    await reading.rollback()
    await holder.close()
    assert await migrate(direct_database, [change]) == ["0099_change.sql"]


async def test_migrate_unreachable_server_is_one_sentence() -> None:
    with pytest.raises(
        PostgresUnavailable, match=r"^PostgreSQL at 127.0.0.1:1/none does not answer \(ConnectionRefusedError\); start it, or correct"
    ):
        await migrate("postgresql://nobody:secret@127.0.0.1:1/none")


def ledger_lines(dsn: str) -> int:
    with StoredAccounts(dsn) as accounts:
        return len(list(accounts.ledger()))


@pytest.mark.parametrize("password", ["S3cret Tail", "[S3cret:Tail@", "50%S3cretTail", "S3cret/Tail?#"])
async def test_migrate_and_every_store_log_in_with_a_password_of_any_characters(direct_database: str, password: str) -> None:
    login = f"r{secrets.token_hex(6)}"
    await run(direct_database, f"create role {login} login password '{password}'")
    await run(direct_database, f"grant all on schema public to {login}")
    server = direct_database.rpartition("@")[2]
    encoded = quote(password, safe="") if set(password) & set("/?#") else password
    settings = load_settings(postgres_dsn=f"postgresql://{login}:{encoded}@{server}\n")
    assert settings.postgres_dsn is not None
    dsn = settings.postgres_dsn.get_secret_value()
    try:
        assert await migrate(dsn) == NAMES
        async with pool_of(dsn) as pool:
            assert await pool.attempt(lambda connection: connection.fetchval("select current_user")) == login
        assert await asyncio.to_thread(ledger_lines, dsn) == 0
    finally:
        await run(direct_database, f"drop owned by {login}")
        await run(direct_database, f"drop role {login}")


async def test_migrate_dsn_that_is_none_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError):
        await migrate("mysql://somewhere")
