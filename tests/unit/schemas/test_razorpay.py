"""Razorpay's bodies, as documented and as really seen, are read for what they say."""

import json
from pathlib import Path
from typing import Any

import pytest

from schemas.razorpay import MalformedWebhook, RazorpayWebhook, landing_key, parse_webhook
from schemas.team_events import MAX_SECONDS

SAMPLES = Path(__file__).parents[3].parent / "shared" / "samples" / "razorpay"
TEAM = "3f1c1f0e-6a55-4c5c-9a39-0a4d3c1f7b01"
OTHER_TEAM = "9d0f7f57-63b8-4d0c-9c0e-1c2f5f7f2b02"
NOW = 1_760_000_000

Json = dict[str, Any]


def body(subscription: Json | None = None, payment: Json | None = None, payload: Any = None, **top: Any) -> bytes:
    """Return the bytes of a body as Razorpay would send it; ``payload`` replaces the usual one."""
    entities = {name: {"entity": entity} for name, entity in (("subscription", subscription), ("payment", payment)) if entity is not None}
    document = {
        "entity": "event",
        "event": "subscription.charged",
        "contains": [],
        "payload": entities if payload is None else payload,
        **top,
    }
    return json.dumps(document, ensure_ascii=False).encode()


def parse(subscription: Json | None = None, payment: Json | None = None, payload: Any = None, **top: Any) -> RazorpayWebhook:
    return parse_webhook(body(subscription, payment, payload, **top))


def sub(**fields: Any) -> Json:
    return {"id": "sub_DEX6xcJ1HSW4CR", "entity": "subscription", **fields}


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="Razorpay's sample bodies are not beside this checkout")
@pytest.mark.parametrize("name", [path.name for path in sorted(SAMPLES.glob("*.*.json"))])
def test_sample_body_is_read_with_its_event_entities_and_time(name: str) -> None:
    raw = (SAMPLES / name).read_bytes()
    document = json.loads(raw)

    webhook = parse_webhook(raw)

    assert webhook.event == name.removesuffix(".json")
    assert webhook.occurred_at(NOW) == (document["created_at"], "created_at")
    entity = document["payload"].get("subscription", {}).get("entity")
    assert (webhook.subscription is None) == (entity is None)
    assert landing_key(raw) == (True, entity["id"] if entity else None)
    if webhook.subscription is not None:
        for field in (
            "id",
            "plan_id",
            "status",
            "paid_count",
            "current_start",
            "current_end",
            "ended_at",
            "created_at",
            "has_scheduled_changes",
        ):
            assert getattr(webhook.subscription, field) == entity[field], field
        assert webhook.subscription.notes == (entity["notes"] or {})
    payment = document["payload"].get("payment", {}).get("entity")
    if payment is not None:
        assert webhook.payment is not None
        assert (webhook.payment.id, webhook.payment.amount, webhook.payment.currency) == (
            payment["id"],
            payment["amount"],
            payment["currency"],
        )
        assert webhook.payment.captured == (payment["captured"] in (True, "1"))
        assert webhook.email == "gaurav.kumar@example.com"


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"event": "subscription.charged"', "not valid JSON"),
        (b'{"event": NaN}', "not valid JSON"),
        (b'{"event": "\xff"}', "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        ('{"event": 1}'.encode("utf-16"), "not valid JSON"),
        (b"[1,2,3]", "array"),
        (b"42", "number"),
        (b"4.2", "number"),
        (b'"jane@example.com"', "string"),
        (b"null", "null"),
        (b"true", "boolean"),
    ],
)
def test_body_that_is_no_json_object_is_malformed_without_being_repeated(raw: bytes, problem: str) -> None:
    with pytest.raises(MalformedWebhook, match=problem) as caught:
        parse_webhook(raw)

    assert "jane" not in str(caught.value)
    assert landing_key(raw) == (False, None)


