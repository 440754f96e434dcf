"""What the tests of the two stores share."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from streams.runtime.waiting import Backoff, Waiting
from streams.stores.pool import PostgresPool, connect
from streams.stores.tables import Table


async def query(dsn: str, statement: str, *arguments: object) -> list[dict[str, Any]]:
    """Run one statement on a connection of its own and return its rows."""
    connection = await connect(dsn, "test")
    try:
        return [dict(row) for row in await connection.fetch(statement, *arguments)]
    finally:
        await connection.close()


@asynccontextmanager
async def pool_of(dsn: str, *, timeout_seconds: float = 10.0, table: Table | None = None) -> AsyncIterator[PostgresPool]:
    """An open pool that waits briefly between its tries."""
    waiting = Waiting("test", "postgres", backoff=Backoff(0.01, 0.1))
    pool = PostgresPool(dsn, waiting, table=table, timeout_seconds=timeout_seconds)
    await pool.open()
    try:
        yield pool
    finally:
        await pool.close()
