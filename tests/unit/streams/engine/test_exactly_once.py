"""What a worker commits together, due records among it: what a rollback leaves, and what waits for whom."""

import asyncio
from functools import partial

import pytest

from streams.engine import exactly_once
from streams.engine.changelog import Position, encode_position, position_key
from streams.engine.transactions import Output
from streams.errors import GenerationEnded, ProducerLost
from streams.kafka.partitioner import partition_of
from tests.processing_doubles import settle
from tests.transaction_doubles import CHANGELOG, INPUT, Alarms, Bench, MemoryLog, with_rows, working

# One transaction for what comes together


async def test_batches_that_come_one_after_the_other_share_a_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    log = MemoryLog(partitions=4)
    keys = {partition_of(key, 4): key for key in (b"team %d" % number for number in range(50))}

    async def work_in(bench: Bench, number: int) -> None:
        for partition in range(4):
            bench.put(keys[partition], b"due 1", partition)
            bench.fetch(partition)
            await asyncio.sleep(0.001)
        await bench.until(lambda: log.offsets == {(INPUT, partition): number for partition in range(4)})

    async with working(monkeypatch, log, Alarms(), 0, 1, 2, 3) as bench:
        await work_in(bench, 1)  # now all of them are restored
        log.transactions.clear()
        monkeypatch.setattr(exactly_once, "JOIN_SECONDS", 0.2)

        await work_in(bench, 2)

    assert len(log.transactions) == 1


async def test_transaction_with_enough_records_waits_for_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exactly_once, "JOIN_RECORDS", 2)
    log = MemoryLog()
    async with working(monkeypatch, log, Alarms()) as bench:
        monkeypatch.setattr(exactly_once, "JOIN_SECONDS", 3600.0)
        bench.put(b"team", b"wake 100")
        bench.put(b"team", b"wake 200")
        bench.fetch()
        await bench.until(bench.reached)


# Due records


async def test_due_record_is_produced_once_its_time_has_passed_and_decided_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    log = MemoryLog()
    async with working(monkeypatch, log, Alarms()) as bench:
        bench.put(b"team", b"wake 100")
        await bench.work()
        bench.now[0] = 99.9
        bench.transactions.rouse()
        await settle()
        assert log.values(INPUT) == [b"wake 100"]

        bench.now[0] = 100
        bench.transactions.rouse()
        await bench.until(lambda: len(log.values(INPUT)) == 2)
        bench.transactions.rouse()
        await bench.work()
        bench.transactions.rouse()
        await settle()

    assert log.values(INPUT) == [b"wake 100", b"due 100"]
    assert log.records[CHANGELOG, 0][-2:] == [
        Output(CHANGELOG, b"team", b"0", [], 0),
        Output(CHANGELOG, position_key(INPUT), encode_position(Position("id", 2, {"renewal": 1, "canceled": 1})), partition=0),
    ]


async def test_due_records_are_committed_with_the_present_position_and_offset_of_their_partition(monkeypatch: pytest.MonkeyPatch) -> None:
    log = with_rows(100)
    async with working(monkeypatch, log, Alarms(), now=100) as bench:
        await bench.roused_until(lambda: len(log.transactions) > 0)

    (committed,) = log.transactions
    assert committed == [
        Output(INPUT, b"team 0", b"due 100", partition=0),
        Output(CHANGELOG, position_key(INPUT), encode_position(Position("id", 0)), partition=0),
    ]
    assert log.offsets == {(INPUT, 0): 0}


async def test_due_records_share_a_transaction_with_the_input_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    log = with_rows(100)
    async with working(monkeypatch, log, Alarms(), now=100) as bench:
        bench.put(b"other", b"wake 500")
        await bench.work()

    first = log.transactions[0]
    assert [(output.topic, output.value) for output in first[:2]] == [(INPUT, b"due 100"), (CHANGELOG, b"500")]


async def test_due_record_of_a_row_that_has_changed_since_is_not_produced(monkeypatch: pytest.MonkeyPatch) -> None:
    log = with_rows(100)
    async with working(monkeypatch, log, Alarms(), now=50) as bench:
        bench.put(b"team 0", b"wake 0")
        await bench.work()
        committed = len(log.transactions)
        bench.now[0] = 1_000
        bench.transactions.rouse()
        await settle()

    assert log.values(INPUT) == [b"wake 0"]
    assert len(log.transactions) == committed, "and no transaction is made for it"


async def test_due_records_of_a_long_downtime_are_produced_in_bounded_transactions_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exactly_once, "DUE_RECORDS", 10)
    log = with_rows(*range(1, 26))
    async with working(monkeypatch, log, Alarms(), now=1_000) as bench:
        await bench.until(lambda: list(bench.transactions.tables.waiting(1_000)) == [0])
        bench.transactions.rouse()  # once: the rest follows by itself
        await bench.until(lambda: len(log.values(INPUT)) == 25)

    assert [len([output for output in transaction if output.topic == INPUT]) for transaction in log.transactions] == [10, 10, 5]
    assert log.values(INPUT) == [b"due %d" % at for at in range(1, 26)]


