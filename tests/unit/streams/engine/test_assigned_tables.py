"""What the partitions of a worker hold beside their rows, and how they wait for each other where settings have changed."""

import asyncio

import pytest

from streams.engine.assigned_tables import AssignedTables, PartitionTable
from streams.engine.changelog import SETTINGS_KEY
from streams.errors import SettingsRefused
from streams.settings import Settings
from tests.processing_doubles import settle
from tests.transaction_doubles import CHANGELOG, Alarms


def assigned(stage: Alarms, *, accepts_changes: bool = False) -> AssignedTables:
    return AssignedTables(Settings(partitions=4), stage, CHANGELOG, accepts_changes=accepts_changes)


def restored(tables: AssignedTables, number: int, former: bytes | None, *ats: int) -> PartitionTable:
    table = tables.new(number)
    for row, at in enumerate(ats):
        table.rows.apply(b"team %d" % row, b"%d" % at)
    if former is not None:
        table.rows.apply(SETTINGS_KEY, former)
    table.on_restored()
    return table


async def test_tables_with_a_time_that_has_passed_or_with_other_settings_wait_once_they_are_restored() -> None:
    tables = assigned(Alarms(b"hobby"), accepts_changes=True)
    for number, (former, at) in enumerate(((b"hobby", 0), (b"hobby", 10), (b"free", 0), (None, 0))):
        table = restored(tables, number, former, at)
        assert number not in tables.waiting(10)
        await tables.settle(table)

    assert sorted(tables.waiting(9)) == [2]
    assert sorted(tables.waiting(10)) == [1, 2]


async def test_table_that_is_forgotten_or_let_go_waits_for_nothing() -> None:
    tables = assigned(Alarms())
    first, second = restored(tables, 0, None, 1), restored(tables, 1, None, 1)
    for table in (first, second):
        await tables.settle(table)
    assert sorted(tables.waiting(10)) == [0, 1]

    first.forget()
    tables.let_go(second)

    assert list(tables.waiting(10)) == []


async def test_table_whose_settings_are_committed_needs_nothing_more() -> None:
    table = restored(assigned(Alarms(b"hobby")), 0, b"free", 0)
    assert (table.needs_settings, table.change is not None) == (True, True)

    table.committed()

    assert (table.needs_settings, table.change) == (False, None)


async def test_table_of_the_present_settings_waits_for_no_other() -> None:
    tables = assigned(Alarms(b"hobby"))
    table = restored(tables, 0, b"hobby", 0)
    tables.new(1)

    await tables.settle(table)


async def test_tables_that_are_refused_are_counted_together_and_each_is_told() -> None:
    tables = assigned(Alarms(b"hobby", refuses=True))
    several = [restored(tables, 0, b"free", 0, 0), restored(tables, 1, b"free", 0), restored(tables, 2, None)]
    settling = [asyncio.ensure_future(tables.settle(table)) for table in several[:2]]
    await settle()
    assert not any(task.done() for task in settling)

    settling.append(asyncio.ensure_future(tables.settle(several[2])))
    errors = await asyncio.gather(*settling, return_exceptions=True)

    assert {str(error) for error in errors} == {"3 of 3 rows would be hobby, and were free."}
    assert all(isinstance(error, SettingsRefused) for error in errors)


async def test_tables_whose_change_is_accepted_wait_for_no_other() -> None:
    tables = assigned(Alarms(b"hobby", refuses=True), accepts_changes=True)
    table = restored(tables, 0, b"free", 0)
    tables.new(1)

    await tables.settle(table)

    assert table.change is not None
    assert [output.key for output in table.change.outputs()] == [b"team 0"]


async def test_tables_without_a_row_that_would_change_are_not_refused() -> None:
    tables = assigned(Alarms(b"hobby", refuses=True))

    await tables.settle(restored(tables, 0, b"free"))


@pytest.mark.parametrize("former", [None, b"free"])
async def test_table_goes_on_once_the_one_that_it_waits_for_is_let_go(former: bytes | None) -> None:
    tables = assigned(Alarms(b"hobby"))
    table, other = restored(tables, 0, former), tables.new(1)
    settling = asyncio.ensure_future(tables.settle(table))
    await settle()
    assert not settling.done()

    tables.let_go(other)

    await asyncio.wait_for(settling, 5)
