"""Which privileges there are, and which SQL grants them."""

import re

import pytest

from streams.errors import ConfigurationError
from streams.stores.migrate import read_migrations
from streams.stores.roles import PRIVILEGES, TABLES, checked_prefix, checksum, granted, statements


def test_tables_are_those_of_the_migrations_and_their_bookkeeping() -> None:
    assert set(TABLES) == {table for migration in read_migrations() for table in migration.creates} | {"schema_migrations"}


def test_no_role_deletes_or_truncates_or_alters_and_none_touches_the_bookkeeping() -> None:
    privileges = {privilege for tables in PRIVILEGES.values() for granted_ones in tables.values() for privilege in granted_ones}

    assert privileges == {"select", "insert", "update"}
    assert not any("schema_migrations" in tables for tables in PRIVILEGES.values())


def test_nobody_changes_a_row_of_the_audit_log_and_one_role_alone_adds_some() -> None:
    assert [role for role, tables in PRIVILEGES.items() if "update" in tables.get("audit_log", ())] == []
    assert [role for role, tables in PRIVILEGES.items() if "insert" in tables.get("audit_log", ())] == ["audit"]


def test_who_sends_mail_sees_no_row_of_the_audit_log() -> None:
    assert [role for role, tables in PRIVILEGES.items() if "audit_log" not in tables] == ["forward", "feedback"]


def test_statements_first_take_everything_away_and_name_only_the_roles_that_are_there() -> None:
    first, *others = statements("t_", "app", ["audit", "reader"])

    assert first.startswith("revoke all on table ")
    assert all(f'"app".{table}' in first for table in TABLES)
    assert first.endswith(" from t_audit, t_reader")
    assert 'grant select, insert on table "app".audit_log to t_audit' in others
    assert {name for statement in others for name in re.findall(r"\bt_\w+", statement)} == {"t_audit", "t_reader"}


@pytest.mark.parametrize("prefix", ["tierstream_", "_", "a1_"])
def test_prefix_that_needs_no_quotes_is_taken(prefix: str) -> None:
    assert checked_prefix(prefix) == prefix


@pytest.mark.parametrize("prefix", ["", "1_", "Tier", "a-b", 'a"; drop table x; --', "a b", "a" * 42, "a\n"])
def test_prefix_that_would_need_quotes_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^--role-prefix "):
        checked_prefix(prefix)


def test_granted_reads_the_prefixes_and_whether_the_privileges_are_those_of_now() -> None:
    recorded = {"0001_audit_log.sql": "x", "roles:a_": checksum(), "roles:b_": "of another version"}

    assert granted(recorded) == {"a_": True, "b_": False}
