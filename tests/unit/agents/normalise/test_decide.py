"""What one webhook means: whose it is, what its plan is, when it happened; and what it says when it means nothing."""

from dataclasses import replace
from datetime import date
from typing import Any

import msgspec
import orjson
import pytest

from agents.normalise.decide import DAY_SECONDS, DERIVED, Fact, Ignored, Normalisation, Normalised, Parked, Rules, decide
from schemas.razorpay import parse_webhook
from schemas.reasons import DEAD_LETTER_REASONS, Reason
from schemas.team_events import SubscriptionEvent, SubscriptionFact
from schemas.tiers import Tier
from tests.webhooks import AT, EVENT_ID, RECEIVED_AT, SUBSCRIPTION, TEAM, body

RULES = Rules({"plan_pro": Tier.PRO, "plan_hobby": Tier.HOBBY})
GRACIOUS = replace(RULES, grace_days=7, grace_reminder_days=(3, 6))
OF_SUBSCRIPTIONS = [event for event in SubscriptionEvent if event not in {*DERIVED, SubscriptionEvent.PAYMENT_FAILED}]
"""Razorpay's events about a subscription."""

OTHER_TEAM = "11111111-2222-4333-8444-555555555555"


def verdict(document: dict[str, Any], linked_team: str | None = None, rules: Rules = RULES) -> Normalisation:
    return decide(parse_webhook(orjson.dumps(document)), EVENT_ID, RECEIVED_AT, linked_team, rules)


def fact_of(document: dict[str, Any], linked_team: str | None = None, rules: Rules = RULES) -> Fact:
    found = verdict(document, linked_team, rules)
    assert isinstance(found, Normalised)
    return found.fact


# A plain charge


def test_decide_a_charge_states_team_tier_and_payment() -> None:
    payment = {"id": "pay_1", "amount": 49_900, "currency": "INR", "email": "payer@example.com"}

    found = verdict(body(payment=payment, subscription={"current_end": AT + 60, "has_scheduled_changes": True}))

    assert found == Normalised(
        SubscriptionEvent.CHARGED,
        TEAM,
        Fact(
            event_id=EVENT_ID,
            subscription_id=SUBSCRIPTION,
            occurred_at=AT,
            time_source="created_at",
            plan_id="plan_pro",
            tier="pro",
            paid_count=1,
            status="active",
            has_scheduled_changes=True,
            current_end=AT + 60,
            email="payer@example.com",
            amount=49_900,
            currency="INR",
            payment_id="pay_1",
            adopt=False,
        ),
    )


@pytest.mark.parametrize("event", OF_SUBSCRIPTIONS)
def test_decide_every_subscription_event_becomes_a_fact_of_its_own_name(event: SubscriptionEvent) -> None:
    found = verdict(body(event))

    assert isinstance(found, Normalised)
    assert found.event is event


# Whose team?


@pytest.mark.parametrize(
    ("notes", "payment_notes", "linked", "team"),
    [
        pytest.param({"team_id": TEAM}, {"team_id": OTHER_TEAM}, OTHER_TEAM, TEAM, id="the subscription's note is the first word"),
        pytest.param([], {"team_id": TEAM}, OTHER_TEAM, TEAM, id="the payment's note is the second"),
        pytest.param([], [], TEAM, TEAM, id="the table is the last"),
        pytest.param({}, None, TEAM, TEAM, id="no payment at all"),
        pytest.param({"team_id": TEAM.upper()}, None, None, TEAM, id="upper case is folded"),
        pytest.param({"team_id": f" {TEAM} "}, None, None, TEAM, id="spaces round it do not count"),
        pytest.param({"team_id": TEAM.replace("-", "")}, None, None, TEAM, id="without hyphens it is the same"),
    ],
)
def test_decide_the_team_is_found_in_notes_before_the_table(notes: object, payment_notes: object, linked: str | None, team: str) -> None:
    found = verdict(body(notes=notes, payment=None if payment_notes is None else {"id": "pay_1", "notes": payment_notes}), linked)

    assert isinstance(found, Normalised)
    assert found.team_id == team


def test_decide_the_note_is_called_as_the_settings_say() -> None:
    assert isinstance(verdict(body(notes={"workspace": TEAM}), rules=Rules(RULES.plans, team_note="workspace")), Normalised)
    assert isinstance(verdict(body(notes={"workspace": TEAM})), Parked)


