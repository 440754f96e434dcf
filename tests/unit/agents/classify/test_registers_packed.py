"""A team's row as it stands in the changelog: packed, read again, and of an earlier format."""

import msgspec
import pytest

from agents.classify.registers import EMPTY, Row, merge_coming_end, pack, unpack
from schemas.tiers import Tier
from tests.register_factories import FULL, active, at, claimed, ended, halted


@pytest.mark.parametrize("row", [EMPTY, active(EMPTY, 1), ended(EMPTY, 1), merge_coming_end(EMPTY, "A", 99), claimed(EMPTY, 1, None), FULL])
def test_row_packed_and_unpacked_is_the_same_row(row: Row) -> None:
    again = unpack(pack(row))

    assert again == row
    assert pack(again) == pack(row)


def test_row_unpacked_merges_like_the_one_in_memory() -> None:
    assert active(unpack(pack(FULL)), 9, "D") == active(FULL, 9, "D")


@pytest.mark.parametrize("packed", [b"", b"\x00" + pack(EMPTY)[1:], b"\x03" + pack(EMPTY)[1:], b"{}"])
def test_row_of_another_format_is_refused_by_name(packed: bytes) -> None:
    with pytest.raises(ValueError, match=r"format .* is unknown"):
        unpack(packed)


def test_row_of_the_first_format_is_read_as_if_it_were_of_this_one() -> None:
    first, second = at(1), at(2)
    row = active(halted(active(active(EMPTY, 1), 2, plan="plan_team", tier=Tier.TEAM), 5, "B"), 3, "B")
    of_first_format = [
        {
            "A": [1, second, "plan_team", int(Tier.TEAM), second, {"plan_pro": first, "plan_team": second}, 0],
            "B": [2, at(5, 7), "plan_pro", int(Tier.PRO), at(3), {"plan_pro": at(3)}, 0],
        },
        {},
        True,
        None,
        None,
        None,
    ]

    again = unpack(b"\x01" + msgspec.msgpack.encode(of_first_format))

    assert again == row
    assert pack(again) == pack(row)
