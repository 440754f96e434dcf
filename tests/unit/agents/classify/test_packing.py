"""A team's row as it stands in the changelog: packed, read again, and of an earlier format."""

from typing import Any

import msgspec
import pytest

from agents.classify.packing import due_at, pack, unpack
from agents.classify.registers import EMPTY, Row, Standing, standing
from schemas.tiers import Tier
from tests.factories import Team, billing, claim, override
from tests.register_factories import FULL, active, at, claimed, ended, ending, overridden


@pytest.mark.parametrize("row", [EMPTY, active(EMPTY, 1), ended(EMPTY, 1), ending(active(EMPTY, 1), 2, 99), claimed(EMPTY, 1, None), FULL])
def test_row_packed_and_unpacked_is_the_same_row(row: Row) -> None:
    again = unpack(pack(row))

    assert again == row
    assert pack(again) == pack(row)


def test_row_unpacked_merges_like_the_one_in_memory() -> None:
    assert active(unpack(pack(FULL)), 9, "D") == active(FULL, 9, "D")


@pytest.mark.parametrize("packed", [b"", b"\x00" + pack(EMPTY)[1:], b"\x04" + pack(EMPTY)[1:], b"{}"])
def test_row_of_another_format_is_refused_by_name(packed: bytes) -> None:
    with pytest.raises(ValueError, match=r"format .* is unknown"):
        unpack(packed)


FORMER: list[object] = [
    {
        # plan_pro, then plan_team, and back on plan_pro; halted; completed, and paid up to 99
        "A": [1, at(9), "plan_pro", int(Tier.PRO), None, {"plan_pro": at(1), "plan_team": at(5)}],
        "B": [2, at(5, 7), "plan_growth", int(Tier.GROWTH), at(3), {"plan_growth": at(2)}, 0],
        "C": [1, at(4), "plan_hobby", int(Tier.HOBBY), None, {"plan_hobby": at(0)}, 99],
        "D": [0, None, "", 0, None, {}, 99],
    },
    {"E": at(3, 9)},
    True,
]


@pytest.mark.parametrize("row_format", [b"\x01", b"\x02"])
def test_row_of_a_former_format_says_what_it_said(row_format: bytes) -> None:
    row = unpack(row_format + msgspec.msgpack.encode(FORMER))

    assert (row.state("A").since, row.state("A").plan_id, row.state("A").tier) == (at(1), "plan_pro", Tier.PRO)
    assert row.state("B").out_since == at(5, 7)
    assert row.state("C").coming_times() == (99,)
    assert (row.ended, row.unstarted, row.paid) == ({"E": at(3, 9)}, {}, True)
    assert standing(row, Tier.FREE) == Standing(Tier.PRO, 1, "A")
    assert unpack(pack(row)) == row


def test_row_of_a_former_format_keeps_what_stood_against_an_override() -> None:
    row = overridden(unpack(b"\x02" + msgspec.msgpack.encode(FORMER)), 3, Tier.TEAM)

    assert standing(row, Tier.FREE).tier is Tier.TEAM, "as before; the next change of plan decides anew"
    assert standing(active(row, 12), Tier.FREE).tier is Tier.TEAM
    assert standing(active(active(row, 12, plan="plan_growth"), 13), Tier.FREE).tier is Tier.PRO


def test_due_at_is_the_earliest_time_to_come() -> None:
    row = ending(active(ending(active(EMPTY, 1), 2, 99), 3, "B"), 4, 50, "B")

    assert due_at(pack(row)) == 50
    assert due_at(pack(EMPTY)) == due_at(pack(active(EMPTY, 1))) == 0
    assert due_at(b"\x02" + msgspec.msgpack.encode(FORMER)) == 99


def test_row_with_ids_of_services_is_read_by_a_release_that_does_not_know_of_them() -> None:
    class Former(msgspec.Struct, frozen=True, array_like=True):
        live: dict[str, Any] = {}
        ended: dict[str, Any] = {}
        paid: bool = False
        override: Any = None

    packed = pack(Team(override(1, "pro")).row)

    assert msgspec.msgpack.decode(packed[6:], type=Former).override[1] == Tier.PRO


def test_row_costs_nothing_for_ids_that_it_does_not_hold() -> None:
    without, with_one = Team(billing("charged")).row, Team(billing("charged"), claim()).row
    assert len(msgspec.msgpack.decode(pack(without)[6:])) == 7
    assert len(msgspec.msgpack.decode(pack(with_one)[6:])) == 8
