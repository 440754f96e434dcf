"""What goes to Loops for each kind."""

from datetime import UTC, datetime

import orjson
import pytest

from schemas.kinds import OPERATOR_KINDS, Kind
from schemas.loops import CONTACT_FIELDS, LOOPS_MAP, LoopsPayload, Mail, NeverMailed, cut, payload

EMAIL = "asha@example.com"
SECOND = 1_772_366_400
MOMENT = datetime.fromtimestamp(SECOND, UTC)


def test_map_has_a_row_for_every_kind() -> None:
    assert set(LOOPS_MAP) == set(Kind)


def test_map_operators_kind_and_nothing_else_is_never_mailed() -> None:
    assert {kind for kind, row in LOOPS_MAP.items() if isinstance(row, NeverMailed)} == {Kind.CHARGE_UNDELIVERABLE, *OPERATOR_KINDS}


@pytest.mark.parametrize("row", [row for row in LOOPS_MAP.values() if isinstance(row, Mail)])
def test_map_contact_properties_are_none_of_loops_own(row: Mail) -> None:
    assert not {wanted.name for wanted in row.contact_properties} & CONTACT_FIELDS


def test_payload_event_name_is_the_kind_and_the_contact_is_named_by_email_alone() -> None:
    body = orjson.loads(payload(Kind.UPGRADED, EMAIL, {"from": "free", "to": "pro"}).to_json())

    assert body == {"email": EMAIL, "eventName": "subscription.upgraded", "eventProperties": {"from": "free", "to": "pro"}}


@pytest.mark.parametrize(
    ("kind", "metadata", "properties"),
    [
        (
            Kind.DOWNGRADED,
            {
                "from": "pro",
                "to": "hobby",
                "plan_id": "plan_hobby",
                "subscription_id": "sub_1",
                "occurred_at": "2026-03-01T12:00:00Z",
                "reason": "downgraded",
            },
            {"from": "pro", "to": "hobby", "plan_id": "plan_hobby", "subscription_id": "sub_1", "occurred_at": SECOND * 1000},
        ),
        (Kind.CANCELED, {"from": "pro", "to": "hobby", "plan_id": None}, {"from": "pro", "to": "hobby"}),
        (
            Kind.CLAIMED,
            {"user_id": "u1", "tier": "free", "name": "Asha", "email": EMAIL, "campaign": "x"},
            {"user_id": "u1", "tier": "free", "name": "Asha"},
        ),
        (
            Kind.NEAR_QUOTA_WALL,
            {"resource_type": "storage", "used": 9.5, "limit": 10, "unit": "GB", "region": "in"},
            {"resource_type": "storage", "used": 9.5, "limit": 10, "unit": "GB"},
        ),
        (Kind.EXPERIMENT_CONVERSION, {"experiment": "e", "variant": "b", "goal": None}, {"experiment": "e", "variant": "b"}),
        (
            Kind.ADMIN_TIER_CHANGED,
            {"from": "free", "to": "team", "reason": "admin_changed", "admin": "ops", "admin_reason": "a gift"},
            {"from": "free", "to": "team", "admin": "ops", "reason": "a gift"},
        ),
        (
            Kind.ADMIN_PROMO_ISSUED,
            {"code": "X", "admin": "ops", "percent_off": 12.5, "expires_at": SECOND},
            {"code": "X", "admin": "ops", "percent_off": 12.5, "expires_at": SECOND * 1000},
        ),
        (
            Kind.RESOURCE_EXPIRY_IMMINENT,
            {"resource_type": "domain", "resource_id": "d1", "expires_at": "2026-03-01T17:30:00+05:30"},
            {"resource_type": "domain", "resource_id": "d1", "expires_at": SECOND * 1000},
        ),
    ],
)
def test_payload_holds_the_named_fields_and_no_other(kind: Kind, metadata: dict[str, object], properties: dict[str, object]) -> None:
    assert payload(kind, EMAIL, metadata).event_properties == properties


def test_payload_of_a_kind_that_is_never_mailed_is_refused() -> None:
    with pytest.raises(ValueError, match="never mailed"):
        payload(Kind.CHARGE_UNDELIVERABLE, EMAIL, {})


def test_payload_metadata_never_reaches_the_contact() -> None:
    body = orjson.loads(payload(Kind.UPGRADED, EMAIL, {"subscribed": True, "userGroup": "x", "to": "pro"}).to_json())

    assert set(body) == {"email", "eventName", "eventProperties"}
    assert body["eventProperties"] == {"to": "pro"}


def test_payload_contact_properties_stand_at_the_top_level() -> None:
    body = orjson.loads(LoopsPayload(email=EMAIL, event_name="x", event_properties={}, contact_properties={"tier": "pro"}).to_json())

    assert body["tier"] == "pro"


@pytest.mark.parametrize(
    ("value", "mailed"),
    [
        ("2026-03-01T12:00:00.250Z", SECOND * 1000 + 250),
        (SECOND, SECOND * 1000),
        (SECOND + 0.5, SECOND * 1000 + 500),
        ("2026-03-01T12:00:00", None),  # no offset: nobody can say when that was
        ("soon", None),
        (SECOND * 1000, None),  # milliseconds sent as seconds
        (-1, None),
        (True, None),
        (float("nan"), None),
    ],
)
def test_payload_times_are_unix_milliseconds_or_left_out(value: object, mailed: int | None) -> None:
    assert payload(Kind.RESOURCE_EXPIRY_IMMINENT, EMAIL, {"expires_at": value}).event_properties.get("expires_at") == mailed


@pytest.mark.parametrize(
    ("value", "mailed"),
    [
        ([1], None),
        ({"a": 1}, None),
        (None, None),
        (float("inf"), None),
        (True, True),
        (2**53, float(2**53)),
        (10**400, None),
        (0, 0),
        ("", ""),
    ],
)
def test_payload_only_strings_numbers_and_booleans_are_mailed(value: object, mailed: object) -> None:
    found = payload(Kind.NEAR_QUOTA_WALL, EMAIL, {"used": value}).event_properties.get("used")

    assert found == mailed
    assert type(found) is type(mailed)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("x" * 498, 498),  # 498 and two quotes
        ("x" * 499, 498),
        ("é" * 600, 498),
        ("😀" * 300, 249),  # two units each
        ('"' * 300, 249),  # escaped
        ("\x01" * 100, 83),  # \u0001
    ],
)
def test_cut_leaves_what_fits_into_500_characters_quotes_included(text: str, kept: int) -> None:
    assert cut(text) == text[:kept]
