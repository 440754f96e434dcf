"""Behind a PgBouncer in transaction mode, where two transactions of one client seldom have the same server connection."""

import asyncio
import contextlib
from collections import Counter
from datetime import UTC, datetime
from itertools import chain

import structlog
from pydantic import SecretStr

from agents.audit.stage import AuditWriter
from agents.forward.decide import Policy
from agents.forward.key import ApiKey
from agents.forward.stage import Forwarder
from schemas.reasons import Reason
from streams.loops.rate_limit import RateLimiter
from streams.runtime.waiting import Backoff, Waiting
from streams.settings import Settings
from streams.stores.audit_log import PostgresAuditLog
from streams.stores.ledger import PostgresLedger
from streams.stores.migrate import migrate, read_migrations
from streams.stores.pool import connect
from tests.forward_doubles import MemoryRetries
from tests.integration.databases import pool_of, query
from tests.integration.test_verify import post, verified, working
from tests.pgbouncer import SERVER_CONNECTIONS
from tests.sinks import served_sink
from tests.stage_doubles import RecordingDeadLetters, id_of, record, team

ADVISORY_LOCKS = "select pid from pg_locks where locktype = 'advisory'"
NAMES = [migration.name for migration in read_migrations()]


async def test_migrate_leaves_no_lock_behind_in_the_pool(pooled_database: str, direct_database: str) -> None:
    assert await migrate(pooled_database) == NAMES

    assert await query(direct_database, ADVISORY_LOCKS) == []
    assert await asyncio.wait_for(migrate(direct_database), 10) == []
    assert await asyncio.wait_for(migrate(pooled_database), 10) == []


async def test_migrate_many_at_once_apply_each_file_once(pooled_database: str) -> None:
    applied = await asyncio.gather(*(migrate(pooled_database) for _ in range(2 * SERVER_CONNECTIONS)))

    assert sorted(chain.from_iterable(applied)) == NAMES


async def test_audit_writers_share_server_connections_and_never_fail(pooled_database: str, direct_database: str) -> None:
    await migrate(direct_database)
    batches = [[record(team=team(number)) for number in range(20)] for _ in range(10)]
    poisoned = [record(metadata={"note": "a\0b"}), record()]
    dead_letters = RecordingDeadLetters()

    async with contextlib.AsyncExitStack() as stack:
        pools = [await stack.enter_async_context(pool_of(pooled_database)) for _ in range(4)]
        writers = [AuditWriter(PostgresAuditLog(pool), dead_letters) for pool in pools]
        with structlog.testing.capture_logs() as logs:
            first = await asyncio.gather(*(writer.handle(batch) for batch in batches for writer in writers))
            poison = await writers[0].handle(poisoned)

    assert sum(first, Counter()) == Counter({Reason.WRITTEN: 200, Reason.ALREADY_WRITTEN: 600})
    assert poison == Counter({Reason.WRITTEN: 1, Reason.REJECTED: 1})
    assert [entry for entry in logs if entry["event"] == "waiting"] == []
    assert len(await query(direct_database, "select id from audit_log")) == 201
    assert await prepared_statements(pooled_database) == []


async def test_forwarders_share_server_connections_and_send_each_mail_once(pooled_database: str, direct_database: str) -> None:
    await migrate(direct_database)
    batch = [record(team=team(number % 10), created_at=datetime.now(UTC)) for number in range(60)]

    async with served_sink() as sink, contextlib.AsyncExitStack() as stack:
        client = sink.client()
        await client.open()
        pools = [await stack.enter_async_context(pool_of(pooled_database)) for _ in range(2)]
        waiting, limiter = Waiting("test", "loops", backoff=Backoff(0.01, 0.1)), RateLimiter(10_000)
        key = await stack.enter_async_context(contextlib.aclosing(ApiKey("test", client, limiter)))
        forwarders = [
            Forwarder(PostgresLedger(pool), client, limiter, RecordingDeadLetters(), MemoryRetries(), [], Policy(), waiting, key)
            for pool in pools
        ]
        with structlog.testing.capture_logs() as logs:
            outcomes = await asyncio.gather(*(forwarder.handle(batch) for forwarder in forwarders))
        await client.close()

    assert sum(outcome.total() for outcome in outcomes) == 120
    assert sorted(map(str, sink.keys)) == sorted(str(id_of(sent)) for sent in batch)
    assert [entry for entry in logs if entry["event"] == "waiting"] == []
    assert await prepared_statements(pooled_database) == []


async def test_stages_at_work_and_verify_beside_them(kafka_settings: Settings, pooled_database: str) -> None:
    await migrate(pooled_database)
    with structlog.testing.capture_logs() as logs:
        async with working(kafka_settings.model_copy(update={"postgres_dsn": SecretStr(pooled_database)})) as (settings, run):
            await post(settings, run, seed=21)
            report = await verified(settings)

    assert report.clean, report.differences()
    assert [entry for entry in logs if entry["event"] == "waiting"] == []
    assert await prepared_statements(pooled_database) == []


async def prepared_statements(dsn: str) -> list[str]:
    """The names of the statements that any server connection of the pool holds."""
    connections = [await connect(dsn, "test") for _ in range(SERVER_CONNECTIONS)]
    try:
        for connection in connections:
            await connection.execute("begin")  # each has a server connection of its own now
        found = [await connection.fetch("select name from pg_prepared_statements where name <> ''") for connection in connections]
        return [row["name"] for rows in found for row in rows]
    finally:
        for connection in connections:
            await connection.close()
