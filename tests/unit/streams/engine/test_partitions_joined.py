"""Small batches that wait become one, and a partition's pace gives them the time to: order, acks, the hold, pauses and their end."""

import asyncio
import time

from streams.engine import partitions as processing
from streams.engine.partitions import QUEUED_BATCHES
from tests.processing_doubles import TOPIC, Gate, Script, running, settle
from tests.waiting import eventually

OTHER_TOPIC = "subscription.links"

ALWAYS = 1e9
"""A pace at which each pause is as long as one may be."""

LONG = 60.0
"""Seconds of a pause that no test sits out."""


async def test_small_batches_that_wait_become_one_in_order() -> None:
    script = Script(gates={1: Gate()})
    async with running(script, 0, batch_records=100) as work:
        work.submit(script.batch(1, 2))
        await script.gates[1].reached.wait()
        work.submit(script.batch(3))
        work.submit(script.batch(4, 6))
        work.submit(script.batch(7))
        script.gates[1].opened.set()
        await settle()

    assert script.batches == [[1, 2], [3, 4, 6, 7]]


async def test_joined_batch_is_acked_once_for_its_last_part_and_only_when_done() -> None:
    script = Script(gates={1: Gate(), 2: Gate()})
    async with running(script, 0, batch_records=100) as work:
        work.submit(script.batch(1))
        await script.gates[1].reached.wait()
        work.submit(script.batch(2))
        work.submit(script.batch(3))
        script.gates[1].opened.set()
        await script.gates[2].reached.wait()
        await settle()
        assert script.acked == [1]
        script.gates[2].opened.set()
        await settle()

        assert script.acked == [1, 3]


async def test_what_comes_while_a_joined_batch_is_under_way_is_no_part_of_it() -> None:
    script = Script(gates={1: Gate(), 2: Gate()})
    async with running(script, 0, batch_records=100) as work:
        work.submit(script.batch(1))
        await script.gates[1].reached.wait()
        work.submit(script.batch(2))
        work.submit(script.batch(3))
        script.gates[1].opened.set()
        await script.gates[2].reached.wait()
        work.submit(script.batch(4))
        script.gates[2].opened.set()
        await settle()

    assert script.batches == [[1], [2, 3], [4]]
    assert script.acked == [1, 3, 4]


async def test_failing_joined_batch_is_acked_for_none_of_its_parts() -> None:
    script = Script(gates={1: Gate()}, failures={2: RuntimeError("no")})
    async with running(script, 0, batch_records=100) as work:
        work.submit(script.batch(1))
        await script.gates[1].reached.wait()
        work.submit(script.batch(2))
        work.submit(script.batch(3))
        script.gates[1].opened.set()
        await settle()

        assert script.batches == [[1], [2, 3]]
        assert script.acked == [1]
        assert work.failure.done()


async def test_batches_of_two_topics_are_not_joined() -> None:
    script = Script(gates={1: Gate()})
    async with running(script, 0, batch_records=100) as work:
        work.submit(script.batch(1))
        await script.gates[1].reached.wait()
        work.submit(script.batch(2))
        work.submit(script.batch(11, topic=OTHER_TOPIC))
        work.submit(script.batch(12, topic=OTHER_TOPIC))
        work.submit(script.batch(3))
        script.gates[1].opened.set()
        await settle()

    assert script.batches == [[1], [2], [11, 12], [3]]
    assert script.acked == [1, 2, 12, 3]


async def test_batches_of_two_generations_are_not_joined_and_the_earlier_ones_part_is_not_begun() -> None:
    script = Script(gates={1: Gate()})
    async with running(script, 0, batch_records=100) as work:
        work.submit(script.batch(1))
        await script.gates[1].reached.wait()
        work.submit(script.batch(2))
        work.submit(script.batch(3))
        script.generation = 2
        work.assign([0])
        work.submit(script.batch(4))
        work.submit(script.batch(5))
        script.gates[1].opened.set()
        await settle()

    assert script.batches == [[1], [4, 5]]
    assert script.acked == [1, 5]