async def test_due_records_of_several_partitions_share_what_a_transaction_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exactly_once, "DUE_RECORDS", 10)
    log = MemoryLog(partitions=3)
    for partition in range(3):
        with_rows(*range(1, 16), partition=partition, log=log)
    async with working(monkeypatch, log, Alarms(), 0, 1, 2, now=1_000) as bench:
        await bench.until(lambda: sorted(bench.transactions.tables.waiting(1_000)) == [0, 1, 2])
        bench.transactions.rouse()
        await bench.until(lambda: sum(len(log.values(INPUT, partition)) for partition in range(3)) == 45)

    assert all(sum(output.topic == INPUT for output in transaction) <= 10 for transaction in log.transactions)
    assert [log.values(INPUT, partition) for partition in range(3)] == [[b"due %d" % at for at in range(1, 16)]] * 3


async def test_due_records_of_a_generation_that_is_over_are_not_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    log = with_rows(100)
    async with working(monkeypatch, log, Alarms(), now=0) as bench:
        await bench.until(lambda: bench.takeover.restores == 1)
        bench.now[0] = 100
        log.failures.append(GenerationEnded("The group has gone on."))
        await bench.roused_until(lambda: log.failures == [])
        asked = bench.takeover.asked
        bench.transactions.rouse()
        await settle()
        assert log.transactions == []
        assert bench.takeover.asked == asked, "nothing is tried again before there is another generation"

        log.generation += 1
        bench.processing.assign([0], log.generation)
        await bench.roused_until(lambda: len(log.transactions) > 0)

    assert log.values(INPUT) == [b"due 100"]


async def test_nothing_is_produced_for_a_partition_that_is_ours_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    log = with_rows(100)
    async with working(monkeypatch, log, Alarms(), now=0) as bench:
        await bench.until(lambda: bench.takeover.restores == 1)
        log.generation += 1
        bench.processing.assign([], log.generation)
        bench.now[0] = 100
        await settle()
        bench.transactions.rouse()
        await settle()
        assert list(bench.transactions.tables.waiting(100)) == []

    assert log.transactions == []


async def test_nothing_is_produced_while_the_assignment_of_a_generation_is_not_known_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The consumer knows of a generation before anybody is told which partitions are ours in it."""
    log = with_rows(100)
    async with working(monkeypatch, log, Alarms(), now=0) as bench:
        await bench.until(lambda: bench.takeover.restores == 1)
        log.generation += 1
        bench.now[0] = 100
        for _ in range(3):
            bench.transactions.rouse()
            await settle()
        assert log.transactions == []

        bench.processing.assign([0], log.generation)
        await bench.roused_until(lambda: len(log.transactions) > 0)


async def test_nothing_is_produced_before_a_partition_is_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    log = with_rows(100)
    async with working(monkeypatch, log, Alarms(), now=100, holds=[0]) as bench:
        for _ in range(3):
            bench.transactions.rouse()
            await settle()
        assert log.transactions == []

        bench.takeover.holds[0].set()
        await bench.roused_until(lambda: len(log.transactions) > 0)


async def test_due_records_of_a_producer_that_was_lost_are_produced_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    log = with_rows(100)
    async with working(monkeypatch, log, Alarms(), now=100) as bench:
        log.failures.append(ProducerLost("Kafka has forgotten this producer."))
        await bench.roused_until(lambda: len(log.transactions) > 0)
        await bench.work()

    assert log.values(INPUT) == [b"due 100"]
    assert bench.takeover.restores == 2


async def test_due_record_that_is_produced_again_after_a_crash_is_the_same_and_a_duplicate(monkeypatch: pytest.MonkeyPatch) -> None:
    log = with_rows(100)
    for times in (1, 2):  # the worker ends between the production and the decision
        async with working(monkeypatch, log, Alarms(), now=100) as bench:
            await bench.roused_until(partial(committed, log, times))
    async with working(monkeypatch, log, Alarms(), now=100) as bench:
        bench.put(b"other", b"anything")
        await bench.work()

    assert log.values(INPUT)[:2] == [b"due 100"] * 2
    positions = [output.value for output in log.records[CHANGELOG, 0] if output.key == position_key(INPUT)]
    assert b'"canceled":1' in (positions[-1] or b"")
    assert b'"duplicate"' in (positions[-1] or b"")


def committed(log: MemoryLog, times: int) -> bool:
    return len(log.transactions) == times


class FailsForOne(Alarms):
    """With a release in it that can not say what has passed for one row."""

    def due_records(self, key: bytes, packed: bytes, now: int) -> list[Output]:
        if key == b"team 0":
            raise ZeroDivisionError
        return list(super().due_records(key, packed, now))


async def test_due_record_that_can_not_be_made_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    log = with_rows(100, 101)
    async with working(monkeypatch, log, FailsForOne(), now=200) as bench:
        await bench.roused_until(lambda: len(log.transactions) > 0)

    assert log.values(INPUT) == [b"due 101"]


async def test_worker_whose_commit_was_refused_takes_nothing_over_before_it_is_in_the_group_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until then the owner of what it has lost goes on committing, and the table would seem to be ahead of its group."""
    log = MemoryLog()
    async with working(monkeypatch, log, Alarms()) as bench:
        await bench.until(lambda: bench.takeover.asked == 1)
        log.failures.append(GenerationEnded("The group has gone on."))
        bench.put(b"team", b"wake 100")
        bench.fetch()
        await bench.until(lambda: log.failures == [])
        await asyncio.sleep(3 * exactly_once.REJOIN_SECONDS)
        assert bench.takeover.asked == 1

        log.generation += 1
        bench.processing.assign([0], log.generation)
        await bench.until(lambda: bench.takeover.asked == 2)
