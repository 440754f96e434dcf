"""No bytes whatever make the reader of Razorpay's bodies raise anything but MalformedWebhook, or disagree with the gateway's."""

import json
from typing import Any

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from agents.normalise.deliveries import CONTENT_BYTES, content_of
from schemas.razorpay import LandingKey, MalformedWebhook, landing_key, parse_webhook
from schemas.team_events import MAX_SECONDS

text = st.text(st.characters(), max_size=12)  # lone surrogates too
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**300, max_value=10**310)
    | st.floats()
    | text
    | st.sampled_from(["", "1", "true", "{", "{}", "[]", '{"team_id": 5}', "1700000000", "void@razorpay.com", "\x00"])
)
anything = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3), max_leaves=8)


def loose(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """What it should be, or the same as JSON text, or anything else."""
    return strategy | strategy.map(json.dumps) | anything


notes = loose(st.dictionaries(st.just("team_id") | text, loose(st.fixed_dictionaries({"team_id": scalars})), max_size=3))
times = {
    name: st.integers(min_value=0, max_value=2 * MAX_SECONDS) | anything
    for name in ("created_at", "current_start", "current_end", "ended_at", "paid_at")
}
entity = loose(
    st.fixed_dictionaries(
        {"id": st.just("sub_DEX6xcJ1HSW4CR") | anything},
        optional={
            "notes": notes,
            "plan_id": anything,
            "status": anything,
            "paid_count": anything,
            "customer_email": anything,
            "email": anything,
            "amount": anything,
            "captured": anything,
            "has_scheduled_changes": anything,
            **times,
        },
    )
)
wrapper = loose(st.fixed_dictionaries({}, optional={"entity": entity}))
payload = loose(st.fixed_dictionaries({}, optional={"subscription": wrapper, "payment": wrapper, "order": wrapper, "created_at": anything}))
document = st.fixed_dictionaries({}, optional={"event": anything, "payload": payload, "created_at": anything, "contains": anything})


def read(raw: bytes) -> LandingKey:
    """Read ``raw`` in every way there is, and return what the gateway would have had to find."""
    try:
        webhook = parse_webhook(raw)
    except MalformedWebhook:
        return LandingKey(False, None)
    moment, source = webhook.occurred_at(1_760_000_000)
    assert 0 <= moment <= MAX_SECONDS
    assert source in ("created_at", "entities", "receipt")
    for value in (webhook.event, webhook.email, webhook.note("team_id"), msgspec.json.encode(webhook).decode()):
        assert value is None or value.encode()
    assert len(content_of(webhook, "evt_1")) == CONTENT_BYTES
    return LandingKey(True, webhook.subscription.id if webhook.subscription else None)


@given(document | anything)
def test_any_json_is_read_or_malformed_and_both_readers_agree(value: Any) -> None:
    raw = json.dumps(value).encode()

    assert landing_key(raw) == read(raw)


@given(document, st.lists(st.tuples(st.integers(min_value=0), st.integers(min_value=0, max_value=255)), min_size=1, max_size=4))
def test_mutated_body_is_read_or_malformed_and_both_readers_agree(value: Any, changes: list[tuple[int, int]]) -> None:
    raw = bytearray(json.dumps(value).encode())
    for at, byte in changes:
        raw[at % len(raw)] = byte

    assert landing_key(bytes(raw)) == read(bytes(raw))


@given(st.binary(max_size=200))
@example(b'{"payload": {"subscription": {"entity": {"id": "a", "id": 7}}}}')
@example(b'{"payload": ' * 900 + b"1" + b"}" * 900)
@example(b'{"payload": "\\ud800", "created_at": NaN}')
@example(b"[" * 100_000)
def test_any_bytes_are_read_or_malformed_and_both_readers_agree(raw: bytes) -> None:
    assert landing_key(raw) == read(raw)


usual_text = st.text(" a1@\x7f", max_size=4)
usual: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"id": st.just("sub_DEX6xcJ1HSW4CR") | usual_text},
    optional={
        **{name: usual_text | st.none() for name in ("plan_id", "status", "customer_email", "email", "currency")},
        **{name: st.integers(-1, 2 * MAX_SECONDS) | st.none() for name in ("paid_count", "amount", "created_at", "current_end")},
        "captured": st.booleans() | st.just("1"),
        "has_scheduled_changes": st.booleans(),
        "total_count": st.integers() | st.booleans() | usual_text,
        "notes": st.dictionaries(usual_text, usual_text, max_size=2) | st.just([]) | st.none(),
    },
)


@given(usual, usual)
def test_entity_in_its_usual_form_is_read_as_it_is_read_field_by_field(subscription: dict[str, Any], payment: dict[str, Any]) -> None:
    value = {"subscription": {"entity": subscription}, "payment": {"entity": payment}}
    usual_body = json.dumps({"event": "subscription.charged", "payload": value})
    not_plain = usual_body[:-1] + ', "other": "\u00e9"}'

    assert parse_webhook(usual_body.encode()) == parse_webhook(not_plain.encode())
