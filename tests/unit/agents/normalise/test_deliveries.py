"""What is known of a delivery by those that came before."""

import json
from typing import Any

import orjson
import pytest

from agents.normalise.deliveries import MAX_BYTES, Known, content_of, recalled
from schemas.razorpay import RazorpayWebhook, parse_webhook
from tests.webhooks import AT, EVENT_ID, TEAM, body

ONE, OTHER = b"one\0\0\0\0\0", b"other\0\0\0"


def after(*deliveries: tuple[str, bytes]) -> bytes:
    remembered = b""
    for event_id, content in deliveries:
        remembered = recalled(remembered, event_id, content).deliveries
    return remembered


def read(document: Any) -> RazorpayWebhook:
    return parse_webhook(orjson.dumps(document))


# Two deliveries


def test_a_new_delivery_costs_its_id_and_nine_bytes() -> None:
    known, remembered = recalled(b"", "OcQNNvRBTYRYUv", ONE)
    assert (known, len(remembered)) == (Known.NOTHING_ELSE, 14 + 9)


def test_the_same_delivery_again_changes_nothing() -> None:
    remembered = after(("evt_1", ONE), ("evt_2", OTHER))
    assert recalled(remembered, "evt_1", ONE) == (Known.NOTHING_ELSE, remembered)


def test_another_registered_webhooks_delivery_is_of_an_event_that_is_known_each_time() -> None:
    remembered = after(("evt_1", ONE), ("evt_2", OTHER))

    known, then = recalled(remembered, "evt_3", ONE)

    assert known is Known.EVENT
    assert recalled(then, "evt_3", ONE) == (Known.EVENT, then)
    assert recalled(then, "evt_1", ONE) == (Known.NOTHING_ELSE, then)


def test_an_id_with_something_else_to_say_is_a_conflict_and_the_first_one_stays() -> None:
    remembered = after(("evt_1", ONE))

    assert recalled(remembered, "evt_1", OTHER) == (Known.ID, remembered)
    assert recalled(remembered, "evt_1", ONE) == (Known.NOTHING_ELSE, remembered)


def test_the_id_of_a_second_registered_webhook_may_say_nothing_else_either() -> None:
    remembered = after(("evt_1", ONE), ("evt_2", ONE))
    assert recalled(remembered, "evt_2", OTHER).known is Known.ID


def test_an_id_that_says_what_another_one_said_is_a_conflict_all_the_same() -> None:
    remembered = after(("evt_1", ONE), ("evt_2", OTHER))
    assert recalled(remembered, "evt_2", ONE).known is Known.ID


def test_what_lies_across_two_entries_is_no_entry() -> None:
    remembered = after(("evt_1", ONE), ("x", OTHER))
    straddling = remembered[5:13]  # bytes of the first entry's digest, and of its id

    assert straddling in remembered
    assert recalled(remembered, "evt_9", straddling).known is Known.NOTHING_ELSE


def test_the_newest_are_remembered_within_their_bytes() -> None:
    named = [f"evt_{number:010}" for number in range(500)]
    remembered = after(*((name, number.to_bytes(8)) for number, name in enumerate(named)))

    assert MAX_BYTES - 23 < len(remembered) <= MAX_BYTES
    assert recalled(remembered, named[-44], OTHER).known is Known.ID
    assert recalled(remembered, named[-45], OTHER).known is Known.NOTHING_ELSE


def test_an_id_that_is_too_long_is_taken_and_not_remembered() -> None:
    assert recalled(b"", "x" * 10_000, ONE) == (Known.NOTHING_ELSE, b"")


# What a webhook says


def test_content_is_the_same_whatever_the_order_of_fields_and_the_white_space() -> None:
    document = body(notes={"team_id": TEAM, "a": "1"}, payment={"id": "pay_1", "amount": 49_900})
    other = orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)

    assert other != orjson.dumps(document)
    assert content_of(parse_webhook(other), EVENT_ID) == content_of(read(document), EVENT_ID)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(body("subscription.updated"), id="event"),
        pytest.param(body(created_at=AT + 1), id="time"),
        pytest.param(body(created_at=None), id="no time"),
        pytest.param(body(subscription={"plan_id": "plan_team"}), id="plan"),
        pytest.param(body(subscription={"paid_count": 2}), id="paid count"),
        pytest.param(body(subscription={"status": "halted"}), id="status"),
        pytest.param(body(subscription={"has_scheduled_changes": True}), id="scheduled changes"),
        pytest.param(body(subscription={"current_end": AT + 9}), id="end of the cycle"),
        pytest.param(body(subscription={"created_at": AT - 9}), id="age of the subscription"),
        pytest.param(body(subscription={"customer_email": "a@example.com"}), id="customer"),
        pytest.param(body(notes={"team_id": "11111111-2222-4333-8444-555555555555"}), id="team"),
        pytest.param(body(payment={"id": "pay_1"}), id="payment"),
        pytest.param(body(payment={"id": "pay_1", "amount": 1}), id="amount"),
        pytest.param(body(payment={"id": "pay_1", "amount": 1, "currency": "INR"}), id="currency"),
        pytest.param(body(payment={"id": "pay_1", "email": "a@example.com"}), id="payer"),
        pytest.param(body(payment={"id": "pay_1", "notes": {"team_id": TEAM}}), id="the payment's notes"),
    ],
)
def test_content_is_another_one_where_anything_is_that_is_decided_by(other: Any) -> None:
    documents = [body(), body(payment={"id": "pay_2"}), other]
    assert len({content_of(read(document), EVENT_ID) for document in documents}) == 3


def test_content_may_have_a_notes_name_that_utf_8_can_not_carry() -> None:
    """JSON may escape half of a surrogate pair, and such a body is a webhook like any other."""
    one, other = (json.dumps(body(notes={"team_id": TEAM, name: "1"})).encode() for name in ("\ud800", "\ud801"))
    assert content_of(parse_webhook(one), EVENT_ID) != content_of(parse_webhook(other), EVENT_ID)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        pytest.param(body(), True, id="a time of its own"),
        pytest.param(body(created_at=None, payment={"id": "pay_1", "created_at": AT}), True, id="times of its entities"),
        pytest.param(body(created_at=None), False, id="no time: it may have happened twice"),
    ],
)
def test_content_does_not_depend_on_the_event_id_where_the_webhook_says_when_it_happened(document: Any, expected: bool) -> None:
    assert (content_of(read(document), "evt_1") == content_of(read(document), "evt_2")) == expected


def test_content_of_a_webhook_never_changes_for_rows_hold_it() -> None:
    document = body(
        payment={"id": "pay_1", "amount": 49_900, "currency": "INR", "email": "payer@example.com", "notes": {"b": "2", "a": "1"}},
        subscription={"customer_email": "owner@example.com", "current_end": AT + 9, "created_at": AT - 9},
    )
    assert content_of(read(document), EVENT_ID).hex() == "0898f737bd70c34e"
