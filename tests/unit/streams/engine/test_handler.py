"""A handler in which one record waits while others go on: what is begun beside it, what is acked, and what ends it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from prometheus_client import REGISTRY

from schemas.reasons import Reason
from streams.engine.handler import HandlerWorker
from streams.engine.partitions import Processing
from streams.errors import LoopsKeyRejected, StageFailed
from streams.kafka.records import Record
from tests.processing_doubles import DEADLINE_SECONDS, Script, settle


class Handler:
    """Holds the batches that begin with an offset of ``held`` until they are released, and says of ``stuck`` ones that nothing may go on."""

    def __init__(self, *held: int, stuck: int | None = None) -> None:
        self.held = {offset: asyncio.get_running_loop().create_future() for offset in held}
        self.stuck = stuck
        self.begun: list[int] = []
        self.given_up: list[int] = []
        self.progress = 0
        self.full: Sequence[tuple[str, int]] = ()

    def describe(self) -> str:
        return ""

    async def handle(self, records: Sequence[Record], let_go: Callable[[], object]) -> Counter[Reason]:
        number = records[0].offset
        self.begun.append(number)
        if number in self.held:
            if number != self.stuck:
                let_go()
            try:
                await self.held[number]
            except asyncio.CancelledError:
                self.given_up.append(number)
                raise
        return Counter({Reason.SENT: len(records)})


@asynccontextmanager
async def running(script: Script, handler: Handler, stage: str = "holding") -> AsyncIterator[Processing]:
    work = Processing(
        lambda _: HandlerWorker(stage, handler), lambda: script.generation, script, finish_seconds=0.05, batch_records=1, pace=0
    )
    work.assign([0])
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            yield work
    finally:
        await work.close()


def sent(stage: str) -> float:
    return REGISTRY.get_sample_value("tierstream_outcomes_total", {"stage": stage, "reason": "sent"}) or 0.0


async def test_batches_behind_a_held_one_are_handled_and_acked_with_it_when_it_is_durable() -> None:
    script, handler = Script(), Handler(1)
    async with running(script, handler, "acks") as work:
        for number in (1, 2, 3):
            work.submit(script.batch(number))
        await settle()
        assert handler.begun == [1, 2, 3]
        assert script.acked == []
        assert work.working == frozenset(), "what is left holds nothing up"
        assert sent("acks") == 2

        handler.held[1].set_result(None)
        await settle()
        assert script.acked == [3]
        assert sent("acks") == 3


async def test_batch_that_is_not_let_go_holds_up_the_next() -> None:
    script, handler = Script(), Handler(1, stuck=1)
    async with running(script, handler) as work:
        for number in (1, 2):
            work.submit(script.batch(number))
        await settle()
        assert handler.begun == [1]

        handler.held[1].set_result(None)
        await settle()
        assert script.acked == [1, 2]


async def test_held_batch_that_fails_ends_the_process_with_its_error() -> None:
    script, handler, error = Script(), Handler(1), LoopsKeyRejected("Loops rejects the key.")
    async with running(script, handler) as work:
        work.submit(script.batch(1))
        work.submit(script.batch(2))
        await settle()
        handler.held[1].set_exception(error)

        assert await work.failure is error
        assert script.acked == []


async def test_held_batch_that_raises_what_nobody_expects_ends_the_process_with_a_sentence() -> None:
    script, handler = Script(), Handler(1)
    async with running(script, handler) as work:
        work.submit(script.batch(1))
        await settle()
        handler.held[1].set_exception(KeyError("owner@example.com"))

        failure = await work.failure
        assert isinstance(failure, StageFailed)
        assert str(failure) == "Partition 0 failed with KeyError; the log above says where."


async def test_held_batch_of_a_partition_that_is_given_up_is_ended_and_not_acked() -> None:
    script, handler = Script(), Handler(1)
    async with running(script, handler) as work:
        work.submit(script.batch(1))
        work.submit(script.batch(2))
        await settle()
        work.assign([])
        await settle()

        assert handler.given_up == [1]
        assert script.acked == []
        assert not work.failure.done()


async def test_held_batch_of_a_former_generation_is_ended_before_it_is_read_again() -> None:
    script, handler = Script(), Handler(1)
    async with running(script, handler) as work:
        work.submit(script.batch(1))
        await settle()
        script.generation = 2
        work.assign([0])
        handler.held[7] = asyncio.get_running_loop().create_future()
        work.submit(script.batch(7))
        await settle()

        assert handler.given_up == [1]
        assert handler.begun == [1, 7]
        handler.held[7].set_result(None)
        await settle()
        assert script.acked == [7]
        assert not work.failure.done()


async def test_stop_ends_what_is_held_and_what_is_under_way() -> None:
    script, handler = Script(), Handler(1, 2, stuck=2)
    async with running(script, handler) as work:
        work.submit(script.batch(1))
        work.submit(script.batch(2))
        await settle()
        await work.close()

        assert sorted(handler.given_up) == [1, 2]
        assert script.acked == []
        assert not work.failure.done()


async def test_topics_of_a_partition_do_not_wait_for_each_other_and_are_acked_by_themselves() -> None:
    script, handler = Script(), Handler(1, stuck=1)
    work = Processing(
        lambda _: HandlerWorker("topics", handler), lambda: script.generation, script, topics=["a", "b"], batch_records=1, pace=0
    )
    work.assign([0])
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            work.submit(script.batch(1, topic="a"))
            for number in (2, 3):
                work.submit(script.batch(number, topic="b"))
            await settle()
            assert work.working == frozenset({("a", 0)})
            assert script.acked == [2, 3]

            handler.held[1].set_result(None)
            await settle()
            assert script.acked == [2, 3, 1]
            work.assign([])
            await settle()
            assert work.partitions == frozenset()
    finally:
        await work.close()
