"""Another team's constraint on our tables: rows wait for it, teams do not wait for each other, and nothing is lost."""

import asyncio
import secrets
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

import httpx
import orjson
import pytest
import structlog
from prometheus_client import REGISTRY
from pydantic import SecretStr

from agents.audit.stage import AuditWriter
from agents.registry import stage_factory
from schemas.kinds import Kind
from schemas.reasons import Reason
from streams.embedded.process import free_port
from streams.engine import worker as engine_worker
from streams.errors import DatabaseUnfit
from streams.runtime.waiting import Backoff
from streams.settings import Settings, load_settings
from streams.stores.accounts import StoredAccounts
from streams.stores.audit_log import AuditRow, PostgresAuditLog
from streams.stores.migrate import migrate
from streams.stores.tables import AUDIT_LOG
from tests.integration.databases import pool_of, query
from tests.stage_doubles import NOW, Record, RecordingDeadLetters, audit_event, id_of, record, team
from tests.topic_io import produce, read_all
from tests.waiting import answered, eventually, until
from tests.workers import committed, running

HERE, GONE = team(1), team(2)
FOREIGN_KEY = "alter table audit_log add constraint team_exists foreign key (team_id) references teams"
CONSTRAINT = "constraint team_exists of audit_log"


@asynccontextmanager
async def writing(dsn: str, wait_seconds: float = 60.0) -> AsyncIterator[tuple[AuditWriter, RecordingDeadLetters]]:
    """A worker's writer, with a pool of its own."""
    dead_letters = RecordingDeadLetters()
    async with pool_of(dsn) as pool:
        yield (
            AuditWriter(PostgresAuditLog(pool), dead_letters, constraint_wait_seconds=wait_seconds, backoff=Backoff(0.01, 0.1)),
            dead_letters,
        )


@pytest.fixture
async def migrated(database: str) -> str:
    await migrate(database)
    return database


@pytest.fixture
async def with_teams(migrated: str) -> str:
    """A database whose ``audit_log`` refers to a table of teams, of which one is there."""
    await query(migrated, "create table teams (id uuid primary key)")
    await query(migrated, "insert into teams values ($1)", uuid.UUID(HERE))
    await query(migrated, FOREIGN_KEY)
    return migrated


def waits(constraint: str, stage: str = "audit") -> bool:
    return REGISTRY.get_sample_value("tierstream_waiting", {"stage": stage, "service": constraint}) == 1.0


async def ids(dsn: str) -> list[str]:
    """The ids in the table, in the order in which they were written."""
    return [str(row["id"]) for row in await query(dsn, "select id from audit_log order by xmin::text::bigint, ctid")]


def names(*records: Record) -> list[str]:
    return [str(id_of(each)) for each in records]


async def test_column_of_others_that_must_not_be_null_is_waited_for_and_costs_no_row(migrated: str) -> None:
    await query(migrated, "alter table audit_log add column tenant text not null")
    batch = [record(team=team(number % 20)) for number in range(60)]

    async with writing(migrated, wait_seconds=0.0) as (writer, dead_letters):
        with structlog.testing.capture_logs() as logs:
            handling = asyncio.create_task(writer.handle(batch))
            await eventually(lambda: waits("column tenant of audit_log"))
            await query(migrated, "alter table audit_log alter column tenant set default 'none'")
            outcomes = await asyncio.wait_for(handling, 15)

    assert outcomes == Counter({Reason.WRITTEN: 60})
    assert dead_letters.written == []
    assert not waits("column tenant of audit_log")
    (said,) = [entry["error"] for entry in logs if entry["event"] == "waiting"]
    assert "the column tenant of audit_log, which is not tierstream's (SQLSTATE 23502" in said


async def test_check_of_others_holds_up_the_teams_whose_rows_it_refuses(migrated: str) -> None:
    await query(migrated, "alter table audit_log add constraint known check (kind <> 'subscription.downgraded') not valid")
    refused, later, others = record(Kind.DOWNGRADED, team=GONE), record(team=GONE), [record(team=HERE) for _ in range(5)]

    async with writing(migrated, wait_seconds=0.0) as (writer, dead_letters):
        handling = asyncio.create_task(writer.handle([refused, later, *others]))
        await eventually(lambda: waits("constraint known of audit_log"))
        assert set(await ids(migrated)) == set(names(*others))
        await query(migrated, "alter table audit_log drop constraint known")
        assert await asyncio.wait_for(handling, 15) == Counter({Reason.WRITTEN: 7})

    assert dead_letters.written == []
    assert [each for each in await ids(migrated) if each in names(refused, later)] == names(refused, later)


