"""A table partition and its positions: what stands in the changelog, and when a position can not be gone on from."""

from collections import Counter
from dataclasses import replace

import pytest

from schemas.reasons import Reason
from streams.engine.changelog import (
    POSITION_PREFIX,
    SETTINGS_KEY,
    InputPartition,
    Position,
    TablePartition,
    checked,
    decode_position,
    encode_position,
    position_key,
)
from streams.errors import PositionError

GROUP = "tierstream.classify"
FOUND = InputPartition("team.events", 3, topic_id="A", first=10, end=100, committed=50)


def position(next_offset: int, topic_id: str = "A") -> Position:
    return Position(topic_id, next_offset)


# The position row


@pytest.mark.parametrize("kept", [Position("A", 0), Position("B-C_d", 2**53, {"renewal": 3, "upgraded": 1}, "log")])
def test_position_survives_the_changelog(kept: Position) -> None:
    assert decode_position(encode_position(kept)) == kept


def test_position_of_an_older_version_without_counts_can_be_read() -> None:
    assert decode_position(b'{"topic_id":"A","next_offset":7}') == Position("A", 7)


def test_position_advances_and_adds_up_the_outcomes() -> None:
    first = Position("A", 10, {}, "log").advanced(15, Counter({Reason.RENEWAL: 4, Reason.UPGRADED: 1}))
    second = first.advanced(17, Counter({Reason.RENEWAL: 1, Reason.MALFORMED: 1}))

    assert second == Position("A", 17, {"renewal": 5, "upgraded": 1, "malformed": 1}, "log")
    assert sum(second.outcomes.values()) == 17 - 10
    assert first.outcomes == {"renewal": 4, "upgraded": 1}, "a position is never changed in place"


def test_position_key_names_its_topic_and_can_be_no_key_of_a_row() -> None:
    key = position_key("x.team.events")
    assert key == POSITION_PREFIX + b"x.team.events"
    assert key.startswith(b"\x00"), "no team id and no subscription id does"


# The settings row


def test_settings_row_is_no_row_of_the_table_and_the_newest_counts() -> None:
    table = TablePartition(0)
    before = table.settings
    for value in (b"free", b"hobby"):
        table.apply(SETTINGS_KEY, value)

    assert before is None, "as in a changelog of an older version"
    assert (table.settings, table.rows, table.positions) == (b"hobby", {}, {})
    assert SETTINGS_KEY.startswith(b"\x00"), "no team id and no subscription id does"
    table.forget()
    assert table.settings is None


# Going on from a position


def test_checked_a_table_that_never_read_starts_where_the_log_begins() -> None:
    assert checked(None, replace(FOUND, committed=0), GROUP) == Position("A", 10)


@pytest.mark.parametrize(
    "next_offset",
    [pytest.param(50, id="where the group is"), pytest.param(70, id="ahead of the group"), pytest.param(100, id="at the log's end")],
)
def test_checked_a_position_inside_the_log_and_not_behind_the_group_is_right(next_offset: int) -> None:
    kept = Position("A", next_offset, {"renewal": 1})
    assert checked(kept, FOUND, GROUP) is kept


def test_checked_a_position_before_retentions_cut_goes_on() -> None:
    """The records are gone, whoever is to blame; stopping would not bring them back."""
    kept = position(5)
    assert checked(kept, replace(FOUND, committed=5), GROUP) is kept


@pytest.mark.parametrize(
    ("kept", "found", "because"),
    [
        pytest.param(None, FOUND, "its group has read up to 50: the changelog is gone", id="no position, yet the group has read"),
        pytest.param(None, replace(FOUND, committed=10), "the changelog is gone", id="the same, and all it read has expired"),
        pytest.param(position(60, "B"), FOUND, "was deleted and made anew", id="another topic of the same name"),
        pytest.param(position(101), FOUND, "lies beyond the log's end 100: the log was cut", id="beyond the end"),
        pytest.param(position(49), FOUND, "is behind the 50 that its group has read", id="behind the group"),
    ],
)
def test_checked_a_position_that_would_skip_or_repeat_stops_with_one_sentence(
    kept: Position | None, found: InputPartition, because: str
) -> None:
    with pytest.raises(PositionError) as stopped:
        checked(kept, found, GROUP)

    sentence = str(stopped.value)
    assert because in sentence
    assert "team.events, partition 3" in sentence
    assert f"delete the changelog and the consumer group {GROUP}" in sentence, "both: the one without the other stops again"
    assert "\n" not in sentence
    assert stopped.value.exit_code == 1


def test_checked_a_position_names_the_changelog_that_its_rows_stand_in_and_another_one_is_not_it() -> None:
    found = replace(FOUND, committed=50, changelog="teams-changelog", changelog_id="log")
    first = checked(None, replace(found, committed=0), GROUP)
    assert first.changelog_id == checked(position(50), found, GROUP).changelog_id == "log", "also where an older version wrote none"

    assert checked(Position("A", 50, {}, "log"), found, GROUP).changelog_id == "log"
    with pytest.raises(PositionError, match=r"^teams-changelog was deleted and made anew: it does not hold the table's rows\. If that"):
        checked(Position("A", 50, {}, "another"), found, GROUP)


@pytest.mark.parametrize("committed", [70, 0], ids=["where the group is", "the group's offset has expired"])
def test_checked_a_position_that_agrees_is_right(committed: int) -> None:
    kept = position(70)
    assert checked(kept, replace(FOUND, committed=committed), GROUP) is kept
