"""What services may send: everything their contract allows, nothing else, and no fault repeats a value."""

import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from schemas.envelope import Envelope
from schemas.kinds import SERVICE_KINDS, Kind
from schemas.service_events import MAX_DEPTH, Fault, Invalid
from schemas.team_events import MAX_CLOCK_SKEW_SECONDS, SERVICE_DATA, Data
from streams.gateway.ingest import MAX_EVENTS, MAX_FAULTS, accept, read_events

NOW = datetime(2025, 10, 9, 8, 53, 20, tzinfo=UTC)
TEAM = "3f1c1f0e-6a55-4c5c-9a39-0a4d3c1f7b01"
OTHER_TEAM = "9d0f7f57-63b8-4d0c-9c0e-1c2f5f7f2b02"

Json = dict[str, Any]

DATA: dict[Kind, Json] = {
    Kind.CLAIMED: {"email": "jane@example.com", "user_id": "u-1", "tier": "hobby", "name": "Jane"},
    Kind.NEAR_QUOTA_WALL: {"resource_type": "seats", "used": 9, "limit": 10.5, "unit": "seats"},
    Kind.EXPERIMENT_CONVERSION: {"experiment": "pricing", "variant": "b", "goal": "signup"},
    Kind.ADMIN_TIER_CHANGED: {"to": "pro", "admin": "a-1", "reason": "goodwill"},
    Kind.ADMIN_PROMO_ISSUED: {"code": "X1", "admin": "a-1", "percent_off": 20.0, "expires_at": "2026-01-01T00:00:00Z"},
    Kind.RESOURCE_EXPIRY_IMMINENT: {"resource_type": "key", "resource_id": "k-1", "expires_at": "2026-01-01T00:00:00Z"},
}


def event(kind: Any = "onboarding.claimed", **fields: Any) -> Json:
    data = DATA[Kind(kind)] if kind in SERVICE_KINDS else {}
    return {"kind": kind, "team_id": TEAM, "id": "e-1", "data": data, **fields}


def envelope_of(sent: Json) -> Json:
    _, (record,) = accept([sent], "billing", NOW, "team.events")
    value: Json = json.loads(record.value)
    return value


def faults_of(*sent: object) -> list[Fault]:
    with pytest.raises(Invalid) as caught:
        accept(list(sent), "billing", NOW, "team.events")
    return caught.value.faults


@pytest.mark.parametrize("kind", sorted(SERVICE_KINDS))
def test_event_of_every_kind_is_accepted_with_its_data_unchanged(kind: Kind) -> None:
    value = envelope_of(event(kind))

    assert value["type"] == kind
    assert value["data"] == DATA[kind]
    assert Envelope[Data].model_validate(value).subject == TEAM
    SERVICE_DATA[kind].model_validate(value["data"])


@pytest.mark.parametrize("kind", sorted(SERVICE_KINDS))
def test_event_of_every_kind_without_a_required_field_names_it(kind: Kind) -> None:
    for name, field in SERVICE_DATA[kind].model_fields.items():
        if field.is_required():
            data = {key: value for key, value in DATA[kind].items() if key != name}

            assert faults_of(event(kind, data=data)) == [Fault(0, f"data.{name}", "is missing")]


def test_field_that_the_contract_does_not_name_is_kept() -> None:
    extra = {"plan": None, "seats": [1, 2.5], "nested": {"a": {"b": "Zoë"}}, "email2": "x"}

    assert envelope_of(event(data={"email": "jane@example.com", **extra}))["data"] == {"email": "jane@example.com", **extra}


def test_optional_field_that_was_not_sent_is_not_added() -> None:
    assert envelope_of(event(data={"email": "jane@example.com"}))["data"] == {"email": "jane@example.com"}


def test_other_spelling_of_tier_time_and_team_is_folded_to_the_one_form() -> None:
    claimed = envelope_of(event(team_id=f"{{{TEAM.upper()}}}", data={"email": "jane@example.com", "tier": " Pro_Yearly "}))
    promo = envelope_of(event("admin.promo_issued", data={"code": "X", "admin": "a", "expires_at": 1_767_225_600}))

    assert (claimed["subject"], claimed["data"]["tier"]) == (TEAM, "pro")
    assert promo["data"]["expires_at"] == "2026-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (1_760_000_000, "2025-10-09T08:53:20Z"),
        (1_760_000_000.5, "2025-10-09T08:53:20.500000Z"),
        ("2025-10-09T10:53:20+02:00", "2025-10-09T08:53:20Z"),
        ("2025-10-09T08:53:20Z", "2025-10-09T08:53:20Z"),
        (0, "1970-01-01T00:00:00Z"),
        (None, "2025-10-09T08:53:20Z"),
    ],
)
def test_time_is_rfc3339_with_an_offset_or_unix_seconds_else_now(given: Any, expected: str) -> None:
    assert envelope_of(event(occurred_at=given))["time"] == expected


