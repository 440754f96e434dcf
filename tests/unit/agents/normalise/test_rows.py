"""How the row of a subscription is kept."""

import msgspec
import pytest

from agents.normalise.ownership import NOBODYS, Claim, Ownership, claimed, learned
from agents.normalise.rows import EMPTY, Row, pack, unpack

CLAIM = Claim("A", 1, 3, 1, "evt_1", "created_at", "plan_pro", "pro", "active")


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(EMPTY, id="empty"),
        pytest.param(Row(Ownership((CLAIM,))), id="claims"),
        pytest.param(Row(learned(NOBODYS, "A"), b"a digest and an id"), id="a team that was learned, and deliveries"),
    ],
)
def test_row_is_packed_and_unpacked(row: Row) -> None:
    assert unpack(pack(row)) == row


def test_row_of_the_first_format_is_a_claim_older_than_anything() -> None:
    row = unpack(b"3f1c1f0e-6a55-4c5c-9a39-0a4d3c1f7b01")

    assert row.ownership.team_at((0, 0, 0, "")) == "3f1c1f0e-6a55-4c5c-9a39-0a4d3c1f7b01"
    assert unpack(pack(row)) == row
    later = Claim("B", 0, 3, 0, "evt", "created_at")
    assert claimed(row.ownership, later)[1] == [("3f1c1f0e-6a55-4c5c-9a39-0a4d3c1f7b01", later)]


def test_row_that_knew_of_no_deliveries_is_read() -> None:
    packed = b"\x01" + msgspec.msgpack.encode([[CLAIM], None])
    assert unpack(packed) == Row(Ownership((CLAIM,)))


def test_row_is_read_by_a_release_that_knows_of_no_deliveries() -> None:
    class Former(msgspec.Struct, frozen=True, array_like=True):
        claims: tuple[Claim, ...] = ()
        learned: str | None = None

    packed = pack(Row(Ownership((CLAIM,)), b"a digest and an id"))

    assert msgspec.msgpack.decode(packed[1:], type=Former) == Former((CLAIM,))
