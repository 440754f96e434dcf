"""One task for each partition: order, independence, acks only for finished work, failures, rebalances."""

import asyncio
from collections.abc import Callable

import pytest

from streams.engine.partitions import QUEUED_BATCHES, Processing
from streams.errors import Fenced, GenerationEnded, StageFailed
from tests.processing_doubles import TOPIC, Gate, Script, running, settle
from tests.waiting import eventually


async def test_batches_of_a_partition_are_worked_in_and_acked_in_order() -> None:
    script = Script()
    async with running(script, 0) as work:
        for number in range(1, 8):
            work.submit(script.batch(number))
        await settle()

    assert script.begun == script.finished == script.acked == list(range(1, 8))


async def test_batches_of_two_topics_of_one_partition_are_worked_in_one_after_the_other() -> None:
    script = Script(gates={1: Gate()})
    async with running(script, 0) as work:
        work.submit(script.batch(1, topic="razorpay.webhooks"))
        work.submit(script.batch(2, topic="subscription.links"))
        await settle()
        assert script.begun == [1]
        script.gates[1].opened.set()
        await settle()

    assert script.acked == [1, 2]


async def test_a_batch_is_acked_only_after_its_work_is_done() -> None:
    script = Script(gates={1: Gate()})
    async with running(script, 0) as work:
        work.submit(script.batch(1))
        await script.gates[1].reached.wait()
        await settle()
        assert script.acked == []
        script.gates[1].opened.set()
        await settle()
        assert script.acked == [1]


async def test_a_slow_partition_holds_up_no_other() -> None:
    script = Script(gates={1: Gate()})
    async with running(script, 0, 1) as work:
        work.submit(script.batch(1, partition=0))
        for number in (2, 3, 4):
            work.submit(script.batch(number, partition=0))
        for number in (11, 12, 13):
            work.submit(script.batch(number, partition=1))
        await settle()

        assert script.acked == [11, 12, 13]


async def test_a_partition_that_is_being_restored_holds_up_no_other() -> None:
    script = Script(preparations={0: Gate()})
    async with running(script, 0, 1) as work:
        for number in range(1, 6):
            work.submit(script.batch(number, partition=0))
        work.submit(script.batch(11, partition=1))
        await settle()
        assert work.preparing == {0}
        assert script.acked == [11]
        script.preparations[0].opened.set()
        await settle()
        assert work.preparing == frozenset()

    assert script.acked == [11, 1, 2, 3, 4, 5]


async def test_a_partition_with_enough_batches_is_held_until_some_are_worked_in() -> None:
    script = Script(gates={1: Gate(), 2: Gate()})
    async with running(script, 0, 1) as work:
        work.submit(script.batch(1))
        await script.gates[1].reached.wait()
        for number in range(2, 2 + QUEUED_BATCHES):
            assert script.paused == set()
            work.submit(script.batch(number))
        assert script.paused == {(TOPIC, 0)}

        script.gates[1].opened.set()
        await script.gates[2].reached.wait()
        assert script.paused == set()


async def test_each_topic_of_a_full_partition_is_held_and_all_are_released() -> None:
    script = Script(gates={1: Gate()})
    async with running(script, 0) as work:
        work.submit(script.batch(1))
        await script.gates[1].reached.wait()
        for number in range(QUEUED_BATCHES):
            work.submit(script.batch(10 + number))
        work.submit(script.batch(20, topic="subscription.links"))
        assert script.paused == {(TOPIC, 0), ("subscription.links", 0)}
        script.gates[1].opened.set()
        await settle()
        assert script.paused == set()


async def test_a_full_partition_that_is_given_up_stops_nothing() -> None:
    """Whoever hands batches over must not wait for a partition whose task is gone."""
    script = Script(gates={1: Gate()})
    async with running(script, 0, 1) as work:
        for number in range(1, 10):
            work.submit(script.batch(number, partition=0))
        await script.gates[1].reached.wait()
        work.assign([1])
        work.submit(script.batch(11, partition=1))
        await settle()

        assert script.acked == [11]


async def test_a_batch_of_a_partition_that_is_not_ours_is_dropped() -> None:
    script = Script()
    async with running(script, 0) as work:
        work.submit(script.batch(1, partition=3))
        await settle()

    assert (script.begun, script.acked) == ([], [])


async def test_batches_of_an_earlier_generation_are_not_begun() -> None:
    script = Script(gates={1: Gate()})
    async with running(script, 0) as work:
        work.submit(script.batch(1))
        work.submit(script.batch(2))
        await script.gates[1].reached.wait()
        script.generation = 2
        work.assign([0])
        work.submit(script.batch(3))
        script.gates[1].opened.set()
        await settle()

    assert script.begun == [1, 3]
    assert script.acked == [1, 3], "what was under way at the rebalance is durable, and acked"
    assert len(script.workers) == 1, "a partition that stays keeps its task"


async def test_a_batch_whose_generation_is_over_is_not_acked_and_its_partition_is_prepared_anew() -> None:
    script = Script(failures={2: GenerationEnded("over")})
    async with running(script, 0) as work:
        for number in (1, 2):
            work.submit(script.batch(number))
        await settle()
        assert script.acked == [1]
        assert script.preparations_begun == [0, 0]
        assert not work.working
        assert not work.preparing

        script.generation, script.failures = 2, {}
        work.submit(script.batch(2))
        await settle()

        assert script.acked == [1, 2]
        assert not work.failure.done()


