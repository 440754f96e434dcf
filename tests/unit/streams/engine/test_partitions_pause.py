"""Resting while a rebalance begins: no batch is begun, and the one under way gets its time."""

import asyncio

from tests.processing_doubles import Gate, Script, running, settle


async def test_pause_begins_no_batch_until_the_next_assignment() -> None:
    script = Script()
    async with running(script, 0) as work:
        await work.pause()
        work.submit(script.batch(1))
        await settle()
        assert script.begun == []

        work.assign([0])
        await settle()

    assert script.acked == [1]


async def test_pause_waits_for_the_batch_under_way() -> None:
    script = Script(gates={1: Gate()})
    async with running(script, 0) as work:
        work.submit(script.batch(1))
        await settle()
        resting = asyncio.create_task(work.pause())
        await settle()
        assert not resting.done()

        script.gates[1].opened.set()
        await resting
        assert script.finished == [1]


async def test_pause_gives_up_on_a_batch_that_takes_too_long_and_lets_it_go_on() -> None:
    script = Script(gates={1: Gate()})
    async with running(script, 0, finish_seconds=0.01) as work:
        work.submit(script.batch(1))
        await settle()

        await work.pause()

        assert script.begun == [1]
        assert script.acked == []
        script.gates[1].opened.set()
        await settle()
        assert script.acked == [1]


async def test_batch_of_a_generation_that_ended_while_resting_is_not_begun() -> None:
    script = Script()
    async with running(script, 0) as work:
        await work.pause()
        work.submit(script.batch(1))
        script.generation = 2
        work.assign([0])
        await settle()

    assert script.begun == []
