"""Forwarders that share the account's limit through PostgreSQL, with real calls, while partitions change hands between them."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from agents.forward.stage import Forwarder
from streams.loops.rate_limit import RateLimiter
from streams.runtime.waiting import Backoff, Waiting
from streams.stores.ledger import PostgresLedger
from streams.stores.loops_slots import PostgresSlots
from streams.stores.migrate import migrate
from tests.forward_doubles import forwarder_of
from tests.integration.databases import pool_of
from tests.sinks import ServedSink, served_sink
from tests.stage_doubles import Record, record, team

LIMIT = 20
PARTITIONS = 8
BEGIN_SECONDS = 1.0


@contextlib.asynccontextmanager
async def forwarder(dsn: str, sink: ServedSink) -> AsyncIterator[Forwarder]:
    """A worker's forwarder, with connections of its own."""
    async with pool_of(dsn) as pool, contextlib.AsyncExitStack() as stack:
        client = sink.client()
        await client.open()
        stack.push_async_callback(client.close)
        limiter = RateLimiter(LIMIT, PostgresSlots(pool))
        stack.push_async_callback(limiter.close)
        waiting = Waiting("test", "loops", backoff=Backoff(0.01, 0.1))
        yield forwarder_of(PostgresLedger(pool), client, limiter, waiting)


def partitions_of(mails: int) -> list[list[Record]]:
    now = datetime.now(UTC)
    return [[record(team=team(PARTITIONS * number + part), created_at=now) for number in range(mails)] for part in range(PARTITIONS)]


async def work(sink: ServedSink, forwarders: list[Forwarder], partitions: list[list[Record]], seconds: float) -> float:
    """Let ``forwarders`` have the partitions between them for a while, and take them away in the middle of the work.

    Returns the calls a second once they were at it.
    """
    tasks = [
        asyncio.create_task(forwarders[number % len(forwarders)].handle(partition, lambda: None))
        for number, partition in enumerate(partitions)
    ]
    await asyncio.sleep(BEGIN_SECONDS)
    began, before = time.monotonic(), answers(sink).total()
    await asyncio.sleep(seconds)
    rate = (answers(sink).total() - before) / (time.monotonic() - began)
    for task in tasks:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert [end for end in ended if isinstance(end, Exception)] == []
    return rate


@pytest.mark.alone
async def test_forwarders_use_the_limit_together_and_never_more_while_partitions_change_hands(database: str) -> None:
    await migrate(database)
    partitions = partitions_of(40)
    async with served_sink(rate_per_second=LIMIT) as sink, contextlib.AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(forwarder(database, sink)) for _ in range(4)]
        used = {count: await work(sink, workers[-count:], partitions, 2.0) / LIMIT for count in (1, 2, 4)}

    assert len(sink.keys) < sum(map(len, partitions)), "there was work all the time"
    assert sink.sink.stats()["peak_per_second"] <= LIMIT
    assert answers(sink).keys() <= {"200", "409"}
    assert len(set(sink.keys)) == len(sink.keys)
    # The 95 % are shown in virtual time, in property/test_rate_limit.py; here others may use the cores.
    assert all(share >= 0.8 for share in used.values()), used


@pytest.mark.alone
async def test_forwarders_leave_others_of_the_account_their_part(database: str) -> None:
    await migrate(database)
    async with served_sink(rate_per_second=LIMIT) as sink, contextlib.AsyncExitStack() as stack:
        sink.break_it(others=12.0)
        workers = [await stack.enter_async_context(forwarder(database, sink)) for _ in range(2)]
        await work(sink, workers, partitions_of(20), 3.0)

    # How few it is where nobody else uses the cores is shown in virtual time; without heeding the answers, most would be rejected.
    assert answers(sink)["429"] < answers(sink)["200"], "some at the beginning, and no storm"
    assert len(sink.keys) >= 16, "about eight a second are ours"


def answers(sink: ServedSink) -> Counter[str]:
    return Counter(sink.sink.stats()["statuses"])
