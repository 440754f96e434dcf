"""The table ``audit_log`` on the real PostgreSQL."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest

from streams.stores.accounts import StoredAccounts
from streams.stores.audit_log import BATCH_ROWS, AuditRow, PostgresAuditLog, RowStatus
from streams.stores.migrate import migrate
from tests.integration.databases import pool_of, query
from tests.stage_doubles import NOW, TEAM

INSERTED, ALREADY_THERE, CONFLICT, REJECTED = RowStatus.INSERTED, RowStatus.ALREADY_THERE, RowStatus.CONFLICT, RowStatus.REJECTED

METADATA = '{"to": "pro", "from": "free"}'
"""As jsonb spells it."""
RESPELLED = '{"from":"free",  "to":"pro"}'


def row(number: int = 0, **changed: object) -> AuditRow:
    held = AuditRow(
        uuid.UUID(int=number + 1), uuid.UUID(TEAM), None, "system", "subscription.upgraded", "subscription", None, "Upgraded", METADATA, NOW
    )
    return held._replace(**changed)  # type: ignore[arg-type]


@pytest.fixture
async def audit_log(database: str) -> AsyncIterator[PostgresAuditLog]:
    await migrate(database)
    async with pool_of(database) as pool:
        yield PostgresAuditLog(pool)


async def statuses(audit_log: PostgresAuditLog, *rows: AuditRow) -> list[RowStatus]:
    return [result.status for result in await audit_log.write(rows)]


async def test_write_new_rows_are_inserted_as_they_are(audit_log: PostgresAuditLog, database: str) -> None:
    full = row(1, user_id=uuid.UUID(int=7), resource_id=uuid.UUID(int=8), summary="é 😀")
    bare = row(2, team_id=None, resource_type=None, metadata="{}")

    assert await statuses(audit_log, full, bare) == [INSERTED, INSERTED]

    stored = await query(database, "select * from audit_log order by id")
    assert [AuditRow(**values) for values in stored] == [full, bare]


async def test_write_nothing_is_nothing(audit_log: PostgresAuditLog) -> None:
    assert await statuses(audit_log) == []


async def test_write_rows_that_are_there_are_reported_apart_from_new_ones(audit_log: PostgresAuditLog) -> None:
    await audit_log.write([row(1), row(2)])

    assert await statuses(audit_log, row(3), row(1), row(4), row(2)) == [INSERTED, ALREADY_THERE, INSERTED, ALREADY_THERE]


async def test_write_same_content_in_another_spelling_is_the_same(audit_log: PostgresAuditLog) -> None:
    await audit_log.write([row(1)])

    assert await statuses(audit_log, row(1, metadata=RESPELLED)) == [ALREADY_THERE]


@pytest.mark.parametrize(
    "changed",
    [
        {"team_id": None},
        {"user_id": uuid.UUID(int=9)},
        {"actor": "admin"},
        {"kind": "subscription.downgraded"},
        {"resource_type": None},
        {"resource_id": uuid.UUID(int=9)},
        {"summary": "other"},
        {"metadata": "{}"},
        {"created_at": NOW.replace(microsecond=1)},
    ],
    ids=lambda changed: next(iter(changed)),
)
async def test_write_same_id_with_other_content_is_a_conflict_and_changes_nothing(
    audit_log: PostgresAuditLog, database: str, changed: dict[str, object]
) -> None:
    await audit_log.write([row(1)])

    assert await statuses(audit_log, row(1, **changed), row(2)) == [CONFLICT, INSERTED]

    stored = await query(database, "select * from audit_log where id = $1", row(1).id)
    assert [AuditRow(**values) for values in stored] == [row(1)]


async def test_write_same_id_twice_in_a_batch_is_settled_one_after_the_other(audit_log: PostgresAuditLog) -> None:
    assert await statuses(audit_log, row(1), row(1), row(1, summary="other"), row(2), row(1, metadata=RESPELLED)) == [
        INSERTED,
        ALREADY_THERE,
        CONFLICT,
        INSERTED,
        ALREADY_THERE,
    ]


@pytest.mark.parametrize(
    "poison",
    [
        {"metadata": '{"a": "\\u0000"}'},  # 22P05
        {"summary": "a\0b"},  # 22021
        {"metadata": "{"},  # 22P02
        {"metadata": '{"a": 1e400000}'},  # 22003
        {"summary": None},  # 23502
        {"summary": "\ud800"},  # not to be encoded at all
    ],
)
async def test_write_poison_row_is_rejected_alone_and_the_others_are_written(
    audit_log: PostgresAuditLog, database: str, poison: dict[str, object]
) -> None:
    rows = [row(number) for number in range(40)]
    rows[17] = row(17, **poison)
    rows[31] = row(31, **poison)

    results = await audit_log.write(rows)

    assert [index for index, result in enumerate(results) if result.status is REJECTED] == [17, 31]
    assert all(result.status is INSERTED for index, result in enumerate(results) if index not in (17, 31))
    assert results[17].error is not None
    assert results[17].error.startswith("PostgreSQL at ")
    assert len(await query(database, "select id from audit_log")) == 38


async def test_write_more_rows_than_one_statement_takes_are_all_written(audit_log: PostgresAuditLog, database: str) -> None:
    rows = [row(number) for number in range(BATCH_ROWS + 10)]
    await audit_log.write(rows[: BATCH_ROWS // 2])

    results = await statuses(audit_log, *rows)

    assert (results.count(ALREADY_THERE), results.count(INSERTED)) == (BATCH_ROWS // 2, BATCH_ROWS // 2 + 10)
    assert await query(database, "select count(*) as rows from audit_log") == [{"rows": BATCH_ROWS + 10}]


async def test_write_two_writers_of_the_same_rows_write_each_once(audit_log: PostgresAuditLog, database: str) -> None:
    rows = [row(number) for number in range(500)]

    results = await asyncio.gather(*(statuses(audit_log, *(rows if writer % 2 else reversed(rows))) for writer in range(4)))

    assert sum(result.count(INSERTED) for result in results) == 500
    assert sum(result.count(ALREADY_THERE) for result in results) == 1_500
    assert await query(database, "select count(*) as rows from audit_log") == [{"rows": 500}]


async def test_accounts_are_as_of_the_first_row_that_is_asked_for(audit_log: PostgresAuditLog, database: str) -> None:
    """What is written after they are opened, and before the groups' offsets are read, belongs to them."""
    loop = asyncio.get_running_loop()

    def write(number: int) -> None:
        asyncio.run_coroutine_threadsafe(audit_log.write([row(number)]), loop).result(30)

    def read() -> tuple[int, int]:
        with StoredAccounts(database) as accounts:
            write(1)
            first = len(list(accounts.audit_rows()))
            write(2)
            return first, len(list(accounts.audit_rows()))

    assert await asyncio.to_thread(read) == (1, 1)