def test_decide_a_note_that_is_no_uuid_is_parked_although_the_table_knows_a_team() -> None:
    found = verdict(body(notes={"team_id": "team-42"}), linked_team=TEAM)

    assert isinstance(found, Parked)
    assert found.reason is Reason.UNKNOWN_TEAM
    assert "the note team_id is no team id" in found.error.lower()
    assert "team-42" not in found.error, "what a note holds may be private"
    assert found.team_id is None


NIL = "00000000-0000-0000-0000-000000000000"


@pytest.mark.parametrize("nil", [NIL, NIL.replace("-", "")])
def test_decide_a_note_of_the_nil_uuid_names_no_team(nil: str) -> None:
    found = verdict(body(notes={"team_id": nil}), linked_team=TEAM)

    assert isinstance(found, Parked)
    assert found.reason is Reason.UNKNOWN_TEAM


def test_decide_a_charge_of_nobody_is_parked_and_undeliverable() -> None:
    found = verdict(body(notes=[]))

    assert isinstance(found, Parked)
    assert (found.reason, found.team_id) == (Reason.UNKNOWN_TEAM, None)
    assert found.undeliverable is not None
    assert found.undeliverable.subscription_id == SUBSCRIPTION


@pytest.mark.parametrize("event", [event for event in OF_SUBSCRIPTIONS if event is not SubscriptionEvent.CHARGED])
def test_decide_another_event_of_nobody_is_parked_with_no_money_to_place(event: SubscriptionEvent) -> None:
    found = verdict(body(event, notes=[]))

    assert isinstance(found, Parked)
    assert (found.reason, found.undeliverable) == (Reason.UNKNOWN_TEAM, None)


# What tier?


UNKNOWN_PLAN = {"plan_id": "plan_of_nobody"}


@pytest.mark.parametrize(
    ("event", "entity", "undeliverable"),
    [
        pytest.param("subscription.charged", {}, True, id="a charge, for which money came in"),
        pytest.param("subscription.activated", {"paid_count": 1}, False, id="a paid activation"),
        pytest.param("subscription.updated", {"status": "active"}, False, id="an update in force"),
        pytest.param("subscription.resumed", {"status": "active"}, False, id="a return from a pause"),
    ],
)
@pytest.mark.parametrize("plan", [UNKNOWN_PLAN, {"plan_id": None}], ids=["unknown plan", "no plan"])
def test_decide_a_start_on_an_unknown_plan_is_parked_with_its_team(
    event: str, entity: dict[str, Any], undeliverable: bool, plan: dict[str, Any]
) -> None:
    found = verdict(body(event, subscription={**entity, **plan}))

    assert isinstance(found, Parked)
    assert (found.reason, found.team_id) == (Reason.UNKNOWN_PLAN, TEAM)
    assert (found.undeliverable is not None) is undeliverable
    assert (plan["plan_id"] or "(none)") in found.error


def test_decide_a_plan_of_any_length_leaves_room_for_what_to_do_about_it() -> None:
    found = verdict(body(subscription={"plan_id": "p" * 1_000}))

    assert isinstance(found, Parked)
    assert found.error.startswith(f"The plan {'p' * 100}… is not in the plan file")
    assert found.error.endswith("replay this record.")


@pytest.mark.parametrize(
    ("event", "entity"),
    [
        ("subscription.activated", {"paid_count": 0}),
        ("subscription.authenticated", {}),
        ("subscription.updated", {"status": "active", "has_scheduled_changes": True}),
        ("subscription.updated", {"status": "pending"}),
        ("subscription.pending", {}),
        ("subscription.paused", {}),
        ("subscription.resumed", {"status": "paused"}),
        ("subscription.halted", {}),
        ("subscription.cancelled", {}),
        ("subscription.completed", {}),
    ],
)
def test_decide_what_starts_no_plan_needs_none(event: str, entity: dict[str, Any]) -> None:
    assert fact_of(body(event, subscription={**entity, **UNKNOWN_PLAN})).tier is None


def test_decide_an_unknown_team_comes_before_an_unknown_plan() -> None:
    found = verdict(body(notes=[], subscription=UNKNOWN_PLAN))
    assert isinstance(found, Parked)
    assert found.reason is Reason.UNKNOWN_TEAM


# When?


