"""Reading one record of ``team.events``: what is taken, and the one sentence and reason for what is not."""

from typing import Any

import msgspec
import orjson
import pytest

from agents.classify.facts import MAX_DEPTH, Billing, BillingFact, Imported, Service, Unreadable, read_team_event
from schemas.kinds import SERVICE_KINDS
from schemas.reasons import DEAD_LETTER_REASONS, Reason
from schemas.team_events import EVENT_RANK, MAX_CLOCK_SKEW_SECONDS, SERVICE_DATA, SubscriptionEvent, SubscriptionFact, starts
from schemas.tiers import Tier
from tests.factories import RECEIVED_AT, T0, TEAM, Event, billing, claim, due, imported, override, read, rfc3339, service

OTHER_TEAM = "3f1c1f0e-6a55-4c5c-9a39-0a4d3c1f7b02"


def unreadable(value: bytes | Event | None, received_at: int = RECEIVED_AT) -> Unreadable:
    """Return what reading ``value`` raises."""
    with pytest.raises(Unreadable) as caught:
        read_team_event(orjson.dumps(value) if isinstance(value, dict) else value, received_at)
    return caught.value


def changed(event: Event, **data: Any) -> Event:
    return {**event, "data": {**event["data"], **data}}


def without(event: Event, field: str) -> Event:
    return {**event, "data": {name: value for name, value in event["data"].items() if name != field}}


# What is taken


@pytest.mark.parametrize("event", SubscriptionEvent)
def test_read_subscription_fact_has_its_event_tier_and_rank(event: SubscriptionEvent) -> None:
    fact = billing(event.value.removeprefix("subscription."), 7, plan="plan_pro_yearly", paid_count=3, event_id="Rp71ZiqdEWusLa")

    read_event = read(fact)

    assert isinstance(read_event.body, Billing)
    assert (read_event.body.event, read_event.body.tier) == (event, Tier.PRO)
    assert read_event.version == (T0 + 7, EVENT_RANK[event], 3, "Rp71ZiqdEWusLa")
    assert (read_event.team_id, read_event.occurred_at, read_event.correlation_id) == (TEAM, T0 + 7, "Rp71ZiqdEWusLa")


SERVICE_EVENTS = [
    claim(7.5),
    override(7.5, "pro"),
    service("near_quota_wall", 7.5, resource_type="seats", used=9, limit=10),
    service("experiment.conversion", 7.5, experiment="x", variant="b"),
    service("admin.promo_issued", 7.5, code="X", admin="admin-7"),
    service("resource.expiry_imminent", 7.5, resource_type="domain", resource_id="d1", expires_at=rfc3339(90)),
]


@pytest.mark.parametrize("event", SERVICE_EVENTS, ids=lambda event: event["type"])
def test_read_service_event_has_its_kind_and_ranks_after_every_fact_of_its_second(event: Event) -> None:
    read_event = read(event)

    assert isinstance(read_event.body, Service)
    assert read_event.body.kind == event["type"]
    assert isinstance(read_event.body.data, SERVICE_DATA[read_event.body.kind])
    assert read_event.version == (T0 + 7, 10, 500_000, f"app#{event['id']}")
    assert (read_event.occurred_at, read_event.correlation_id) == (T0 + 7, event["id"])


def test_service_events_here_are_of_every_kind_that_services_send() -> None:
    assert {event["type"] for event in SERVICE_EVENTS} == {*SERVICE_KINDS}


def test_read_import_ranks_before_every_fact_of_its_second() -> None:
    read_event = read(imported(7.5, "Pro_Yearly", "plan_pro", "sub_A"))

    assert isinstance(read_event.body, Imported)
    assert (read_event.body.data.tier, read_event.body.data.plan_id, read_event.body.data.subscription_id) == ("pro", "plan_pro", "sub_A")
    assert read_event.version[:3] == (T0 + 7, 0, 500_000)


@pytest.mark.parametrize("subject", [TEAM.upper(), TEAM.replace("-", ""), f" {TEAM} "])
def test_read_team_id_in_another_spelling_is_the_one_key(subject: str) -> None:
    assert read({**billing("charged"), "subject": subject}).team_id == TEAM


def test_read_unknown_attributes_and_unknown_fields_of_a_fact_are_ignored() -> None:
    fact = {**changed(billing("charged"), future_field=[1, {"a": None}]), "traceparent": "00-1-2-3"}

    assert read(fact).version == read(billing("charged")).version