async def test_a_failing_batch_is_never_acked_and_ends_the_partition() -> None:
    script = Script(failures={2: Fenced("Another worker has taken over.")})
    async with running(script, 0) as work:
        for number in (1, 2, 3):
            work.submit(script.batch(number))
        await settle()

        assert script.acked == [1]
        assert script.begun == [1, 2]
        assert isinstance(work.failure.result(), Fenced)
        assert script.workers[0].closed


async def test_an_unforeseen_failure_becomes_one_sentence() -> None:
    script = Script(failures={1: KeyError("owner@example.com")})
    async with running(script, 5) as work:
        work.submit(script.batch(1, partition=5))
        await settle()

        error = work.failure.result()
        assert isinstance(error, StageFailed)
        assert str(error) == "Partition 5 failed with KeyError; the log above says where."


async def test_the_first_failure_is_the_one_that_counts() -> None:
    script = Script(failures={1: Fenced("first"), 11: Fenced("second")})
    async with running(script, 0, 1) as work:
        work.submit(script.batch(1, partition=0))
        await settle()
        work.submit(script.batch(11, partition=1))
        await settle()

        assert str(work.failure.result()) == "first"


async def test_a_failing_preparation_is_the_workers_failure_and_begins_no_batch() -> None:
    script = Script(preparation_failures={0: StageFailed("The table is gone.")})
    async with running(script, 0) as work:
        work.submit(script.batch(1))
        await settle()

        assert str(work.failure.result()) == "The table is gone."
        assert script.begun == []
        assert work.preparing == frozenset()
        assert script.workers[0].closed


async def test_a_partition_that_is_given_up_finishes_its_batch_without_an_ack_and_begins_no_other() -> None:
    script = Script(gates={1: Gate()})
    async with running(script, 0) as work:
        work.submit(script.batch(1))
        work.submit(script.batch(2))
        await script.gates[1].reached.wait()
        work.assign([])
        await settle()
        assert not script.workers[0].closed, "the batch is still under way"
        script.gates[1].opened.set()
        await settle()

        assert script.finished == script.begun == [1]
        assert script.acked == [], "the partition's next owner acks"
        assert script.workers[0].closed
        assert not work.failure.done()


async def test_a_batch_that_fails_after_its_partition_was_given_up_is_no_failure_of_ours() -> None:
    script = Script(gates={1: Gate()}, failures={1: Fenced("Another worker has taken over.")})
    async with running(script, 0) as work:
        work.submit(script.batch(1))
        await script.gates[1].reached.wait()
        work.assign([])
        script.gates[1].opened.set()
        await settle()

        assert not work.failure.done()
        assert script.acked == []


async def test_a_partition_that_comes_back_is_prepared_anew_while_its_old_batch_ends() -> None:
    script = Script(gates={1: Gate()})
    async with running(script, 0) as work:
        work.submit(script.batch(1))
        await script.gates[1].reached.wait()
        work.assign([])
        script.generation = 2
        work.assign([0])
        work.submit(script.batch(3))
        await settle()
        assert [worker.prepared for worker in script.workers] == [True, True]
        assert script.acked == [3]
        script.gates[1].opened.set()
        await settle()

        assert script.acked == [3]
        assert [worker.closed for worker in script.workers] == [True, False]


async def test_a_partition_given_up_while_it_is_prepared_closes_its_worker() -> None:
    script = Script(preparations={0: Gate()})
    async with running(script, 0) as work:
        await script.preparations[0].reached.wait()
        work.assign([])
        await settle()

        assert script.workers[0].closed
        assert work.preparing == frozenset()
        assert not work.failure.done()


async def test_close_waits_for_the_batches_under_way_and_acks_none_of_them() -> None:
    script = Script(gates={1: Gate(), 11: Gate()})
    async with running(script, 0, 1) as work:
        work.submit(script.batch(1, partition=0))
        work.submit(script.batch(11, partition=1))
        await script.gates[1].reached.wait()
        await script.gates[11].reached.wait()
        closing = asyncio.create_task(work.close())
        await settle()
        assert not closing.done()
        script.gates[1].opened.set()
        script.gates[11].opened.set()
        await closing

    assert sorted(script.finished) == [1, 11]
    assert script.acked == []
    assert all(worker.closed for worker in script.workers)


@pytest.mark.parametrize("give_up", [lambda work: work.assign([]), lambda _: None], ids=["a rebalance", "the end"])
async def test_a_batch_that_does_not_end_is_left_after_a_while(give_up: Callable[[Processing], None]) -> None:
    """It may wait for Kafka, or for minutes of mails: neither a stop nor the partition's next owner has to wait for it."""
    script = Script(gates={1: Gate()})
    async with running(script, 0, finish_seconds=0.05) as work:
        work.submit(script.batch(1))
        await script.gates[1].reached.wait()
        give_up(work)
        tasks = asyncio.all_tasks()
        if work.partitions:
            await work.close()
        else:
            await eventually(lambda: script.workers[0].closed)
        await settle()

        assert script.acked == script.finished == []
        assert [task for task in tasks if not task.done() and task is not asyncio.current_task()] == []


async def test_assigned_is_said_of_an_empty_assignment_too() -> None:
    work = Processing(Script().worker, lambda: 1, Script())
    assert not work.assigned
    work.assign([])
    assert work.assigned
    assert work.partitions == frozenset()