@pytest.mark.parametrize(
    ("created_at", "entity", "expected"),
    [
        pytest.param(AT, {}, (AT, "created_at"), id="the body's own time"),
        pytest.param(
            None, {"current_start": AT - 50, "current_end": AT + 9_999_999}, (AT - 50, "entities"), id="the entities' latest past"
        ),
        pytest.param(None, {}, (RECEIVED_AT, "receipt"), id="nothing: the receipt"),
    ],
)
def test_decide_says_which_source_its_time_is_from(created_at: int | None, entity: dict[str, Any], expected: tuple[int, str]) -> None:
    fact = fact_of(body(created_at=created_at, subscription=entity))
    assert (fact.occurred_at, fact.time_source) == expected


@pytest.mark.parametrize("ahead", [0, 299, 300])
def test_decide_a_time_up_to_five_minutes_ahead_is_taken(ahead: int) -> None:
    assert fact_of(body(created_at=RECEIVED_AT + ahead)).occurred_at == RECEIVED_AT + ahead


@pytest.mark.parametrize("milliseconds", [AT * 1_000, str(AT * 1_000), AT * 1_000.0])
def test_decide_milliseconds_are_no_time_and_the_entities_times_or_the_receipt_count(milliseconds: object) -> None:
    with_times = fact_of(body(created_at=milliseconds, subscription={"current_start": AT - 9, "created_at": AT * 1_000}))
    without = fact_of(body(created_at=milliseconds))

    assert (with_times.occurred_at, with_times.time_source) == (AT - 9, "entities")
    assert (without.occurred_at, without.time_source) == (RECEIVED_AT, "receipt")


@pytest.mark.parametrize("created_at", [RECEIVED_AT + 301, AT * 100], ids=["just beyond", "far beyond"])
def test_decide_a_time_further_ahead_is_parked(created_at: int) -> None:
    found = verdict(body(created_at=created_at))

    assert isinstance(found, Parked)
    assert found.reason is Reason.FUTURE_TIME
    assert f"{created_at - RECEIVED_AT} s after its receipt" in found.error


# Adoption


@pytest.mark.parametrize(
    ("created_at", "before", "adopt"),
    [
        pytest.param(1_735_689_599, date(2025, 1, 1), True, id="the second before midnight"),
        pytest.param(1_735_689_600, date(2025, 1, 1), False, id="midnight itself"),
        pytest.param(1_735_689_599, None, False, id="no date is set"),
        pytest.param(None, date(2025, 1, 1), False, id="the subscription does not say"),
    ],
)
def test_decide_adopts_a_subscription_older_than_the_date(created_at: int | None, before: date | None, adopt: bool) -> None:
    rules = Rules(RULES.plans, adopt_created_before=before)
    assert fact_of(body(subscription={"created_at": created_at}), rules=rules).adopt is adopt


# Grace


@pytest.mark.parametrize("event", ["subscription.pending", "payment.failed"])
def test_decide_a_failed_payment_says_when_its_grace_ends_and_when_to_remind(event: str) -> None:
    found = verdict(body(event), rules=GRACIOUS)

    assert isinstance(found, Normalised)
    assert (found.event, found.team_id) == (event, TEAM)
    assert found.fact.grace_ends_at == AT + 7 * DAY_SECONDS
    assert found.fact.grace_reminders_at == (AT + 3 * DAY_SECONDS, AT + 6 * DAY_SECONDS)


@pytest.mark.parametrize("event", [event for event in OF_SUBSCRIPTIONS if event is not SubscriptionEvent.PENDING])
def test_decide_no_other_event_has_a_grace(event: SubscriptionEvent) -> None:
    fact = fact_of(body(event), rules=GRACIOUS)
    assert (fact.grace_ends_at, fact.grace_reminders_at) == (None, ())


def test_decide_a_pending_without_any_grace_is_a_fact_without_its_times() -> None:
    fact = fact_of(body("subscription.pending"))
    assert (fact.grace_ends_at, fact.grace_reminders_at) == (None, ())


@pytest.mark.parametrize(
    ("notes", "linked", "team"),
    [
        pytest.param({"team_id": TEAM}, OTHER_TEAM, TEAM, id="its note"),
        pytest.param([], OTHER_TEAM, OTHER_TEAM, id="the table"),
    ],
)
def test_decide_a_failed_payment_is_of_the_team_that_the_others_are_of(notes: object, linked: str, team: str) -> None:
    found = verdict(body("payment.failed", notes=notes), linked, GRACIOUS)

    assert isinstance(found, Normalised)
    assert found.team_id == team