def test_read_unknown_fields_of_a_service_event_are_kept() -> None:
    body = read(service("near_quota_wall", 0, resource_type="seats", used=9, limit=10, region="eu")).body

    assert isinstance(body, Service)
    assert body.data.extra == {"region": "eu"}


@pytest.mark.parametrize("time", [T0 + 7, str(T0 + 7), rfc3339(7), "2025-06-15T15:06:47Z", "2025-06-15T20:36:47+05:30"])
def test_read_expiry_time_as_seconds_or_rfc3339_is_one_instant(time: object) -> None:
    body = read(service("resource.expiry_imminent", 0, resource_type="domain", resource_id="d1", expires_at=time)).body

    assert isinstance(body, Service)
    assert body.data.expires_at.timestamp() == T0 + 7  # type: ignore[attr-defined]


# Unknown plan, tier, team, kind

NEEDS_A_PLAN = [billing("charged"), billing("activated"), billing("updated", status="active")]
NEEDS_NONE = [
    billing("authenticated"),
    billing("activated", paid_count=0),
    billing("updated", status="active", has_scheduled_changes=True),
    billing("updated", status="halted"),
    billing("updated", status=None),
    *(billing(event) for event in ("pending", "paused", "resumed", "halted", "completed", "cancelled")),
]


@pytest.mark.parametrize("event", NEEDS_A_PLAN, ids=lambda event: event["type"])
def test_read_fact_that_starts_a_plan_of_unknown_tier_is_parked(event: Event) -> None:
    assert unreadable(changed(event, plan_id="plan_x", tier=None)).reason is Reason.UNKNOWN_PLAN
    assert unreadable(without(event, "tier")).reason is Reason.UNKNOWN_PLAN


@pytest.mark.parametrize("event", NEEDS_NONE, ids=lambda event: event["type"])
def test_read_fact_that_starts_no_plan_needs_none(event: Event) -> None:
    body = read(changed(event, plan_id=None, tier=None)).body

    assert isinstance(body, Billing)
    assert body.tier is None


@pytest.mark.parametrize(("events", "expected"), [(NEEDS_A_PLAN, True), (NEEDS_NONE, False)])
def test_starts_is_true_of_the_facts_that_put_a_plan_in_force_and_of_no_other(events: list[Event], expected: bool) -> None:
    for event in events:
        data = event["data"]
        started = starts(SubscriptionEvent(event["type"]), data["paid_count"], data.get("status"), data.get("has_scheduled_changes", False))
        assert started is expected, event


@pytest.mark.parametrize(
    "event",
    [
        billing("charged", tier="gold"),
        billing("cancelled", tier=""),
        billing("charged", tier=4),
        claim(tier="gold"),
        override(0, "gold"),
        imported(0, "gold"),
    ],
)
def test_read_unknown_tier_is_parked_never_guessed(event: Event) -> None:
    assert unreadable(event).reason is Reason.UNKNOWN_TIER


@pytest.mark.parametrize("subject", [None, "", "team_42", TEAM[:-1]])
@pytest.mark.parametrize("event", [billing("charged"), claim(), imported(0, "pro")], ids=lambda event: event["type"])
def test_read_team_id_that_is_no_uuid_is_an_unknown_team(event: Event, subject: str | None) -> None:
    assert unreadable({**event, "subject": subject}).reason is Reason.UNKNOWN_TEAM


def test_read_no_subject_is_an_unknown_team() -> None:
    event = billing("charged")
    del event["subject"]

    assert unreadable(event).reason is Reason.UNKNOWN_TEAM


@pytest.mark.parametrize(
    "kind", ["subscription.created", "subscription.canceled", "subscription.upgraded", "tier.current", "Onboarding.Claimed", "x" * 5_000]
)
def test_read_type_that_the_topic_does_not_carry_is_an_unknown_kind(kind: str) -> None:
    error = unreadable({**claim(), "type": kind})

    assert error.reason is Reason.UNKNOWN_KIND
    assert len(str(error)) < 200


# Times