async def test_what_is_read_again_is_no_part_of_the_batch_that_holds_it() -> None:
    """A worker skips what it has done where a batch begins, so that a batch's offsets have to rise."""
    script = Script(gates={1: Gate()})
    async with running(script, 0, batch_records=100) as work:
        work.submit(script.batch(1))
        await script.gates[1].reached.wait()
        work.submit(script.batch(2, 3))
        work.submit(script.batch(3, 4))
        script.gates[1].opened.set()
        await settle()

    assert script.batches == [[1], [2, 3], [3, 4]]


async def test_batch_that_waits_with_enough_records_takes_in_no_more() -> None:
    script = Script(gates={1: Gate()})
    async with running(script, 0, batch_records=3) as work:
        work.submit(script.batch(1))
        await script.gates[1].reached.wait()
        work.submit(script.batch(2, 3))
        work.submit(script.batch(4, 5))
        work.submit(script.batch(6))
        work.submit(script.batch(7))
        script.gates[1].opened.set()
        await settle()

    assert script.batches == [[1], [2, 3, 4, 5], [6, 7]]


async def test_batch_that_waits_with_enough_bytes_takes_in_no_more() -> None:
    half = bytes(processing.BATCH_BYTES // 2)
    script = Script(gates={1: Gate()})
    async with running(script, 0, batch_records=100) as work:
        work.submit(script.batch(1))
        await script.gates[1].reached.wait()
        for offset in range(2, 7):
            work.submit(script.batch(offset, value=half))
        script.gates[1].opened.set()
        await settle()

    assert script.batches == [[1], [2, 3], [4, 5], [6]]


async def test_joined_batch_counts_as_one_for_the_hold() -> None:
    script = Script(gates={1: Gate(), 2: Gate()})
    async with running(script, 0, batch_records=3) as work:
        work.submit(script.batch(1))
        await script.gates[1].reached.wait()
        offsets = iter(range(2, 100))
        for _ in range(3 * (QUEUED_BATCHES - 1)):
            work.submit(script.batch(next(offsets)))
            assert script.paused == set()
        work.submit(script.batch(next(offsets)))
        assert script.paused == {(TOPIC, 0)}

        script.gates[1].opened.set()
        await script.gates[2].reached.wait()
        assert script.paused == set()


async def test_next_batch_begins_no_sooner_than_the_pace_says_and_takes_in_what_came_meanwhile() -> None:
    script = Script(work_seconds=0.02)
    async with running(script, 0, batch_records=100, pace=50, pace_seconds=LONG) as work:
        before = time.monotonic()
        work.submit(script.batch(1))
        await eventually(lambda: script.begun)
        work.submit(script.batch(2))
        await eventually(lambda: script.acked)
        work.submit(script.batch(3))
        await eventually(lambda: script.acked == [1, 3])

    assert script.batches == [[1], [2, 3]]
    assert script.times[1] - before >= 50 * 0.02


async def test_pause_is_no_longer_than_the_longest() -> None:
    script = Script(work_seconds=0.02)
    async with running(script, 0, pace=ALWAYS, pace_seconds=0.2) as work:
        before = time.monotonic()
        work.submit(script.batch(1))
        work.submit(script.batch(2))
        await eventually(lambda: script.acked == [1, 2])

    assert script.times[1] - before >= 0.2


async def test_first_batch_of_a_partition_waits_for_nothing() -> None:
    script = Script()
    async with running(script, 0, 1, batch_records=100, pace=ALWAYS, pace_seconds=LONG) as work:
        work.submit(script.batch(1, partition=0))
        await settle()
        work.submit(script.batch(11, partition=1))
        await settle()

        assert script.acked == [1, 11], "a partition's pace is its own"


async def test_lone_batch_after_the_pause_waits_for_nothing() -> None:
    script = Script()
    async with running(script, 0, batch_records=100, pace=ALWAYS, pace_seconds=0.1) as work:
        work.submit(script.batch(1))
        await eventually(lambda: script.acked)
        may_begin_at = time.monotonic() + 0.1
        await eventually(lambda: time.monotonic() > may_begin_at)
        work.submit(script.batch(2))
        await settle()

        assert script.acked == [1, 2]


async def test_full_partition_does_not_wait_for_the_pace() -> None:
    script = Script()
    async with running(script, 0, pace=ALWAYS, pace_seconds=LONG) as work:
        work.submit(script.batch(1))
        await settle()
        offsets = range(2, 2 + QUEUED_BATCHES)
        for offset in offsets[:-1]:
            work.submit(script.batch(offset))
        await settle()
        assert script.begun == [1]

        work.submit(script.batch(offsets[-1]))
        await settle()

        assert script.begun == [1, 2], "the others are not many enough any more, and wait"
        assert script.paused == set()


async def test_full_partition_pauses_again_once_it_is_full_no_more() -> None:
    script = Script()
    async with running(script, 0, pace=ALWAYS, pace_seconds=LONG) as work:
        for offset in range(1, 2 * QUEUED_BATCHES + 2):
            work.submit(script.batch(offset))
        await settle()
        first = list(script.begun)
        work.submit(script.batch(50))
        await settle()

        assert first == list(range(1, QUEUED_BATCHES + 3))
        assert script.begun == list(range(1, QUEUED_BATCHES + 4))


async def test_without_a_pace_nothing_waits() -> None:
    script = Script()
    async with running(script, 0, batch_records=100, pace=0, pace_seconds=LONG) as work:
        for offset in range(1, 6):
            work.submit(script.batch(offset))
            await settle()

        assert script.batches == [[1], [2], [3], [4], [5]]


async def test_pause_during_a_pause_returns_at_once() -> None:
    script = Script()
    async with running(script, 0, batch_records=100, pace=ALWAYS, pace_seconds=LONG) as work:
        work.submit(script.batch(1))
        await settle()
        work.submit(script.batch(2))
        resting = asyncio.create_task(work.pause())
        await settle()

        assert resting.done()
        assert script.begun == [1]


async def test_batch_whose_pause_ends_while_resting_is_begun_after_the_assignment() -> None:
    script = Script()
    async with running(script, 0, batch_records=100, pace=ALWAYS, pace_seconds=0.1) as work:
        work.submit(script.batch(1))
        await settle()
        work.submit(script.batch(2))
        await work.pause()
        over = time.monotonic() + 0.2
        await eventually(lambda: time.monotonic() > over)
        assert script.begun == [1]

        work.assign([0])
        await eventually(lambda: script.acked == [1, 2])


async def test_batch_whose_generation_ends_during_the_pause_is_not_begun() -> None:
    script = Script()
    async with running(script, 0, batch_records=100, pace=ALWAYS, pace_seconds=0.1) as work:
        work.submit(script.batch(1))
        await settle()
        work.submit(script.batch(2))
        await work.pause()
        script.generation = 2
        work.assign([0])
        work.submit(script.batch(3))
        await eventually(lambda: script.acked == [1, 3])

    assert script.begun == [1, 3]


async def test_partition_given_up_during_a_pause_is_let_go_at_once() -> None:
    script = Script()
    async with running(script, 0, batch_records=100, pace=ALWAYS, pace_seconds=LONG) as work:
        work.submit(script.batch(1))
        await settle()
        work.submit(script.batch(2))
        await settle()
        work.assign([])
        await settle()

        assert script.workers[0].closed
        assert script.begun == script.acked == [1]
        assert not work.failure.done()


async def test_close_during_a_pause_ends_at_once() -> None:
    script = Script()
    async with running(script, 0, batch_records=100, pace=ALWAYS, pace_seconds=LONG) as work:
        work.submit(script.batch(1))
        await settle()
        work.submit(script.batch(2))
        await settle()
        closing = asyncio.create_task(work.close())
        await settle()

        assert closing.done()
        assert script.workers[0].closed
        assert script.begun == script.acked == [1]
