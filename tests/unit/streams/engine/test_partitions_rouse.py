"""Batches without records: what waits in a partition's worker, and not on a topic, takes its turn like any other."""

from tests.processing_doubles import TOPIC, Gate, Script, running, settle


async def test_roused_partition_works_a_batch_without_records_in_and_acks_nothing() -> None:
    script = Script()
    async with running(script, 0) as work:
        work.assign([0], script.generation)
        work.rouse(TOPIC, 0)
        await settle()

    assert script.batches == [[]]
    assert script.acked == []


async def test_partition_that_is_roused_again_and_again_has_one_batch_that_waits() -> None:
    script = Script(gates={1: Gate()})
    async with running(script, 0) as work:
        work.assign([0], script.generation)
        work.submit(script.batch(1))
        await script.gates[1].reached.wait()
        for _ in range(5):
            work.rouse(TOPIC, 0)
        script.gates[1].opened.set()
        await settle()

    assert script.batches == [[1], []]
    assert script.paused == set()


async def test_batch_that_comes_while_a_roused_one_waits_takes_its_place() -> None:
    script = Script(gates={1: Gate()})
    async with running(script, 0) as work:
        work.assign([0], script.generation)
        work.submit(script.batch(1))
        await script.gates[1].reached.wait()
        work.rouse(TOPIC, 0)
        work.submit(script.batch(2))
        assert script.paused == set(), "one batch waits, and not two"
        script.gates[1].opened.set()
        await settle()

    assert script.batches == [[1], [2]]
    assert script.acked == [1, 2]


async def test_roused_partition_where_a_batch_waits_gets_none_of_its_own() -> None:
    script = Script(gates={1: Gate()})
    async with running(script, 0) as work:
        work.assign([0], script.generation)
        for number in (1, 2):
            work.submit(script.batch(number))
        await script.gates[1].reached.wait()
        work.rouse(TOPIC, 0)
        script.gates[1].opened.set()
        await settle()

    assert script.batches == [[1], [2]]


async def test_rouse_does_nothing_for_a_partition_that_is_not_ours_or_in_a_generation_that_assigned_none() -> None:
    """A generation that has begun is not yet one in which the partitions are known."""
    script = Script()
    async with running(script, 0) as work:
        work.rouse(TOPIC, 0)
        await settle()
        work.assign([0], script.generation)
        work.rouse(TOPIC, 1)
        await settle()
        script.generation += 1
        work.rouse(TOPIC, 0)
        await settle()
        assert script.batches == []

        work.assign([0], script.generation)
        work.rouse(TOPIC, 0)
        await settle()

    assert script.batches == [[]]


async def test_roused_partition_waits_for_the_end_of_a_rebalance() -> None:
    script = Script()
    async with running(script, 0) as work:
        work.assign([0], script.generation)
        await work.pause()
        work.rouse(TOPIC, 0)
        await settle()
        assert script.batches == []
        script.generation += 1
        work.assign([0], script.generation)
        await settle()

    assert script.batches == [], "it was of the generation before"