@pytest.mark.parametrize(
    "event", [billing("charged", 1_000), claim(1_000), claim(1_000.9), imported(1_000, "pro")], ids=lambda event: event["type"]
)
def test_read_time_up_to_five_minutes_ahead_of_the_receipt_is_taken_and_no_more(event: Event) -> None:
    assert read(event, T0 + 1_000 - MAX_CLOCK_SKEW_SECONDS).occurred_at == T0 + 1_000
    assert unreadable(event, T0 + 999 - MAX_CLOCK_SKEW_SECONDS).reason is Reason.FUTURE_TIME


def test_read_milliseconds_sent_as_seconds_is_a_dead_letter() -> None:
    assert unreadable(billing("charged", occurred_at=T0 * 1000)).reason in (Reason.FUTURE_TIME, Reason.MALFORMED)


@pytest.mark.parametrize("event", [claim(), imported(0, "pro")], ids=lambda event: event["type"])
@pytest.mark.parametrize("time", ["0001-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "0999-12-31T23:59:59Z", "1969-12-31T23:59:59Z"])
def test_read_time_before_1970_is_malformed(event: Event, time: str) -> None:
    # Before the year 1000 it can not be written as RFC 3339 again, and before the year 1 not at all.
    assert unreadable({**event, "time": time}).reason is Reason.MALFORMED


# Malformed

CHARGED = orjson.dumps(billing("charged"))
NEAR = orjson.dumps(service("near_quota_wall", 0, resource_type="seats", used=9, limit=10))


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"{",
        b"null",
        b"42",
        b"[1,2,3]",
        b"{}",
        b"\xff\xfe",
        b'"text"',
        CHARGED[:-1],
        CHARGED + b"x",
        b"[" * 100_000,
        CHARGED.replace(b'"1.0"', b"1"),
        CHARGED.replace(b"plan_pro", b"plan_\xff"),
        CHARGED.replace(b"plan_pro", b"\\ud800"),
        CHARGED.replace(b"sub_A", b"\xc3\x28"),
        CHARGED.replace(b'"paid_count":1', b'"paid_count":NaN'),
        NEAR.replace(b'"used":9', b'"used":NaN'),
        NEAR.replace(b'"used":9', b'"used":9,"note":"\xff"'),
        NEAR.replace(b'"used":9', b'"used":9,"note":' + b"[" * 100_000 + b"]" * 100_000),
    ],
)  # fmt: skip
def test_read_bytes_that_are_no_envelope_are_malformed(value: bytes | None) -> None:
    assert unreadable(value).reason is Reason.MALFORMED


@pytest.mark.parametrize(
    "event",
    [
        {**billing("charged"), "id": ""},
        {**billing("charged"), "id": "x" * 101},
        {**billing("charged"), "id": 7},
        {**billing("charged"), "source": ""},
        {**billing("charged"), "data": None},
        {**billing("charged"), "data": []},
        {**claim(), "time": "2025-06-15T15:06:40"},
        {**claim(), "time": "yesterday"},
        {**claim(), "specversion": "0.3"},
        {**billing("charged"), "specversion": "0.3"},
        without(billing("charged"), "event_id"),
        without(billing("charged"), "subscription_id"),
        without(billing("charged"), "occurred_at"),
        without(billing("charged"), "time_source"),
        billing("charged", occurred_at=-1),
        billing("charged", occurred_at="soon"),
        billing("charged", occurred_at=None),
        billing("charged", occurred_at=1.5),
        billing("charged", time_source="moon"),
        changed(billing("charged"), paid_count="many"),
        changed(billing("charged"), paid_count=None),
        without(claim(), "email"),
        claim(email="nobody"),
        claim(email="a b@example.com"),
        claim(user_id=""),
        without(override(0, "pro"), "admin"),
        without(override(0, "pro"), "to"),
        service("near_quota_wall", 0, resource_type="seats", used="9 of 10", limit=10),
        service("admin.promo_issued", 0, code="X", admin="a", percent_off=101),
        service("resource.expiry_imminent", 0, resource_type="d", resource_id="1", expires_at=T0 * 1000),
        service("resource.expiry_imminent", 0, resource_type="d", resource_id="1", expires_at=True),
        service("resource.expiry_imminent", 0, resource_type="d", resource_id="1", expires_at="2025-06-15T15:06:40"),
    ],
)  # fmt: skip
def test_read_envelope_that_breaks_the_contract_is_malformed(event: Event) -> None:
    assert unreadable(event).reason is Reason.MALFORMED


