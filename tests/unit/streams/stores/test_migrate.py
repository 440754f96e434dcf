"""Which migrations are applied."""

import re

import pytest

from streams.errors import MigrationError
from streams.stores.migrate import Migration, plan, read_migrations

ONE = Migration("0001_one.sql", "create table if not exists one (id int);")
TWO = Migration("0002_two.sql", "create table if not exists two (id int);")
MORE = Migration("0003_one_more.sql", "alter table one add column if not exists name text;")
ALL = (ONE, TWO, MORE)
RECORDED = {migration.name: migration.checksum for migration in ALL}
NOTHING: frozenset[str] = frozenset()


def test_plan_new_database_gets_every_file_in_order() -> None:
    assert plan(ALL, {}, NOTHING) == ALL


def test_plan_recorded_files_are_left_out() -> None:
    assert plan(ALL, {ONE.name: ONE.checksum}, NOTHING) == (TWO, MORE)
    assert plan(ALL, RECORDED, NOTHING) == ()


def test_plan_missing_table_brings_back_every_file_that_mentions_it() -> None:
    assert plan(ALL, RECORDED, frozenset({"one"})) == (ONE, MORE)


def test_plan_changed_file_is_one_clear_error() -> None:
    with pytest.raises(MigrationError, match=r"^Migration 0001_one.sql has been changed since it was applied; put the file back"):
        plan(ALL, {ONE.name: "another"}, NOTHING)


def test_plan_names_of_a_newer_version_are_left_alone() -> None:
    assert plan(ALL, {**RECORDED, "0009_later.sql": "x"}, NOTHING) == ()


def test_read_migrations_files_are_numbered_without_a_gap() -> None:
    numbers = [int(migration.name[:4]) for migration in read_migrations()]

    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("migration", read_migrations(), ids=lambda migration: migration.name)
def test_read_migrations_each_statement_can_be_applied_again(migration: Migration) -> None:
    code = re.sub(r"--.*", "", migration.sql)

    for statement in filter(None, map(str.strip, code.split(";"))):
        assert "if not exists" in statement.lower(), statement