@pytest.mark.parametrize(
    "given",
    [
        "2025-10-09T08:53:20",  # no offset
        "yesterday",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        -1,
        1_760_000_000_000,  # milliseconds
        True,
        [],
        {"at": 1},
        (NOW + timedelta(seconds=MAX_CLOCK_SKEW_SECONDS + 1)).isoformat(),
    ],
)
def test_time_that_is_none_or_too_far_ahead_names_the_field(given: Any) -> None:
    assert [fault.field for fault in faults_of(event(occurred_at=given))] == ["occurred_at"]


def test_time_within_the_allowed_skew_is_accepted() -> None:
    envelope_of(event(occurred_at=(NOW + timedelta(seconds=MAX_CLOCK_SKEW_SECONDS)).isoformat()))


@pytest.mark.parametrize("given", ["e", "x" * 100, "über 1", "a/b:c"])
def test_id_of_1_to_100_printable_characters_is_kept(given: str) -> None:
    value = envelope_of(event(id=given))

    assert (value["id"], value["correlationid"]) == (given, given)


@pytest.mark.parametrize("given", ["", "x" * 101, "a\nb", "a\x00b", 7, True, [], {}])
def test_id_of_another_form_names_the_field(given: Any) -> None:
    assert [fault.field for fault in faults_of(event(id=given))] == ["id"]


def test_event_without_an_id_is_a_new_one_each_time() -> None:
    sent = {"kind": "onboarding.claimed", "team_id": TEAM, "data": {"email": "jane@example.com"}}

    ids, records = accept([sent, sent], "billing", NOW, "team.events")

    assert len({UUID(name) for name in ids}) == 2
    assert [json.loads(record.value)["id"] for record in records] == ids


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        (event(kind="subscription.upgraded"), "kind"),  # decided here, never sent
        (event(kind="onboarding.claimd"), "kind"),
        (event(kind="Onboarding.Claimed"), "kind"),
        (event(kind=7), "kind"),
        (event(kind=None), "kind"),
        (event(team_id="acme"), "team_id"),
        (event(team_id=7), "team_id"),
        (event(team_id=None), "team_id"),
        (event(team_id="00000000-0000-0000-0000-000000000000"), "team_id"),
        (event(occured_at=1), "occured_at"),
        (event(data=None), "data"),
        (event(data=[]), "data"),
        (event(data="{}"), "data"),
        (event(data={"email": "jane at example.com"}), "data.email"),
        (event(data={"email": ["jane@example.com"]}), "data.email"),
        (event(data={"email": "jane@example.com", "tier": "platinum"}), "data.tier"),
        (event(data={"email": "jane@example.com", "note": {"a": ["x\x00"]}}), "data"),
        (event(data={"email": "jane@example.com", "a\x00": 1}), "data"),
        (event("near_quota_wall", data={"resource_type": "s", "used": "many", "limit": 1}), "data.used"),
        (event("near_quota_wall", data={"resource_type": "s", "used": None, "limit": 1}), "data.used"),
        (event("near_quota_wall", data={"resource_type": "s", "used": 1, "limit": True}), "data.limit"),
        (event("admin.promo_issued", data={"code": "c", "admin": "a", "percent_off": False}), "data.percent_off"),
        (event("near_quota_wall", data={"resource_type": "s", "used": 1, "limit": "1" * 30}), "data.limit"),
        (event("near_quota_wall", data={"resource_type": "s", "used": -(2**63) - 1, "limit": 1}), "data.used"),
        (event("near_quota_wall", data={"resource_type": "s", "used": 1, "limit": 1, "deep": [{"x": 2**64}]}), "data"),
        (event("admin.promo_issued", data={"code": "X", "admin": "a", "percent_off": 101}), "data.percent_off"),
        (event("resource.expiry_imminent", data={"resource_type": "k", "resource_id": "1", "expires_at": "soon"}), "data.expires_at"),
    ],
)
def test_wrong_field_is_named_once_and_its_value_never(sent: Json, field: str) -> None:
    (fault,) = faults_of(sent)

    assert (fault.index, fault.field) == (0, field)
    assert not any(value in fault.problem for value in ("jane", "acme", "platinum", "many", "claimd"))


