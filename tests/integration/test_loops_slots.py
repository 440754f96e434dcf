"""The slots keep the same rules in PostgreSQL and in memory."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from streams.loops.slots import NOT_COUNTED, Grant, Limit, MemorySlots, Return, Slots
from streams.stores.loops_slots import PostgresSlots
from streams.stores.migrate import migrate
from tests.integration.databases import pool_of, query
from tests.waiting import answered

TWO = Limit(2, 1.0)


@pytest.fixture(params=["memory", "postgres"])
async def slots(request: pytest.FixtureRequest, database: str) -> AsyncIterator[Slots]:
    if request.param == "memory":
        yield MemorySlots()
        return
    await migrate(database)
    async with pool_of(database) as pool:
        yield PostgresSlots(pool)


async def taken(slots: Slots, limit: Limit = TWO, lease: float = 60.0) -> Grant:
    grant = await slots.take(limit, lease)
    assert grant is not None
    return grant


async def test_slots_are_as_many_as_the_limit_and_each_is_taken_once(slots: Slots) -> None:
    first, second = await taken(slots), await taken(slots)

    assert {first.slot, second.slot} == {0, 1}
    assert (first.delay, second.delay) == (0.0, 0.0)
    assert await slots.take(TWO, 60.0) is None


async def test_slot_given_back_is_taken_a_moment_before_it_is_free(slots: Slots) -> None:
    first, _ = await taken(slots), await taken(slots)

    await slots.give_back(TWO, [Return(first.slot, first.use, 0.2)], 0.0)
    again = await taken(slots)

    assert (again.slot, again.use) == (first.slot, first.use + 1)
    assert 0.0 < again.delay <= 0.2


async def test_slot_that_is_held_for_longer_is_not_taken_yet(slots: Slots) -> None:
    first, _ = await taken(slots), await taken(slots)

    await slots.give_back(TWO, [Return(first.slot, first.use, 30.0)], 0.0)

    assert await slots.take(TWO, 60.0) is None


async def test_slot_of_a_worker_that_died_is_free_after_its_lease_and_a_late_return_changes_nothing(slots: Slots) -> None:
    one = Limit(1, 1.0)
    lost = await taken(slots, one, lease=0.1)
    again = await taken(slots, one)
    assert 0.0 < again.delay <= 0.1

    await slots.give_back(one, [Return(lost.slot, lost.use, 0.0)], 0.0)

    assert await slots.take(one, 60.0) is None


async def test_stop_holds_every_slot(slots: Slots) -> None:
    await taken(slots)

    await slots.give_back(TWO, [], 30.0)

    assert await slots.take(TWO, 60.0) is None


LIMIT = Limit(10, 1.0)


async def test_slots_come_back_one_by_one_after_a_stop(slots: Slots) -> None:
    refused = await taken(slots, LIMIT)
    await slots.give_back(LIMIT, [Return(refused.slot, refused.use, 0.0)], 0.2)

    first = await taken(slots, LIMIT)

    assert 0.1 < first.delay <= 0.2
    assert await slots.take(LIMIT, 60.0) is None
    await answered(lambda: slots.take(LIMIT, 60.0), lambda: "the next one is back")


@pytest.mark.parametrize(
    ("remaining", "left"),
    [
        (9.0, 9),  # the request alone
        (6.0, 6),  # and three of others
        (0.0, 0),
        (None, 9),
        (NOT_COUNTED, 0),  # refused: ten of others
    ],
)
async def test_slots_that_others_use_are_left_to_them(slots: Slots, remaining: float | None, left: int) -> None:
    grant = await taken(slots, LIMIT)

    await slots.give_back(LIMIT, [Return(grant.slot, grant.use, 30.0, remaining)], 0.0)

    assert await free_slots(slots) == left


async def test_slots_of_others_are_counted_once_whoever_sees_them(slots: Slots) -> None:
    first, second = await taken(slots, LIMIT), await taken(slots, LIMIT)

    await slots.give_back(LIMIT, [Return(first.slot, first.use, 30.0, 5.0)], 0.0)  # two of ours, three of others
    await slots.give_back(LIMIT, [Return(second.slot, second.use, 30.0, 5.0)], 0.0)

    assert await free_slots(slots) == 5


async def free_slots(slots: Slots) -> int:
    count = 0
    while await slots.take(LIMIT, 60.0) is not None:
        count += 1
    return count


async def test_slots_taken_by_many_at_once_are_each_taken_once(database: str) -> None:
    await migrate(database)
    async with pool_of(database) as first, pool_of(database) as second:
        workers: list[Slots] = [PostgresSlots(first), PostgresSlots(second)]
        grants = await asyncio.gather(*(workers[number % 2].take(LIMIT, 60.0) for number in range(30)))

    assert sorted(grant.slot for grant in grants if grant is not None) == list(range(10))


@pytest.mark.parametrize(
    "disturb",
    [
        lambda dsn: query(dsn, "update loops_slots set ours_until = clock_timestamp() + interval '1 day'"),  # its clock was set back
        lambda dsn: query(dsn, "delete from loops_slots"),
    ],
)
async def test_slots_that_a_clock_or_somebody_spoilt_are_taken_again(
    database: str, disturb: Callable[[str], asyncio.Future[object]]
) -> None:
    await migrate(database)
    async with pool_of(database) as pool:
        slots = PostgresSlots(pool)
        await taken(slots)
        await disturb(database)

        assert (await taken(slots)).delay == 0.0