@pytest.mark.parametrize("notes", [[], {"team_id": "team-42"}])
def test_decide_a_failed_payment_of_nobody_is_no_dead_letter(notes: object) -> None:
    assert verdict(body("payment.failed", notes=notes), rules=GRACIOUS) == Ignored(Reason.PAYMENT_TROUBLE)


def test_decide_a_failed_payment_without_a_subscription_has_no_grace() -> None:
    document = {"event": "payment.failed", "created_at": AT, "payload": {"payment": {"entity": {"notes": {"team_id": TEAM}}}}}
    assert verdict(document, rules=GRACIOUS) == Ignored(Reason.PAYMENT_TROUBLE)


def test_decide_a_failed_payment_needs_no_plan() -> None:
    assert fact_of(body("payment.failed", subscription={"plan_id": "plan_of_nobody"}), rules=GRACIOUS).tier is None


def test_decide_a_failed_payment_too_far_ahead_is_parked() -> None:
    found = verdict(body("payment.failed", created_at=AT * 10), rules=GRACIOUS)

    assert isinstance(found, Parked)
    assert found.reason is Reason.FUTURE_TIME


# Nothing follows


@pytest.mark.parametrize(
    "event", ["order.paid", "payment.captured", "invoice.expired", "subscription.renamed", "nonsense", *sorted(DERIVED)]
)
def test_decide_an_event_that_is_none_of_ours_is_ignored(event: str) -> None:
    assert verdict(body(event)) == Ignored(Reason.IGNORED)


@pytest.mark.parametrize(("event", "reason"), [("payment.failed", Reason.PAYMENT_TROUBLE), ("subscription.created", Reason.NOT_STARTED)])
def test_decide_an_event_without_a_fact_still_emits_whose_subscription_it_is(event: str, reason: Reason) -> None:
    assert verdict(body(event)) == Ignored(reason, TEAM)


@pytest.mark.parametrize("event", ["payment.failed", "subscription.created"])
def test_decide_an_event_without_a_fact_needs_neither_team_nor_subscription(event: str) -> None:
    no_subscription = {"event": event, "created_at": AT, "payload": {"payment": {"entity": {"notes": {"team_id": TEAM}}}}}

    nobodys, without = verdict(body(event, notes=[])), verdict(no_subscription)

    assert isinstance(nobodys, Ignored)
    assert isinstance(without, Ignored)
    assert (nobodys.team_id, without.team_id) == (None, None)


@pytest.mark.parametrize("event", OF_SUBSCRIPTIONS)
def test_decide_a_subscription_event_without_a_subscription_is_malformed(event: SubscriptionEvent) -> None:
    found = verdict({"event": event, "created_at": AT, "payload": {}}, linked_team=TEAM)

    assert isinstance(found, Parked)
    assert (found.reason, found.undeliverable) == (Reason.MALFORMED, None)
    assert event in found.error


def test_decide_a_body_that_names_no_event_is_malformed() -> None:
    found = verdict({"payload": {}})
    assert isinstance(found, Parked)
    assert found.reason is Reason.MALFORMED


def test_decide_parks_only_for_reasons_that_make_a_dead_letter() -> None:
    parked = [
        verdict({"payload": {}}),
        verdict({"event": "subscription.charged"}),
        verdict(body(created_at=AT * 10)),
        verdict(body(notes=[])),
        verdict(body(subscription=UNKNOWN_PLAN)),
    ]
    assert all(isinstance(found, Parked) and found.reason in DEAD_LETTER_REASONS for found in parked)


# The fact as it is written


def test_fact_of_a_grace_is_written_as_the_contract_writes_it() -> None:
    written = msgspec.json.encode(fact_of(body("subscription.pending"), rules=GRACIOUS))

    assert orjson.dumps(SubscriptionFact.model_validate_json(written).model_dump(exclude_none=True)) == written


def test_fact_has_the_fields_of_the_contract() -> None:
    assert [field.name for field in msgspec.structs.fields(Fact)] == list(SubscriptionFact.model_fields)


@pytest.mark.parametrize("payment", [None, {"id": "pay_1", "amount": 0, "currency": "INR", "email": "payer@example.com"}])
def test_fact_is_written_as_the_contract_writes_it(payment: dict[str, Any] | None) -> None:
    written = msgspec.json.encode(fact_of(body(payment=payment)))

    assert (
        orjson.dumps(SubscriptionFact.model_validate_json(written).model_dump(exclude_none=True, exclude={"grace_reminders_at"})) == written
    )
