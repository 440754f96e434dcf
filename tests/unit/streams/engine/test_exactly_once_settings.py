"""Settings in a worker's transactions: what they change of the rows is committed before any input."""

import pytest

from streams.engine import exactly_once
from streams.engine.changelog import SETTINGS_KEY, position_key
from streams.engine.transactions import Output
from streams.errors import GenerationEnded, SettingsRefused
from tests.processing_doubles import settle
from tests.transaction_doubles import CHANGELOG, CURRENT, INPUT, Alarms, MemoryLog, with_rows, working


async def test_settings_are_written_with_the_first_transaction_of_a_partition_that_knows_none(monkeypatch: pytest.MonkeyPatch) -> None:
    log = with_rows(0)
    async with working(monkeypatch, log, Alarms(b"free", refuses=True)) as bench:
        await bench.until(lambda: bench.takeover.restores == 1)
        bench.transactions.rouse()
        await settle()
        assert log.transactions == []
        for value in (b"wake 0", b"wake 1"):
            bench.put(b"team 0", value)
            await bench.work()

    stamps = [output for output in log.records[CHANGELOG, 0] if output.key == SETTINGS_KEY]
    assert stamps == [Output(CHANGELOG, SETTINGS_KEY, b"free", partition=0)]
    assert stamps[0] in log.transactions[0]


async def test_settings_of_a_stage_without_any_are_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    log = MemoryLog()
    async with working(monkeypatch, log, Alarms()) as bench:
        bench.put(b"team", b"wake 9")
        await bench.work()

    assert SETTINGS_KEY not in [output.key for output in log.records[CHANGELOG, 0]]


async def test_settings_that_change_no_row_are_written_anew_without_input(monkeypatch: pytest.MonkeyPatch) -> None:
    log = with_rows(0, settings=b"free")
    async with working(monkeypatch, log, Alarms(b"hobby")) as bench:
        await bench.roused_until(lambda: len(log.transactions) > 0)
        await settle()
        bench.transactions.rouse()
        await settle()

    (committed,) = log.transactions
    assert [(output.topic, output.key) for output in committed] == [(CHANGELOG, SETTINGS_KEY), (CHANGELOG, position_key(INPUT))]
    assert committed[0].value == b"hobby"


async def test_settings_that_change_rows_are_refused_in_one_sentence_about_all_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    log = MemoryLog(partitions=3)
    with_rows(0, 0, settings=b"free", log=log)
    with_rows(0, 0, 0, settings=b"free", partition=1, log=log)
    with_rows(0, settings=b"hobby", partition=2, log=log)
    async with working(monkeypatch, log, Alarms(b"hobby", refuses=True), 0, 1, 2, holds=[1]) as bench:
        await bench.until(lambda: bench.takeover.restores == 2)
        bench.put(b"team 0", b"wake 9")
        bench.fetch()
        await settle()
        assert not bench.processing.failure.done()
        assert 0 in bench.processing.preparing, "the first waits to be counted together with the second"

        bench.takeover.holds[1].set()
        error = await bench.failure()

    assert isinstance(error, SettingsRefused)
    assert str(error) == "5 of 6 rows would be hobby, and were free."
    assert error.exit_code == 1
    assert log.transactions == []


async def test_settings_that_would_change_rows_where_there_are_none_refuse_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    log = MemoryLog(partitions=2)
    with_rows(settings=b"free", log=log)
    with_rows(settings=b"free", partition=1, log=log)
    async with working(monkeypatch, log, Alarms(b"hobby", refuses=True), 0, 1) as bench:
        await bench.roused_until(lambda: log.offsets.keys() == {(INPUT, 0), (INPUT, 1)})

    assert [log.values(CHANGELOG, partition)[-2] for partition in range(2)] == [b"hobby"] * 2


async def test_settings_that_are_accepted_emit_all_rows_anew_before_any_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exactly_once, "CHANGE_RECORDS", 2)
    log = with_rows(0, 0, 0, 0, 0, settings=b"free")
    async with working(monkeypatch, log, Alarms(b"hobby", refuses=True), accepts_changes=True) as bench:
        bench.put(b"team 0", b"wake 9")
        await bench.work()
        await settle()
        bench.transactions.rouse()
        await settle()

    first, second = log.transactions
    assert [(output.topic, output.key) for output in first] == [
        *((CURRENT, b"team %d" % number) for number in range(5)),
        (CHANGELOG, SETTINGS_KEY),
        (CHANGELOG, position_key(INPUT)),
    ]
    assert (second[0].topic, second[0].value) == (CHANGELOG, b"9")


async def test_settings_that_are_accepted_take_effect_in_the_next_generation_where_one_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    log = with_rows(0, settings=b"free")
    async with working(monkeypatch, log, Alarms(b"hobby", refuses=True), accepts_changes=True) as bench:
        log.failures.append(GenerationEnded("The group has gone on."))
        await bench.roused_until(lambda: log.failures == [])
        assert log.transactions == []

        log.generation += 1
        bench.processing.assign([0], log.generation)
        await bench.roused_until(lambda: len(log.transactions) > 0)

    assert log.values(CURRENT) == [b"hobby"]


async def test_settings_not_known_wait_for_those_of_a_partition_that_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a partition without settings decided meanwhile would have to be taken back."""
    log = MemoryLog(partitions=2)
    with_rows(0, settings=b"free", partition=1, log=log)
    async with working(monkeypatch, log, Alarms(b"hobby", refuses=True), 0, 1, holds=[1]) as bench:
        bench.put(b"new", b"wake 9")
        bench.fetch()
        await settle()
        bench.takeover.holds[1].set()
        assert isinstance(await bench.failure(), SettingsRefused)

    assert log.transactions == []


async def test_partition_that_waits_for_another_goes_on_when_that_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    log = MemoryLog(partitions=2)
    async with working(monkeypatch, log, Alarms(b"hobby"), 0, 1, holds=[1]) as bench:
        await bench.until(lambda: bench.takeover.restores == 1)
        bench.processing.assign([0], log.generation)
        bench.put(b"new", b"wake 9")
        await bench.work()

    assert (INPUT, 0) in log.offsets
