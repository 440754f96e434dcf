"""Batches that let the next one begin before they are done: acks keep their order, and nothing that is not done is ever acked."""

import asyncio

import pytest

from streams.engine import partitions as processing
from streams.errors import Fenced
from tests.processing_doubles import Gate, Script, running, settle


async def test_next_batch_begins_beside_one_that_lets_it_and_is_acked_after_it() -> None:
    script = Script(gates={1: Gate()}, go_on=frozenset({1}))
    async with running(script, 0) as work:
        for number in (1, 2, 3):
            work.submit(script.batch(number))
        await settle()
        assert script.finished == [2, 3]
        assert script.acked == []
        script.gates[1].opened.set()
        await settle()

        assert script.acked == [1, 2, 3]


async def test_several_that_wait_are_acked_in_their_order_whichever_is_done_first() -> None:
    script = Script(gates={1: Gate(), 2: Gate()}, go_on=frozenset({1, 2}))
    async with running(script, 0) as work:
        for number in (1, 2, 3):
            work.submit(script.batch(number))
        await settle()
        script.gates[2].opened.set()
        await settle()
        assert script.acked == []
        script.gates[1].opened.set()
        await settle()

        assert script.acked == [1, 2, 3]


async def test_one_that_fails_while_others_go_on_ends_the_process_and_nothing_behind_it_is_acked() -> None:
    script = Script(gates={1: Gate()}, go_on=frozenset({1}), failures={1: Fenced("gone")})
    async with running(script, 0) as work:
        work.submit(script.batch(1))
        work.submit(script.batch(2))
        await settle()
        script.gates[1].opened.set()
        await settle()
        work.submit(script.batch(3))
        await settle()

        assert str(work.failure.result()) == "gone"
        assert script.acked == []


async def test_with_many_records_that_are_not_done_no_further_batch_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processing, "UNDONE_RECORDS", 3)
    script = Script(gates={1: Gate()}, go_on=frozenset({1}))
    async with running(script, 0) as work:
        for offsets in ((1, 2), (3, 4), (5,)):
            work.submit(script.batch(*offsets))
        await settle()
        assert script.begun == [1, 3]
        script.gates[1].opened.set()
        await settle()

        assert script.acked == [2, 4, 5]


async def test_what_is_not_done_when_its_generation_ends_is_cancelled_and_read_again() -> None:
    script = Script(gates={1: Gate()}, go_on=frozenset({1}))
    async with running(script, 0) as work:
        work.submit(script.batch(1))
        work.submit(script.batch(2))
        await settle()
        script.generation = 2
        script.gates[1].opened = asyncio.Event()
        work.submit(script.batch(1))
        await settle()
        assert script.begun == [1, 2, 1]
        assert script.acked == []
        script.gates[1].opened.set()
        await settle()

        assert script.finished == [2, 1]
        assert script.acked == [1]


async def test_what_is_not_done_when_its_partition_is_given_up_is_cancelled() -> None:
    script = Script(gates={1: Gate()}, go_on=frozenset({1}))
    async with running(script, 0) as work:
        work.submit(script.batch(1))
        await settle()
        work.assign([])
        await settle()
        script.gates[1].opened.set()
        await settle()

        assert script.finished == script.acked == []
        assert script.workers[0].closed
