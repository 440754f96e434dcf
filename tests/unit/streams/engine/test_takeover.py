"""When a table that is in memory may be kept: only if no transaction can have come in between."""

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast

import pytest

from streams.engine import takeover
from streams.engine.changelog import InputPartition, Position, TablePartition
from streams.engine.takeover import Broker, Offsets, Takeover, agrees, offsets_behind
from streams.errors import KafkaUnavailable, PositionError
from streams.settings import Settings

WEBHOOKS, LINKS = "razorpay.webhooks", "subscription.links"


def table(**next_offsets: int) -> TablePartition:
    names = {"webhooks": WEBHOOKS, "links": LINKS}
    return TablePartition(2, positions={names[name]: Position("A", at, {"renewal": at}) for name, at in next_offsets.items()})


@pytest.mark.parametrize(
    ("held", "committed", "kept"),
    [
        pytest.param(table(webhooks=7, links=3), {(WEBHOOKS, 2): 7, (LINKS, 2): 3}, True, id="as committed"),
        pytest.param(table(webhooks=7, links=3), {(WEBHOOKS, 2): 8, (LINKS, 2): 3}, False, id="another owner has gone on"),
        pytest.param(table(webhooks=7, links=3), {(WEBHOOKS, 2): 7, (LINKS, 2): 2}, False, id="the group's offset was moved back"),
        pytest.param(table(webhooks=7), {(WEBHOOKS, 2): 7, (LINKS, 2): 3}, False, id="a position is lacking"),
        pytest.param(table(), {}, False, id="nothing is in memory"),
        pytest.param(table(webhooks=7, links=3), {(WEBHOOKS, 2): 7}, False, id="the group has lost an offset"),
        pytest.param(table(webhooks=7, links=3), {(WEBHOOKS, 1): 7, (LINKS, 1): 3}, False, id="the offsets of another partition"),
    ],
)
def test_agrees_only_where_every_position_is_the_groups_offset(held: TablePartition, committed: Offsets, kept: bool) -> None:
    assert agrees(held, (WEBHOOKS, LINKS), committed) is kept


def test_agrees_an_input_that_nothing_was_read_of_has_no_offset() -> None:
    held = table(webhooks=7)
    held.positions[LINKS] = Position("B", 0)

    assert agrees(held, (WEBHOOKS, LINKS), {(WEBHOOKS, 2): 7})


class _Silent:
    """An admin client whose answer does not come, as when the process has stood still meanwhile."""

    def list_topics(self, topic: str, timeout: float) -> None: ...

    def list_consumer_group_offsets(self, request: Any, **_: object) -> dict[str, Future[Any]]:
        return {request[0].group_id: Future()}


def test_stable_offsets_without_an_answer_in_time_kafka_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(takeover, "CALL_SECONDS", 0.01)
    broker = Broker(Settings(kafka_bootstrap_servers="127.0.0.1:1"), "classify", "changelog", [WEBHOOKS])
    monkeypatch.setattr(broker, "_client", _Silent)

    with pytest.raises(KafkaUnavailable, match="offsets of classify"):
        broker.stable_offsets([0])


class Moved:
    """A Broker of a group whose offset of partition 2 is another one than its table's position says; that of partition 3 is as it should be."""

    group, changelog, topics = "normalise", "changelog", (WEBHOOKS,)

    def __init__(self) -> None:
        self.is_asked, self.may_answer = threading.Event(), threading.Event()
        self.offsets = {2: 179, 3: 181}

    def stable_offsets(self, numbers: Sequence[int]) -> Offsets:
        return {(WEBHOOKS, number): self.offsets[number] for number in numbers}

    def changelog_ends(self, numbers: Sequence[int]) -> dict[int, int]:
        self.is_asked.set()
        assert self.may_answer.wait(10)
        return dict.fromkeys(numbers, 9)

    def inputs(self, numbers: Sequence[int], committed: Offsets) -> list[InputPartition]:
        return [InputPartition(WEBHOOKS, number, "A", 0, 1_000, committed[WEBHOOKS, number], "changelog", "B") for number in numbers]

    def close(self) -> None: ...


