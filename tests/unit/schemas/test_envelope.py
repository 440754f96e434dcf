"""The envelope that every record carries, the ids of what stages derive, and the one form of a team key."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

import pytest
from pydantic import BaseModel, ValidationError

from schemas.envelope import NIL_UUID, Envelope, canonical_team_id, derived_id

TEAM = "3f1c1f0e-6a55-4c5c-9a39-0a4d3c1f7b01"
PARTS = ("classify", "app", "1", TEAM, "subscription.upgraded")


class Anything(BaseModel):
    value: int = 0


def test_derived_id_of_the_same_input_is_the_same_for_ever() -> None:
    # Pinned: ids stand in audit logs and at Loops, so a release that changes them sends every mail of a replay again.
    assert derived_id(*PARTS) == "e0060122-3169-5e10-89f2-e45e7ca2cd3f"
    assert UUID(derived_id(*PARTS)).version == 5


@pytest.mark.parametrize("part", range(5))
def test_derived_id_differs_when_any_one_part_does(part: int) -> None:
    other = [*PARTS]
    other[part] += "x"

    assert derived_id(*other) != derived_id(*PARTS)


@pytest.mark.parametrize("parts", [PARTS, ("s", "source é", "id\x00", None, "k"), ("", "", "", "", ""), ("s", "a" * 500, "1", TEAM, "k")])
def test_derived_id_is_uuid5_of_the_parts(parts: tuple[str, str, str, str | None, str]) -> None:
    name = "\x1f".join(part or "" for part in parts)

    assert derived_id(*parts) == str(uuid5(UUID("7f1f2c38-6b4e-5d0e-9d53-7d8f0f0e5b1a"), name))


def test_derived_id_two_sources_that_both_say_1_do_not_collide() -> None:
    ids = {derived_id("classify", source, "1", TEAM, "near_quota_wall") for source in ("billing", "quota", "ab", "a")}
    assert len(ids) == 4


def test_derived_id_parts_do_not_run_into_each_other() -> None:
    assert derived_id("classify", "ab", "c", TEAM, "k") != derived_id("classify", "a", "bc", TEAM, "k")


def test_derived_id_without_a_team_is_an_id_of_its_own() -> None:
    assert derived_id("normalise", "razorpay", "1", None, "k") != derived_id("normalise", "razorpay", "1", TEAM, "k")


@pytest.mark.parametrize(
    "text",
    [
        TEAM,
        TEAM.upper(),
        f" {TEAM}\n",
        TEAM.replace("-", ""),
        f"{{{TEAM}}}",
        f"urn:uuid:{TEAM}",
    ],
)
def test_team_id_every_way_to_write_a_uuid_is_one_key(text: str) -> None:
    assert canonical_team_id(text) == TEAM


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        " ",
        "team_42",
        TEAM[:-1],
        TEAM + "0",
        TEAM.replace("3", "g"),
        "x" * 10_000,
        42,
        True,
        b"3f1c1f0e6a554c5c9a390a4d3c1f7b01",
        {"id": TEAM},
        [TEAM],
        UUID(TEAM),
    ],
)
def test_team_id_that_is_no_uuid_is_no_team(value: object) -> None:
    assert canonical_team_id(value) is None


@pytest.mark.parametrize(
    "text", ["+f1c1f0e-6a55-4c5c-9a39-0a4d3c1f7b01", "3f1c_f0e-6a55-4c5c-9a39-0a4d3c1f7b01", "3f1c1f0e-6a55-4c5c-9a39-0a4d3c1f7b0\uff11"]
)
def test_team_id_that_only_python_reads_as_a_number_is_no_team(text: str) -> None:
    assert canonical_team_id(text) is None


@pytest.mark.parametrize("text", [NIL_UUID, f" {NIL_UUID}", NIL_UUID.replace("-", ""), f"{{{NIL_UUID}}}", f"urn:uuid:{NIL_UUID}"])
def test_team_id_the_nil_uuid_is_no_team(text: str) -> None:
    assert canonical_team_id(text) is None


def envelope(**changes: Any) -> dict[str, Any]:
    return {"id": "1", "source": "app", "type": "near_quota_wall", "time": "2025-06-15T15:06:40Z", "data": {}} | changes


def test_envelope_defaults_to_cloudevents_1_0_in_json() -> None:
    read = Envelope[Anything].model_validate(envelope())

    assert (read.specversion, read.datacontenttype, read.subject) == ("1.0", "application/json", None)
    assert read.time == datetime(2025, 6, 15, 15, 6, 40, tzinfo=UTC)


def test_envelope_ignores_attributes_it_does_not_know() -> None:
    assert Envelope[Anything].model_validate(envelope(traceparent="00-1-2-3")).data == Anything()


def test_envelope_is_frozen() -> None:
    read = Envelope[Anything].model_validate(envelope())

    with pytest.raises(ValidationError):
        read.id = "2"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("specversion", "0.3"),
        ("id", ""),
        ("id", "x" * 101),
        ("source", ""),
        ("type", ""),
        ("time", "2025-06-15T15:06:40"),  # no offset
        ("time", "yesterday"),
        ("datacontenttype", "text/xml"),
        ("data", None),
        ("data", [1]),
    ],
)
def test_envelope_that_breaks_the_specification_is_rejected(field: str, value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        Envelope[Anything].model_validate(envelope(**{field: value}))

    assert [fault["loc"] for fault in caught.value.errors()] == [(field,)]
