"""Whose turn it is: one mail of a team at a time, and the first of those that wait is roused."""

import asyncio
import uuid

from agents.forward.turns import Turns

ONE, OTHER = uuid.UUID(int=1), uuid.UUID(int=2)


async def test_turn_is_one_at_a_time_for_a_team_and_in_the_order_of_asking() -> None:
    turns, log = Turns(), list[str]()

    async def take(team: uuid.UUID, name: str) -> None:
        async with turns.turn(team):
            log.append(f"{name} begins")
            await asyncio.sleep(0)
            log.append(f"{name} ends")

    await asyncio.gather(take(ONE, "a"), take(ONE, "b"), take(OTHER, "c"))

    assert [entry for entry in log if entry[0] in "ab"] == ["a begins", "a ends", "b begins", "b ends"]
    assert log.index("c begins") < log.index("a ends")


async def test_rouse_wakes_the_first_of_a_team_by_its_place_alone() -> None:
    turns = Turns()
    waits = {place: asyncio.create_task(turns.until_due(ONE, place, 3600.0)) for place in ((0, 7), (0, 3), (0, 5))}
    other = asyncio.create_task(turns.until_due(OTHER, (0, 1), 3600.0))
    await asyncio.sleep(0)

    for place in ((0, 3), (0, 5)):
        turns.rouse(ONE)
        assert await waits[place] is False
    assert not waits[0, 7].done()
    assert not other.done()
    for task in (waits[0, 7], other):
        task.cancel()
    await asyncio.gather(waits[0, 7], other, return_exceptions=True)


async def test_until_due_returns_when_the_time_has_come_or_is_past() -> None:
    turns = Turns()

    assert await turns.until_due(ONE, (0, 0), 0.001) is True
    assert await turns.until_due(ONE, (0, 0), -5.0) is True
    turns.rouse(ONE)  # nobody waits
