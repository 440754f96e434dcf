"""What the tests of the two stores share."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from streams.runtime.waiting import Backoff, Waiting
from streams.stores.pool import PostgresPool


async def query(dsn: str, statement: str, *arguments: object) -> list[dict[str, Any]]:
    """Run one statement on a connection of its own and return its rows."""
    connection = await asyncpg.connect(dsn)
    try:
        return [dict(row) for row in await connection.fetch(statement, *arguments)]
    finally:
        await connection.close()


@asynccontextmanager
async def pool_of(dsn: str, *, timeout_seconds: float = 10.0) -> AsyncIterator[PostgresPool]:
    """An open pool that waits briefly between its tries."""
    pool = PostgresPool(dsn, Waiting("test", "postgres", backoff=Backoff(0.01, 0.1)), timeout_seconds=timeout_seconds)
    await pool.open()
    try:
        yield pool
    finally:
        await pool.close()