@pytest.mark.parametrize(
    ("raw", "is_json_object"),
    [
        (b'{"a":' * 1_500 + b"1" + b"}" * 1_500, True),
        (b' \n{"event": "subscription.charged", "x": ' + b"[" * 500_000 + b"]" * 500_000 + b"}", True),
        (b'{"a":' * 501 + b'"\\ud800"' + b"}" * 501, True),
        (b"[" * 1_500 + b"]" * 1_500, False),
    ],
)
def test_body_that_is_nested_too_deep_is_landed_as_what_it_begins_like_and_malformed(raw: bytes, is_json_object: bool) -> None:
    with pytest.raises(MalformedWebhook, match=r"^The webhook body is nested too deep to be read\.$"):
        parse_webhook(raw)

    assert landing_key(raw) == (is_json_object, None)


@pytest.mark.parametrize("levels", [400, 1_000])
def test_body_that_is_nested_less_deep_is_read(levels: int) -> None:
    raw = b'{"event": "subscription.charged", "payload": {"subscription": {"entity": {"id": "sub_1"}}}, "x": %b1%b}'
    raw %= (b"[" * levels, b"]" * levels)

    assert landing_key(raw) == (True, "sub_1")
    assert parse_webhook(raw).event == "subscription.charged"


def test_text_in_a_body_that_is_nested_too_deep_holds_no_object() -> None:
    payload = '{"subscription": {"entity": {"id": "sub_1"}}, "x": ' + "[" * 2_000 + "]" * 2_000 + "}"

    assert landing_key(json.dumps({"payload": payload}).encode()) == (True, None)


@pytest.mark.parametrize(
    "raw",
    [
        b"{}",
        b' {"payload": null}\n',
        b'{"event": "\\ud800", "payload": {}}',
        b'{"amount": 1e999}',
        b'{"amount": ' + b"1" * 5_000 + b"}",
        b'{"amount": 18446744073709551616}',
    ],
)
def test_json_object_of_any_content_is_read(raw: bytes) -> None:
    assert landing_key(raw).is_json_object
    assert parse_webhook(raw).subscription is None


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ("subscription.charged", "subscription.charged"),
        (" subscription.charged ", "subscription.charged"),
        ({"name": "subscription.charged"}, "subscription.charged"),
        ({"event": "subscription.charged", "id": "x"}, "subscription.charged"),
        ({"type": "subscription.charged"}, "subscription.charged"),
        ({"name": 7, "type": ["x"]}, None),
        ({}, None),
        (None, None),
        (7, None),
        (True, None),
        ("", None),
        (["subscription.charged"], None),
    ],
)
def test_event_name_is_drawn_from_text_or_object_only(event: Any, expected: str | None) -> None:
    assert parse(event=event).event == expected


@pytest.mark.parametrize(
    ("notes", "expected"),
    [
        ({"team_id": TEAM}, TEAM),
        ({"team_id": f"  {TEAM} "}, TEAM),
        ({"team_id": 42}, "42"),
        ({"team_id": 4.5}, "4.5"),
        ({"team_id": json.dumps({"team_id": TEAM})}, TEAM),
        ({"team_id": json.dumps({"other": 1})}, json.dumps({"other": 1})),
        ({"meta": json.dumps({"team_id": TEAM, "plan": "x"})}, TEAM),
        ({"meta": json.dumps({"team_id": 42})}, "42"),
        ({"meta": json.dumps([TEAM]), "bad": "{not json", "worse": "{}"}, None),
        (json.dumps({"team_id": TEAM}), TEAM),
        ({"team_id": None}, None),
        ({"team_id": ""}, None),
        ({"team_id": {"nested": TEAM}}, None),
        ({"team_id": [TEAM]}, None),
        ({"TEAM_ID": TEAM}, None),
        ([], None),
        ([TEAM], None),
        (None, None),
        ("", None),
        (7, None),
    ],
)
def test_note_is_found_in_whatever_form_notes_come(notes: Any, expected: str | None) -> None:
    assert parse(sub(notes=notes)).note("team_id") == expected
    assert parse(payment={"id": "pay_1", "notes": notes}).note("team_id") == expected