async def test_trigger_that_raises_is_waited_for(migrated: str) -> None:
    await query(migrated, "create function refuse() returns trigger language plpgsql as $$ begin raise 'asha@example.com'; end $$")
    await query(migrated, "create trigger refuse before insert on audit_log for each row execute function refuse()")

    async with writing(migrated) as (writer, dead_letters):
        with structlog.testing.capture_logs() as logs:
            handling = asyncio.create_task(writer.handle([record()]))
            await eventually(lambda: waits("trigger function refuse"))
            await query(migrated, "drop trigger refuse on audit_log")
            assert await asyncio.wait_for(handling, 15) == Counter({Reason.WRITTEN: 1})

    assert dead_letters.written == []
    assert "asha" not in str(logs)


async def test_table_that_refuses_even_a_plain_row_by_class_22_is_an_outage(migrated: str) -> None:
    await query(migrated, "create function refuse() returns trigger language plpgsql as $$ begin perform 1 / 0; end $$")
    await query(migrated, "create trigger refuse before insert on audit_log for each row execute function refuse()")
    batch = [record(team=team(number)) for number in range(10)]

    async with writing(migrated) as (writer, dead_letters):
        handling = asyncio.create_task(writer.handle(batch))
        await eventually(lambda: waits("postgres", stage="test"))
        await query(migrated, "drop trigger refuse on audit_log")
        assert await asyncio.wait_for(handling, 15) == Counter({Reason.WRITTEN: 10})

    assert dead_letters.written == []


async def test_missing_reference_holds_up_its_team_alone_and_is_written_once_it_is_there(with_teams: str) -> None:
    gone, here = [record(team=GONE) for _ in range(30)], [record(team=HERE) for _ in range(30)]
    mixed = [each for pair in zip(gone[:20], here[:20], strict=True) for each in pair]
    went_on = asyncio.Event()

    async with writing(with_teams) as (writer, dead_letters):
        first = asyncio.create_task(writer.handle(mixed, went_on.set))
        await asyncio.wait_for(went_on.wait(), 15)
        assert waits(CONSTRAINT)
        assert await ids(with_teams) == names(*here[:20])

        second = asyncio.create_task(writer.handle([*gone[20:], *here[20:]]))
        await until_written(with_teams, names(*here))
        assert not first.done()
        assert not second.done()

        await query(with_teams, "insert into teams values ($1)", uuid.UUID(GONE))
        assert await asyncio.wait_for(first, 15) == Counter({Reason.WRITTEN: 40})
        assert await asyncio.wait_for(second, 15) == Counter({Reason.WRITTEN: 20})

    assert dead_letters.written == []
    assert not waits(CONSTRAINT)
    assert [each for each in await ids(with_teams) if each in names(*gone)] == names(*gone), "a team's rows keep their order"


async def failed_statements(dsn: str) -> int:
    """How many transactions of the database have been rolled back so far."""
    await query(dsn, "select pg_stat_force_next_flush()")
    (found,) = await query(dsn, "select xact_rollback from pg_stat_database where datname = current_database()")
    return int(found["xact_rollback"])


async def until_written(dsn: str, expected: list[str], seconds: float = 15.0) -> None:
    found: list[str] = []

    async def written() -> list[str] | None:
        nonlocal found
        found = await ids(dsn)
        return found if found == expected else None

    await answered(written, lambda: f"these rows, but {found}", seconds)


async def test_missing_reference_that_never_comes_is_a_dead_letter_after_its_time(with_teams: str) -> None:
    gone, here = [record(team=GONE, offset=offset) for offset in range(3)], [record(team=HERE, offset=offset) for offset in range(3, 6)]

    async with writing(with_teams, wait_seconds=0.5) as (writer, dead_letters):
        began = asyncio.get_running_loop().time()
        outcomes = await asyncio.wait_for(writer.handle([*gone, *here]), 15)
        took = asyncio.get_running_loop().time() - began

    assert outcomes == Counter({Reason.REJECTED: 3, Reason.WRITTEN: 3})
    assert took >= 0.5
    assert [(each.offset, reason) for each, reason, _ in dead_letters.written] == [(offset, Reason.REJECTED) for offset in range(3)]
    assert "constraint team_exists of audit_log" in dead_letters.written[0][2]
    assert not waits(CONSTRAINT)


async def test_reference_that_is_missing_for_everybody_is_the_constraints_fault_and_costs_no_row(with_teams: str) -> None:
    await query(with_teams, "truncate teams cascade")
    batch = [record(team=team(number % 20)) for number in range(60)]

    async with writing(with_teams, wait_seconds=0.0) as (writer, dead_letters):
        handling = asyncio.create_task(writer.handle(batch))
        await eventually(lambda: waits(CONSTRAINT))
        tries = await failed_statements(with_teams)
        while await failed_statements(with_teams) < tries + 40:
            assert dead_letters.written == []
        await query(with_teams, "alter table audit_log drop constraint team_exists")
        assert await asyncio.wait_for(handling, 15) == Counter({Reason.WRITTEN: 60})

    assert dead_letters.written == []