async def test_offsets_that_another_owner_moves_while_positions_are_read_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a worker that was stalled, and does not know yet that it owns the partition no more."""
    read: list[int] = []

    def restore(settings: Settings, changelog: str, tables: Sequence[TablePartition], ends: object, on_read: object) -> int:
        read.append(181 + 2 * len(read))
        broker.offsets[2] = read[-1]
        tables[0].positions[WEBHOOKS] = Position("A", read[-1] if len(read) < 3 else 183, {"renewal": 1})
        return 1

    monkeypatch.setattr(takeover, "restore", restore)
    broker, moved = Moved(), TablePartition(2)
    broker.may_answer.set()
    with ThreadPoolExecutor(1) as pool:
        taking = Takeover(Settings(), "normalise", cast(Broker, broker), pool)
        await taking.take_over(moved)

    assert (moved.positions[WEBHOOKS].next_offset, read) == (183, [181, 183, 185])


async def test_offsets_that_stay_behind_are_reported_and_the_position_counts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def restore(settings: Settings, changelog: str, tables: Sequence[TablePartition], ends: object, on_read: object) -> int:
        tables[0].positions[WEBHOOKS] = Position("A", 181, {"renewal": 1})
        return 1

    monkeypatch.setattr(takeover, "restore", restore)
    broker, behind = Moved(), TablePartition(2)
    broker.may_answer.set()
    with ThreadPoolExecutor(1) as pool:
        await Takeover(Settings(), "normalise", cast(Broker, broker), pool).take_over(behind)

    assert behind.positions[WEBHOOKS].next_offset == 181
    assert "offset=179 partition=2 position=181" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("held", "committed", "behind"),
    [
        pytest.param(table(webhooks=7, links=3), {(WEBHOOKS, 2): 7, (LINKS, 2): 3}, [], id="as committed"),
        pytest.param(table(webhooks=7, links=3), {(WEBHOOKS, 2): 7, (LINKS, 2): 1}, [(LINKS, 2, 3, 1)], id="one went back"),
        pytest.param(table(webhooks=7, links=3), {(WEBHOOKS, 2): 7}, [], id="one has expired"),
        pytest.param(table(webhooks=7), {(WEBHOOKS, 2): 9}, [], id="ahead: that is no going back"),
    ],
)
def test_offsets_behind_are_those_of_inputs_that_the_table_has_read_further(
    held: TablePartition, committed: Offsets, behind: list[tuple[str, int, int, int]]
) -> None:
    assert offsets_behind(held, committed) == behind


@pytest.mark.parametrize("given_up", [True, False])
async def test_partition_that_was_given_up_meanwhile_says_nothing_of_the_others(monkeypatch: pytest.MonkeyPatch, given_up: bool) -> None:
    def restore(settings: Settings, changelog: str, tables: Sequence[TablePartition], ends: object, on_read: object) -> int:
        for each in tables:
            each.positions[WEBHOOKS] = Position("A", {2: 170, 3: 181}[each.number], {"renewal": 1})
        return 1

    monkeypatch.setattr(takeover, "restore", restore)
    broker, moved, kept = Moved(), TablePartition(2), TablePartition(3)
    with ThreadPoolExecutor(1) as pool:
        taking = Takeover(Settings(), "normalise", cast(Broker, broker), pool)
        both = [asyncio.create_task(taking.take_over(table)) for table in (moved, kept)]
        assert await asyncio.to_thread(broker.is_asked.wait, 10)
        if given_up:
            both[0].cancel()
            await asyncio.wait({both[0]})
        broker.may_answer.set()
        await asyncio.wait(both)

    if given_up:
        assert (both[1].exception(), kept.positions[WEBHOOKS].next_offset) == (None, 181)
    else:
        assert all(isinstance(task.exception(), PositionError) for task in both)