def test_note_of_the_subscription_comes_before_the_payment_s() -> None:
    assert parse(sub(notes={"team_id": TEAM}), {"notes": {"team_id": OTHER_TEAM}}).note("team_id") == TEAM
    assert parse(sub(notes=[]), {"notes": {"team_id": OTHER_TEAM}}).note("team_id") == OTHER_TEAM
    assert parse(sub(notes={"team_id": " "}), {"notes": {"team_id": OTHER_TEAM}}).note("team_id") == OTHER_TEAM
    assert parse(sub()).note("team_id") is None


def test_payload_and_its_parts_are_read_also_as_json_text() -> None:
    entity = sub(plan_id="plan_pro", notes={"team_id": TEAM})

    for payload in (
        json.dumps({"subscription": {"entity": entity}, "created_at": 1_700_000_000}),
        {"subscription": json.dumps({"entity": entity}), "created_at": 1_700_000_000},
        {"subscription": {"entity": json.dumps(entity)}, "created_at": 1_700_000_000},
    ):
        webhook = parse(payload=payload)
        assert webhook.subscription is not None
        assert (webhook.subscription.id, webhook.subscription.plan_id, webhook.note("team_id")) == (entity["id"], "plan_pro", TEAM)
        assert webhook.occurred_at(NOW) == (1_700_000_000, "created_at")
        assert landing_key(body(payload=payload)) == (True, entity["id"])


@pytest.mark.parametrize(
    "payload", [None, [], "", "text", "[1]", 7, True, {"subscription": []}, {"subscription": {"entity": None}}, {"payment": "x"}]
)
def test_payload_without_entities_gives_none(payload: Any) -> None:
    raw = json.dumps({"event": "x", "payload": payload}).encode()

    webhook = parse_webhook(raw)

    assert webhook.subscription is None
    assert webhook.payment is None
    assert landing_key(raw) == (True, None)


@pytest.mark.parametrize("value", [None, "", " ", [], {}, 1.5, True, "sub\n1", "sub\x00", "süb_1", "x" * 101, "\ud800"])
def test_subscription_without_a_usable_id_counts_as_absent(value: Any) -> None:
    raw = json.dumps({"payload": {"subscription": {"entity": {"id": value}}}}).encode()

    assert parse_webhook(raw).subscription is None
    assert landing_key(raw) == (True, None)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("plan_id", 7, "7"),
        ("plan_id", ["plan_pro"], None),
        ("plan_id", "plän", "plän"),
        ("plan_id", "plan\x00", None),
        ("plan_id", "x" * 1_001, None),
        ("status", {}, None),
        ("customer_email", "wörk@example.com", "wörk@example.com"),
        ("paid_count", "3", 3),
        ("paid_count", 3.0, 3),
        ("paid_count", -1, None),
        ("paid_count", True, None),
        ("paid_count", 10**30, None),
        ("current_end", "1700000000", 1_700_000_000),
        ("current_end", 1_700_000_000.9, 1_700_000_000),
        ("current_end", MAX_SECONDS, MAX_SECONDS),
        ("current_end", MAX_SECONDS + 1, None),
        ("current_end", True, None),
        ("current_end", "soon", None),
        ("current_end", "\u0663", None),
        ("current_end", {"at": 1}, None),
        ("has_scheduled_changes", "1", True),
        ("has_scheduled_changes", 1, True),
        ("has_scheduled_changes", "true", True),
        ("has_scheduled_changes", "0", False),
        ("has_scheduled_changes", None, False),
        ("has_scheduled_changes", [], False),
    ],
)
def test_field_of_a_wrong_type_is_read_or_dropped_and_costs_nothing_else(field: str, value: Any, expected: Any) -> None:
    subscription = parse(sub(**{"status": "active", "notes": {"team_id": TEAM}, field: value})).subscription

    assert subscription is not None
    assert getattr(subscription, field) == expected
    assert subscription.notes == {"team_id": TEAM}


