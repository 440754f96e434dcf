"""The audit writer on the real PostgreSQL: outages are waited out, poison is set apart."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest
from prometheus_client import REGISTRY

from agents.audit.stage import AuditWriter
from schemas.reasons import Reason
from streams.stores.audit_log import PostgresAuditLog
from streams.stores.migrate import migrate
from streams.stores.pool import connect
from tests.integration.databases import pool_of, query
from tests.stage_doubles import Record, RecordingDeadLetters, id_of, record
from tests.waiting import eventually


def waits() -> bool:
    return REGISTRY.get_sample_value("tierstream_waiting", {"stage": "test", "service": "postgres"}) == 1.0


@dataclass
class Stage:
    dsn: str
    writer: AuditWriter
    dead_letters: RecordingDeadLetters = field(default_factory=RecordingDeadLetters)

    async def ids(self) -> set[str]:
        return {str(row["id"]) for row in await query(self.dsn, "select id from audit_log")}


@pytest.fixture
async def stage(database: str) -> AsyncIterator[Stage]:
    await migrate(database)
    dead_letters = RecordingDeadLetters()
    async with pool_of(database, timeout_seconds=1.0) as pool:
        yield Stage(database, AuditWriter(PostgresAuditLog(pool), dead_letters), dead_letters)


async def rename_back(dsn: str) -> None:
    await query(dsn, "alter table hidden rename to audit_log")


async def through_an_outage(stage: Stage, begin: str, end: Callable[[], object]) -> Counter[Reason]:
    """Write a batch, break the table with ``begin``, hand over another, wait until the writer waits, mend it with ``end``."""
    await stage.writer.handle([record()])
    await query(stage.dsn, begin)
    batch = [record() for _ in range(10)]
    writing = asyncio.create_task(stage.writer.handle(batch))
    await eventually(waits)
    assert not writing.done()
    mended = end()
    if asyncio.iscoroutine(mended):
        await mended
    outcomes = await asyncio.wait_for(writing, 10)
    assert {str(id_of(written)) for written in batch} <= await stage.ids()
    assert not waits()
    return outcomes


async def test_writer_table_dropped_and_back_writes_every_row(stage: Stage) -> None:
    outcomes = await through_an_outage(stage, "drop table audit_log", lambda: migrate(stage.dsn))

    assert outcomes == Counter({Reason.WRITTEN: 10})
    assert stage.dead_letters.written == []


async def test_writer_table_dropped_and_recreated_between_two_batches_is_no_failure(stage: Stage) -> None:
    conflicting = record()
    await stage.writer.handle([conflicting])
    await stage.writer.handle([conflicting, record()])  # the session has prepared the merge by now
    await query(stage.dsn, "drop table audit_log")
    await migrate(stage.dsn)
    await query(stage.dsn, "alter table audit_log add column note text")

    batch = [conflicting, record(), conflicting]
    assert await stage.writer.handle(batch) == Counter({Reason.WRITTEN: 2, Reason.ALREADY_WRITTEN: 1})
    assert await stage.writer.handle(batch) == Counter({Reason.ALREADY_WRITTEN: 3})


async def test_writer_table_hidden_and_back_keeps_order_and_rows(stage: Stage) -> None:
    outcomes = await through_an_outage(stage, "alter table audit_log rename to hidden", lambda: rename_back(stage.dsn))

    assert outcomes == Counter({Reason.WRITTEN: 10})
    assert len(await stage.ids()) == 11


async def test_writer_connections_killed_in_mid_load_loses_and_doubles_nothing(stage: Stage) -> None:
    batches = [[record() for _ in range(50)] for _ in range(40)]
    stop = asyncio.Event()

    async def kill() -> None:
        connection = await connect(stage.dsn, "test")
        while not stop.is_set():
            await connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
            )
            await asyncio.sleep(0.01)
        await connection.close()

    killer = asyncio.create_task(kill())
    outcomes: Counter[Reason] = Counter()
    for batch in batches:
        outcomes += await stage.writer.handle(batch)
    stop.set()
    await killer

    assert outcomes.total() == 2_000
    assert set(outcomes) <= {Reason.WRITTEN, Reason.ALREADY_WRITTEN}, "a commit whose answer was lost is found again"
    assert await stage.ids() == {str(id_of(written)) for batch in batches for written in batch}


async def test_writer_table_that_is_locked_is_waited_for(stage: Stage) -> None:
    locker = await connect(stage.dsn, "test")
    locking = locker.transaction()
    await locking.start()
    await locker.execute("lock table audit_log in access exclusive mode")
    batch = [record() for _ in range(3)]

    writing = asyncio.create_task(stage.writer.handle(batch))
    await eventually(waits)
    await locking.rollback()
    await locker.close()

    assert (await asyncio.wait_for(writing, 10)).total() == 3
    assert len(await stage.ids()) == 3


async def test_writer_poison_in_a_batch_is_a_dead_letter_and_all_others_are_written(stage: Stage) -> None:
    batch = [record(offset=offset) for offset in range(100)]
    batch[3] = record(offset=3, metadata={"note": "a\0b"})
    batch[77] = record(offset=77, summary="a\0b")
    batch[50] = Record(b"not json", offset=50)

    assert await stage.writer.handle(batch) == Counter({Reason.WRITTEN: 97, Reason.REJECTED: 2, Reason.MALFORMED: 1})

    assert {(dead_letter.offset, reason) for dead_letter, reason, _ in stage.dead_letters.written} == {
        (3, Reason.REJECTED),
        (77, Reason.REJECTED),
        (50, Reason.MALFORMED),
    }
    errors = [error for _, reason, error in stage.dead_letters.written if reason is Reason.REJECTED]
    assert any("22P05" in error for error in errors)
    assert any("22021" in error for error in errors)


async def test_writer_that_is_stopped_while_it_waits_stops(stage: Stage) -> None:
    await query(stage.dsn, "drop table audit_log")
    writing = asyncio.create_task(stage.writer.handle([record()]))
    await eventually(waits)

    writing.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(writing, 5)
    await migrate(stage.dsn)
    assert await stage.writer.handle([record()]) == Counter({Reason.WRITTEN: 1})