@pytest.mark.parametrize("number", [2**64, 10**30, -(10**30)])
@pytest.mark.parametrize("field", ["paid_count", "current_end"])
def test_read_number_that_a_row_can_not_hold_is_malformed(field: str, number: int) -> None:
    value = orjson.dumps(billing("completed", current_end=1)).replace(
        b'"current_end":1' if field == "current_end" else b'"paid_count":1', f'"{field}":{number}'.encode()
    )

    assert unreadable(value).reason is Reason.MALFORMED


def test_unreadable_names_the_fields_that_are_wrong_and_none_of_their_values() -> None:
    error = unreadable(service("onboarding.claimed", 0, email="jane doe@example.com", user_id="", tier="Jane@example.com"))

    assert all(field in str(error) for field in ("email", "user_id", "tier"))
    assert "jane" not in str(error).lower()


@pytest.mark.parametrize(
    "value",
    [None, b"{", orjson.dumps(claim(tier="gold")), orjson.dumps({**claim(), "subject": "x"}), orjson.dumps({**claim(), "type": "x"})],
)
def test_unreadable_is_one_sentence_with_a_dead_letter_reason(value: bytes | None) -> None:
    error = unreadable(value)

    assert error.reason in DEAD_LETTER_REASONS
    assert str(error).endswith(".")
    assert "\n" not in str(error)


# The narrow model of the hot path


def test_narrow_model_has_the_fields_and_defaults_of_the_contract() -> None:
    contract = {
        name: (msgspec.NODEFAULT if field.is_required() else field.default) for name, field in SubscriptionFact.model_fields.items()
    }

    assert {field.name: field.default for field in msgspec.structs.fields(BillingFact)} == contract


@pytest.mark.parametrize(
    ("field", "sent", "taken"),
    [
        ("paid_count", "3", 3),
        ("paid_count", 3.0, 3),
        ("occurred_at", str(T0), T0),
        ("has_scheduled_changes", "true", True),
        ("has_scheduled_changes", 0, False),
        ("tier", " Pro_YEARLY ", "pro"),
    ],
)
def test_read_value_that_only_the_contract_takes_is_taken_as_it_says(field: str, sent: object, taken: object) -> None:
    event = read(changed(billing("charged"), **{field: sent}))

    assert isinstance(event.body, Billing)
    assert event.body.tier is Tier.PRO
    assert field == "tier" or getattr(event.body.fact, field) == taken


def test_read_due_record_by_a_clock_ahead_of_the_brokers_is_taken() -> None:
    ahead = due(MAX_CLOCK_SKEW_SECONDS + 999)

    assert read_team_event(orjson.dumps(ahead), T0).occurred_at == T0 + MAX_CLOCK_SKEW_SECONDS + 999


# Hostile JSON, of a producer that is not ours


def with_text(text: str) -> bytes:
    """An event whose data holds ``text`` as JSON in a field that the contract does not name."""
    event = orjson.dumps(service("near_quota_wall", 7, resource_type="seats", used=9, limit=10, note=0)).decode()
    return event.replace('"note":0', f'"note":{text}').encode()


@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 900, 950, 990, 1_100, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_read_what_is_nested_too_deep_is_malformed_at_any_depth_of_calls(levels: int, opening: str, closing: str) -> None:
    deep = opening * levels + "1" + closing * levels
    billed = orjson.dumps(billing("charged", 7)).decode().removesuffix("}") + f', "more": {deep}}}'
    unknown = with_text(deep).replace(b"near_quota_wall", b"no.such.kind")

    def called(times: int, value: bytes) -> Reason:
        return called(times - 1, value) if times else unreadable(value).reason

    for value in (with_text(deep), billed.encode(), unknown):
        if len(value) > 1_000:
            assert [called(times, value) for times in (0, 400)] == [Reason.MALFORMED] * 2


@pytest.mark.parametrize("text", ["1e400", "-1e400", "[[1e400]]", "9" * 25])
def test_read_number_that_would_be_written_as_another_is_malformed(text: str) -> None:
    assert unreadable(with_text(text)).reason is Reason.MALFORMED


@pytest.mark.parametrize("used", ["1e400", '"nan"', '"inf"', "-1e400"])
def test_read_number_that_json_does_not_have_is_malformed(used: str) -> None:
    value = with_text("0").replace(b'"used":9', f'"used":{used}'.encode())

    assert "data.used" in str(unreadable(value))
