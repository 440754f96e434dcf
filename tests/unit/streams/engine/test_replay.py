"""Deciding again: what a replay makes of a log, and what the position rows say was counted."""

from collections import Counter

import pytest

from schemas.reasons import Reason
from streams.engine.changelog import Position, encode_position, position_key
from streams.engine.replay import Replayed, recorded_outcomes, replay
from streams.engine.table_stage import MAX_OUTPUT_BYTES, Effect, TableStage
from streams.engine.transactions import Output
from streams.kafka.partitioner import partition_of
from streams.kafka.records import Record
from tests.pretended_stack import record

PARTITIONS = 4


class Appending(TableStage):
    """A stage whose row of a key is everything that was said of it; it fails on ``b"poison"`` and swells on ``b"large"``."""

    name = "appending"

    def effect(self, record: Record, row: bytes | None) -> Effect:
        key, value = record.key or b"", record.value or b""
        if value == b"poison":
            raise ValueError("no")
        size = MAX_OUTPUT_BYTES + 1 if value == b"large" else 1
        return Effect(Reason.UPGRADED, (Output("out", key, b"x" * size),), (row or b"") + value)

    def pack(self, row: bytes) -> bytes:
        return row

    def unpack(self, _key: bytes, packed: bytes) -> bytes:
        return packed


def said(key: bytes, value: bytes, partition: int | None = None) -> Record:
    return record("in", key, value, partition=partition_of(key, PARTITIONS) if partition is None else partition)


def replayed(*records: Record) -> list[Replayed]:
    return list(replay(Appending(), records, PARTITIONS))


def test_replay_gives_each_record_the_row_that_the_records_before_it_left() -> None:
    first, other, second = replayed(said(b"a", b"1"), said(b"b", b"7"), said(b"a", b"2"))

    assert (first.before, first.after) == (None, b"1")
    assert (other.before, other.after) == (None, b"7")
    assert (second.before, second.after) == (b"1", b"12")


def test_replay_of_a_record_on_a_partition_of_another_key_is_rerouted_and_leaves_no_row() -> None:
    stray, *_, proper = replayed(said(b"a", b"1", (partition_of(b"a", PARTITIONS) + 1) % PARTITIONS), said(b"a", b"2"))

    assert stray.step.reason is Reason.REROUTED
    assert [(output.topic, output.key, output.value) for output in stray.step.outputs] == [("in", b"a", b"1")]
    assert proper.before is None


@pytest.mark.parametrize(("value", "reason"), [(b"poison", Reason.HANDLER_FAILED), (b"large", Reason.TOO_LARGE)])
def test_replay_of_what_the_worker_parks_has_its_reason_no_outputs_and_no_row(value: bytes, reason: Reason) -> None:
    (only,) = replayed(said(b"a", value))

    assert (only.step.reason, only.step.outputs, only.after) == (reason, (), None)
    assert only.step.error


def test_recorded_outcomes_are_the_sum_of_the_newest_position_row_of_each_partition_and_topic() -> None:
    def position(partition: int, topic: str, **outcomes: int) -> Record:
        return record("changelog", position_key(topic), encode_position(Position("id", 1, outcomes)), partition=partition)

    changelog = [
        position(0, "in", renewal=1),
        record("changelog", b"a", b"row"),
        position(0, "in", renewal=2, upgraded=1),
        position(1, "in", renewal=5),
        position(1, "links", linked=3),
    ]

    assert recorded_outcomes(changelog) == Counter(renewal=7, upgraded=1, linked=3)
    assert recorded_outcomes([]) == Counter()