async def test_stage_goes_on_past_a_team_that_waits_and_commits_no_offset_past_its_row(
    kafka_settings: Settings, with_teams: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_worker, "WAITS_SECONDS", 0.0)
    settings = with_database(kafka_settings, with_teams).model_copy(update={"constraint_wait_seconds": 600.0, "admin_port": free_port()})
    events = {number: [audit_event(team=owner) for owner in (HERE, HERE, GONE, HERE)] for number in range(2)}

    def send(round_: int) -> None:
        produce(settings, "audit.events", [(None, orjson.dumps(event)) for event in events[round_]], partition=1)

    with structlog.testing.capture_logs() as logs:
        async with running(settings, stage_factory(settings, "audit")) as run:
            send(0)
            await run.until(lambda: waits(CONSTRAINT), "the alarm")
            send(1)
            here = [event["id"] for round_ in events.values() for event in round_ if event["subject"] == HERE]
            await until_written(with_teams, here, 60.0)
            assert committed(settings, "audit", "audit.events")[1] == 0
            readyz = f"http://127.0.0.1:{settings.admin_port}/readyz"
            await until(lambda: httpx.get(readyz).status_code == 503, "the worker is not ready", 15.0)
            assert CONSTRAINT in (await asyncio.to_thread(httpx.get, readyz)).text

            await query(with_teams, "insert into teams values ($1)", uuid.UUID(GONE))
            await run.until(lambda: committed(settings, "audit", "audit.events")[1] == 8, "the offset")

    assert sorted(await ids(with_teams)) == sorted(event["id"] for round_ in events.values() for event in round_)
    assert read_all(settings, "dead.letters") == []
    assert [entry["service"] for entry in logs if entry["event"] in ("waiting", "available_again")] == [CONSTRAINT] * 2


@pytest.mark.parametrize(("encoding", "stage"), [("SQL_ASCII", "audit"), ("LATIN1", "forward")])
async def test_database_of_another_encoding_is_refused_at_the_start(servers: tuple[str, str], encoding: str, stage: str) -> None:
    name = f"t{secrets.token_hex(6)}"
    await query(servers[1], f"create database {name} encoding '{encoding}' template template0 locale 'C'")
    dsn = urlunsplit(urlsplit(servers[1])._replace(path=f"/{name}"))
    said = f"has the encoding {encoding}, which can not hold every name and text; create a database with encoding 'UTF8'"

    with pytest.raises(DatabaseUnfit, match=said):
        await migrate(dsn)
    with pytest.raises(DatabaseUnfit, match=said):
        await asyncio.to_thread(StoredAccounts, dsn)
    with pytest.raises(DatabaseUnfit, match=said):
        await start(servers, dsn, stage)
    await query(servers[1], f"drop database {name} with (force)")


READ_ONLY = "do $$ begin execute format('alter database %I set default_transaction_read_only = on', current_database()); end $$"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ("drop table audit_log", "has no table audit_log; run `tierstream migrate`"),
        ("alter table audit_log drop column actor", "table audit_log lacks actor"),
        ("alter table audit_log alter column id type text", r"other types \(id is text, not uuid\)"),
        ("alter table audit_log drop constraint audit_log_pkey", "would hold a row twice; make id its primary key"),
        (READ_ONLY, "can only be read"),
    ],
)
async def test_database_that_can_not_hold_what_is_written_is_refused_at_the_start(
    servers: tuple[str, str], migrated: str, direct_database: str, spoil: str, said: str
) -> None:
    await start(servers, direct_database, "audit")
    await query(direct_database, spoil)

    with pytest.raises(DatabaseUnfit, match=said):
        await start(servers, direct_database, "audit")


async def start(servers: tuple[str, str], dsn: str, stage: str) -> None:
    """Do what a worker does before it reads its first record."""
    async with stage_factory(with_database(load_settings(kafka_bootstrap_servers=servers[0]), dsn), stage)():
        pass


async def test_database_is_looked_at_before_the_first_row_where_it_was_away_at_the_start(migrated: str) -> None:
    await query(migrated, "alter table audit_log drop constraint audit_log_pkey")

    async with pool_of(migrated, table=AUDIT_LOG) as pool:
        with pytest.raises(DatabaseUnfit, match="make id its primary key"):
            await PostgresAuditLog(pool).write([AuditRow(uuid.uuid4(), None, None, "a", "k", None, None, "s", "{}", NOW)])

    assert await ids(migrated) == []


def with_database(settings: Settings, dsn: str) -> Settings:
    return settings.model_copy(update={"postgres_dsn": SecretStr(dsn), "loops_api_key": SecretStr("key"), "forward": "off"})
