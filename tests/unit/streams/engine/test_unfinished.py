"""Batches whose rest goes on: acked in their order, each only when all of it and of those before it is durable."""

import asyncio
from dataclasses import dataclass, field
from functools import partial

import pytest

from streams.engine.unfinished import Rest, Unfinished
from tests.processing_doubles import settle


@dataclass
class Bench:
    acked: list[int] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)
    ends: dict[int, "asyncio.Future[None]"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.unfinished = Unfinished(self.failures.append)

    def add(self, number: int, *, rest: bool) -> Rest | None:
        """Add a batch of that number, durable or with a rest that ends with ``ends[number]``."""
        task = None
        if rest:
            self.ends[number] = asyncio.get_running_loop().create_future()
            task = asyncio.create_task(asyncio.wait_for(self.ends[number], None))
        self.unfinished.add(partial(self.acked.append, number), task)
        return task


async def test_batch_that_is_durable_is_acked_at_once() -> None:
    bench = Bench()
    for number in range(3):
        bench.add(number, rest=False)

    assert bench.acked == [0, 1, 2]


async def test_batch_behind_a_rest_is_acked_when_the_rest_has_ended_and_one_ack_covers_those_between() -> None:
    bench = Bench()
    for number, rest in enumerate((True, False, False, True, False)):
        bench.add(number, rest=rest)
    await settle()
    assert bench.acked == []

    bench.ends[0].set_result(None)
    await settle()
    assert bench.acked == [2], "up to the next that is not durable"
    bench.ends[3].set_result(None)
    await settle()
    assert bench.acked == [2, 4]


async def test_rests_that_end_in_any_order_are_acked_in_their_own() -> None:
    bench = Bench()
    for number in range(3):
        bench.add(number, rest=True)
    for number in (2, 1):
        bench.ends[number].set_result(None)
    await settle()
    assert bench.acked == []

    bench.ends[0].set_result(None)
    await settle()
    assert bench.acked == [2]


async def test_rest_that_fails_is_reported_and_nothing_from_it_on_is_acked() -> None:
    bench, error = Bench(), ConnectionAbortedError()
    for number in range(2):
        bench.add(number, rest=True)
    bench.ends[0].set_exception(error)
    bench.ends[1].set_result(None)
    await settle()

    assert bench.failures == [error]
    assert bench.acked == []


async def test_rest_that_somebody_cancels_is_a_failure_for_else_its_batch_would_never_be_acked() -> None:
    bench = Bench()
    rest = bench.add(0, rest=True)
    assert rest is not None
    rest.cancel()
    await settle()

    assert [type(error) for error in bench.failures] == [asyncio.CancelledError]


@pytest.mark.parametrize("given_up", ["abandoned", "in another generation"])
async def test_batches_that_are_given_up_are_never_acked_and_their_rests_are_ended(given_up: str) -> None:
    bench = Bench()
    await bench.unfinished.enter(1)
    rest = bench.add(0, rest=True)
    bench.add(1, rest=False)
    await bench.unfinished.enter(1)
    assert rest is not None
    assert not rest.done()

    if given_up == "abandoned":
        bench.unfinished.abandon()
        await settle()
    else:
        await bench.unfinished.enter(2)

    assert rest.cancelled()
    assert (bench.acked, bench.failures) == ([], [])
    bench.add(5, rest=False)
    assert bench.acked == [5]