def test_unknown_field_whose_name_may_be_anything_is_not_repeated() -> None:
    assert faults_of(event() | {"jane@example.com": 1})[0].field == "(unnamed)"


@pytest.mark.parametrize("sent", [7, None, "x", [event()], []])
def test_list_member_that_is_no_object_is_a_fault_of_its_index(sent: object) -> None:
    assert [(fault.index, fault.field) for fault in faults_of(event(), sent)] == [(1, "")]


def test_every_wrong_event_is_named_up_to_a_limit() -> None:
    faults = faults_of(event(id="e-0"), *[event(team_id="acme")] * (MAX_FAULTS + 5))

    assert [fault.index for fault in faults] == list(range(1, MAX_FAULTS + 1))


def test_id_twice_in_a_list_with_other_content_for_one_team_is_a_fault() -> None:
    (fault,) = faults_of(event(), event(), event(data={"email": "joe@example.com"}))

    assert (fault.index, fault.field) == (2, "id")


def test_id_twice_in_a_list_with_the_same_content_or_for_two_teams_is_accepted() -> None:
    ids, records = accept([event(), event(), event(team_id=OTHER_TEAM, data={"email": "joe@example.com"})], "billing", NOW, "team.events")

    assert ids == ["e-1"] * 3
    assert [record.key for record in records] == [TEAM.encode(), TEAM.encode(), OTHER_TEAM.encode()]


def test_event_that_grows_over_the_limit_when_it_is_stored_is_a_fault() -> None:
    numbers = json.loads("[" + ",".join(["1e15"] * 70_000) + "]")

    assert [fault.field for fault in faults_of(event(data={"email": "jane@example.com", "n": numbers}))] == ["data"]


@pytest.mark.parametrize("levels", [MAX_DEPTH, 900])
def test_data_nested_deeper_than_the_limit_is_a_fault(levels: int) -> None:
    deep = json.loads('{"a":[' * (levels // 2) + "1" + "]}" * (levels // 2))  # data itself is one level more

    assert [fault.field for fault in faults_of(event(data={"email": "jane@example.com", "deep": deep}))] == ["data"]


def test_data_nested_up_to_the_limit_is_accepted() -> None:
    deep = json.loads("[" * (MAX_DEPTH - 1) + "1" + "]" * (MAX_DEPTH - 1))

    assert envelope_of(event(data={"email": "jane@example.com", "deep": deep}))["data"]["deep"] == deep


@pytest.mark.parametrize("used", ["nan", "inf", "-Infinity", math.nan, math.inf])
def test_number_that_json_does_not_have_is_a_fault_and_is_not_stored_as_null(used: object) -> None:
    quota = {"resource_type": "seats", "used": used, "limit": 10}

    assert [fault.field for fault in faults_of(event("near_quota_wall", data=quota))] == ["data.used"]
    assert [fault.field for fault in faults_of(event(data={"email": "jane@example.com", "n": [math.inf]}))] == ["data"]


@pytest.mark.parametrize("used", [-(2**63), 2**64 - 1, 1e30])
def test_number_of_up_to_64_bits_or_of_a_double_is_kept(used: float) -> None:
    assert envelope_of(event("near_quota_wall", data={"resource_type": "s", "used": used, "limit": 1}))["data"]["used"] == used


@pytest.mark.parametrize("body", [b"", b"{", b"nonsense", b'{"a": NaN}', b'{"a": "\\ud800"}', b"\xff"])
def test_body_that_is_no_json_is_a_fault(body: bytes) -> None:
    with pytest.raises(Invalid) as caught:
        read_events(body)

    assert [(fault.index, fault.field) for fault in caught.value.faults] == [(0, "")]


def test_list_of_more_than_the_limit_is_a_fault_of_the_first_too_many() -> None:
    assert len(read_events(json.dumps([{}] * MAX_EVENTS).encode())) == MAX_EVENTS
    with pytest.raises(Invalid) as caught:
        read_events(json.dumps([{}] * (MAX_EVENTS + 1)).encode())

    assert [fault.index for fault in caught.value.faults] == [MAX_EVENTS]


def test_one_event_alone_and_an_empty_list_are_lists_too() -> None:
    assert read_events(b'{"kind": "x"}') == [{"kind": "x"}]
    assert read_events(b"[]") == []
    assert accept([], "billing", NOW, "team.events") == ([], [])
