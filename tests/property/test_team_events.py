"""Reading is total: any bytes are an event or ``Unreadable``; the narrow model takes and means what the contract does."""

import json
from typing import Any

import orjson
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from agents.classify.decide import decide
from agents.classify.facts import Billing, TeamEvent, Unreadable, read_team_event
from agents.classify.outputs import audit_events, owner_of, tier_current
from agents.classify.packing import pack, unpack
from agents.classify.registers import EMPTY
from schemas.envelope import Envelope
from schemas.reasons import Reason
from schemas.team_events import SubscriptionEvent, SubscriptionFact
from schemas.tiers import Tier
from tests.factories import RECEIVED_AT, T0, TEAM, Event, billing, claim, imported, override, service
from tests.property.strategies import often

EVENTS: list[Event] = [
    billing("charged", amount=49_900, currency="INR", payment_id="pay_1", email="payer@example.com"),
    billing("completed", current_end=T0 + 9, status="completed", adopt=True),
    billing("updated", status="active", has_scheduled_changes=False),
    claim(0.5, name="Jane", user_id="u1", tier="pro"),
    override(1, "team", reason="goodwill"),
    imported(2, "pro", "plan_pro", "sub_A"),
    service("near_quota_wall", resource_type="seats", used=9, limit=10.5, unit="seats"),
    service("experiment.conversion", experiment="x", variant="b", goal="g"),
    service("admin.promo_issued", code="X", admin="a", percent_off=20, expires_at=T0),
    service("resource.expiry_imminent", resource_type="domain", resource_id=TEAM, expires_at="2025-06-15T15:06:47Z"),
]

NUMBERS = st.one_of(st.integers(-3, 3), st.sampled_from([2**31, 2**53, 2**63, 2**64, 10**30, -(2**63) - 1, T0, T0 * 1000, 253_402_300_800]))
TEXTS = st.one_of(
    st.text(max_size=5),
    st.sampled_from(["", "pro", "Pro_YEARLY", " free ", "gold", "active", "1", "1.0", "true", "a@b", "\x00", "x" * 600]),
    st.sampled_from(["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2025-06-15T15:06:40", "2025-06-15T15:06:40Z", str(T0)]),
)
SCALARS = st.none() | st.booleans() | NUMBERS | st.floats(width=32) | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3), max_leaves=5
)


def to_json(event: object) -> bytes:
    """JSON as any producer may write it: integers of any size, NaN, unpaired surrogates as escapes."""
    return json.dumps(event).encode()


@st.composite
def mutilated(draw: st.DrawFn) -> Event:
    """Return one of EVENTS with one or two attributes or fields left out, replaced or added."""
    event = draw(st.sampled_from(EVENTS))
    event = {**event, "data": dict(event["data"])}
    for _ in range(draw(st.integers(1, 2))):
        target = draw(st.sampled_from([event, event["data"], event["data"]]))
        if not isinstance(target, dict):
            continue
        name = draw(st.sampled_from([*sorted(target), "new", "from", "reason"]))
        if draw(st.integers(0, 4)) == 0:
            target.pop(name, None)
        else:
            target[name] = draw(VALUES)
        if not isinstance(event.get("data"), dict):
            break
    return event


def read_or_refuse(value: bytes) -> TeamEvent | Unreadable:
    try:
        return read_team_event(value, RECEIVED_AT)
    except Unreadable as error:
        return error


@given(st.binary(max_size=60))
def test_read_any_bytes_are_unreadable(value: bytes) -> None:
    assert isinstance(read_or_refuse(value), Unreadable)


@given(VALUES)
def test_read_any_json_is_unreadable(value: object) -> None:
    assert isinstance(read_or_refuse(to_json(value)), Unreadable)


@often
@given(st.sampled_from(EVENTS), st.data())
def test_read_an_event_with_bytes_broken_is_an_event_or_unreadable(event: Event, data: st.DataObject) -> None:
    value = bytearray(to_json(event))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(value) - 1))
        value[at : at + data.draw(st.integers(0, 2))] = data.draw(
            st.sampled_from([b"", b"\xff", b"\xc3", b"\x00", b'"', b"{", b"]", b"9", b"\\u"])
        )

    assert isinstance(read_or_refuse(bytes(value)), TeamEvent | Unreadable)


@often
@given(mutilated())
def test_read_an_event_with_fields_changed_is_an_event_or_unreadable(event: Event) -> None:
    assert isinstance(read_or_refuse(to_json(event)), TeamEvent | Unreadable)


@often
@given(mutilated())
@example({**EVENTS[6], "data": {**EVENTS[6]["data"], "used": 2**64}})
@example({**EVENTS[6], "data": {**EVENTS[6]["data"], "new": [10**30]}})
@example({**EVENTS[0], "data": {**EVENTS[0]["data"], "paid_count": 2**64}})
@example({**EVENTS[1], "data": {**EVENTS[1]["data"], "current_end": 2**64}})
@example({**EVENTS[3], "time": "0001-01-01T00:00:00+14:00"})
@example({**EVENTS[5], "time": "0001-01-01T00:00:00+14:00"})
def test_whatever_is_read_can_be_decided_kept_and_reported(event: Event) -> None:
    read = read_or_refuse(to_json(event))

    if isinstance(read, TeamEvent):
        decision = decide(EMPTY, read, Tier.FREE)
        assert unpack(pack(decision.row)) == decision.row
        assert orjson.loads(tier_current(read, decision.after))["data"]["team_id"] == TEAM
        if decision.kind is not None:
            assert orjson.loads(audit_events(read, decision, owner_of(decision.row))[-1])["type"] == decision.kind


FIELDS = {name: SCALARS | st.just(default) for name, default in EVENTS[0]["data"].items()} | {
    "status": st.sampled_from(["active", None, 1]),
    "has_scheduled_changes": SCALARS,
    "current_end": SCALARS,
    "adopt": SCALARS,
}


@st.composite
def fact_data(draw: st.DrawFn) -> dict[str, Any]:
    """Return the data of a fact, good but for a few fields."""
    good = dict(EVENTS[0]["data"])
    for name in draw(st.lists(st.sampled_from(sorted(FIELDS)), max_size=3, unique=True)):
        if draw(st.integers(0, 4)) == 0:
            good.pop(name, None)
        else:
            good[name] = draw(FIELDS[name])
    return good


@often
@given(fact_data(), st.sampled_from(SubscriptionEvent))
def test_narrow_model_takes_what_the_contract_takes_and_means_the_same(data: dict[str, Any], kind: SubscriptionEvent) -> None:
    value = to_json({**EVENTS[0], "type": kind.value, "data": data})
    contract: SubscriptionFact | None
    try:
        contract = Envelope[SubscriptionFact].model_validate_json(value).data
    except ValidationError:
        contract = None

    read = read_or_refuse(value)

    if contract is None:
        assert isinstance(read, Unreadable)
        assert read.reason in (Reason.MALFORMED, Reason.UNKNOWN_TIER)
    elif isinstance(read, Unreadable):
        assert read.reason in (Reason.UNKNOWN_PLAN, Reason.FUTURE_TIME)
    else:
        assert isinstance(read.body, Billing)
        for name in SubscriptionFact.model_fields:
            if name != "tier":  # kept as it was spelled; ``body.tier`` is what counts
                assert getattr(read.body.fact, name) == getattr(contract, name), name
        assert (read.body.tier and read.body.tier.label) == contract.tier