@pytest.mark.parametrize(
    ("captured", "expected"), [(True, True), ("1", True), (1, True), (False, False), ("0", False), (None, False), ("no", False)]
)
def test_payment_captured_is_read_from_flag_or_text(captured: Any, expected: bool) -> None:
    payment = parse(payment={"id": "pay_1", "captured": captured}).payment

    assert payment is not None
    assert payment.captured is expected


@pytest.mark.parametrize(
    ("top", "in_payload", "expected"),
    [
        (1_700_000_000, 1_600_000_000, 1_700_000_000),
        ("1700000000", None, 1_700_000_000),
        (None, 1_600_000_000, 1_600_000_000),
        (True, 1_600_000_000, 1_600_000_000),
        (MAX_SECONDS + 1, 1_600_000_000, 1_600_000_000),
        (-1, 1_600_000_000, 1_600_000_000),
        (0, 1_600_000_000, 0),
        (NOW + 10**6, None, NOW + 10**6),  # too far ahead is for normalise to judge
    ],
)
def test_time_is_the_body_s_else_the_payload_s(top: Any, in_payload: Any, expected: int) -> None:
    payload = {"subscription": {"entity": sub(created_at=1_500_000_000)}, "created_at": in_payload}

    assert parse(payload=payload, created_at=top).occurred_at(NOW) == (expected, "created_at")


def test_time_without_created_at_is_the_latest_past_time_that_says_something_happened() -> None:
    subscription = sub(
        created_at=NOW - 500,
        current_start=NOW - 300,
        current_end=NOW - 1,
        charge_at=NOW - 1,
        start_at=NOW - 1,
        end_at=NOW - 1,
        expire_by=NOW - 1,
    )

    assert parse(subscription, {"created_at": NOW - 200, "captured_at": NOW + 1}).occurred_at(NOW) == (NOW - 200, "entities")
    assert parse(subscription).occurred_at(NOW) == (NOW - 300, "entities")
    assert parse(sub(ended_at=str(NOW))).occurred_at(NOW) == (NOW, "entities")
    assert parse(payload={"invoice": {"entity": {"paid_at": NOW - 5}}}).occurred_at(NOW) == (NOW - 5, "entities")


def test_time_without_any_past_time_is_the_receipt_s() -> None:
    assert parse(sub(created_at=NOW + 1, current_start=True)).occurred_at(NOW) == (NOW, "receipt")
    assert parse().occurred_at(NOW) == (NOW, "receipt")


@pytest.mark.parametrize(
    ("customer", "payer", "expected"),
    [
        ("jane@example.com", "joe@example.com", "jane@example.com"),
        (None, "joe@example.com", "joe@example.com"),
        ("not an address", "joe@example.com", "joe@example.com"),
        ("", "void@razorpay.com", "void@razorpay.com"),
        ("VOID@razorpay.com", "joe@example.com", "joe@example.com"),
        (["jane@example.com"], None, None),
        ("a@" + "x" * 260, None, None),
        (None, None, None),
    ],
)
def test_email_is_the_first_usable_address_and_a_placeholder_only_without_one(customer: Any, payer: Any, expected: str | None) -> None:
    assert parse(sub(customer_id=None, customer_email=customer), {"email": payer}).email == expected


def test_body_with_literal_utf8_is_read() -> None:
    raw = body(sub(notes={"name": "Tea, Earl Grey… decaf."}))

    assert "…".encode() in raw
    assert parse_webhook(raw).note("name") == "Tea, Earl Grey… decaf."


def test_duplicate_key_is_read_alike_by_both_readers() -> None:
    raw = b'{"payload": {"subscription": {"entity": {"id": "sub_1", "id": "sub_2"}}}}'

    webhook = parse_webhook(raw)

    assert webhook.subscription is not None
    assert landing_key(raw).subscription_id == webhook.subscription.id == "sub_2"
