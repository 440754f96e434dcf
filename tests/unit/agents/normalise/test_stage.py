"""Normalise's step: a webhook or a link and the rows in, the outcome, the records and the row out."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import orjson
import pytest

from agents.normalise.decide import Rules
from agents.normalise.stage import NormaliseStage
from schemas.envelope import HEADERS
from schemas.kinds import Kind
from schemas.reasons import Reason
from schemas.tiers import Tier
from streams.engine.table_stage import Step, step_of
from streams.engine.transactions import Output
from streams.settings import Settings
from tests.steps import audit_in, fact_in, facts_of, only, owner, value_of
from tests.webhooks import AT, EVENT_ID, RECEIVED_AT, SUBSCRIPTION, TEAM, body, delivery, link, record

SETTINGS = Settings(topic_prefix="x.")
OTHER_TEAM = "11111111-2222-4333-8444-555555555555"
Rows = Mapping[bytes, bytes]
NORMALISE = NormaliseStage(SETTINGS, Rules({"plan_pro": Tier.PRO}))


def normalise(document: Any, rows: Rows | None = None, **where: Any) -> Step:
    return step_of(NORMALISE, delivery(document, **where), rows or {})


# Normalise, where a fact follows


def test_normalise_a_charge_becomes_one_fact_keyed_by_its_team() -> None:
    step = normalise(body())

    output = only(step)
    assert (step.reason, step.error) == (Reason.NORMALISED, None)
    assert (output.topic, output.key) == ("x.team.events", TEAM.encode())
    assert (output.headers, output.partition) == (HEADERS, -1)
    event = fact_in(step)
    assert (event.type, event.subject, event.source) == ("subscription.charged", TEAM, "tierstream/normalise")
    assert (event.causationid, event.correlationid) == (EVENT_ID, EVENT_ID)
    assert event.time.timestamp() == event.data.occurred_at == AT
    assert (event.data.tier, event.data.event_id, event.data.subscription_id) == ("pro", EVENT_ID, SUBSCRIPTION)


def test_normalise_learns_whose_subscription_it_is() -> None:
    step = normalise(body())
    assert (step.key, owner(step)) == (SUBSCRIPTION.encode(), TEAM)


def test_normalise_does_not_write_a_row_that_it_has() -> None:
    row = normalise(body()).row or b""

    step = normalise(body(), {SUBSCRIPTION.encode(): row})

    assert (step.reason, step.key, step.row) == (Reason.NORMALISED, None, None)


def test_normalise_a_note_overrules_the_row_and_replaces_it() -> None:
    step = normalise(body(), {SUBSCRIPTION.encode(): OTHER_TEAM.encode()})

    assert facts_of(step)[0].subject == TEAM
    assert owner(step) == TEAM


def test_normalise_without_a_note_takes_the_row() -> None:
    step = normalise(body(notes=[]), {SUBSCRIPTION.encode(): OTHER_TEAM.encode()})

    assert fact_in(step).subject == OTHER_TEAM
    assert owner(step) == OTHER_TEAM


@pytest.mark.parametrize("event", ["subscription.created", "payment.failed"])
def test_normalise_learns_the_team_from_an_event_without_a_fact(event: str) -> None:
    step = normalise(body(event))

    assert step.outputs == ()
    assert (step.key, owner(step)) == (SUBSCRIPTION.encode(), TEAM)


def test_normalise_learns_the_team_from_a_charge_with_an_unknown_plan() -> None:
    step = normalise(body(subscription={"plan_id": "plan_x"}))

    assert step.reason is Reason.UNKNOWN_PLAN
    assert (step.key, owner(step)) == (SUBSCRIPTION.encode(), TEAM)


def test_normalise_an_event_that_is_none_of_ours_makes_nothing() -> None:
    assert normalise({"event": "order.paid", "payload": {}}, key=EVENT_ID.encode()) == Step(Reason.IGNORED)


# Normalise's ids


def test_normalise_a_redelivery_gives_the_same_bytes_wherever_it_lies() -> None:
    first, again = normalise(body(), offset=3), normalise(body(), offset=900, partition=2)
    assert value_of(only(first)) == value_of(only(again))


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"event_id": "OcQNNvRBTYRYUw"}, id="another delivery"),
        pytest.param({"document": body(notes={"team_id": OTHER_TEAM})}, id="another team"),
        pytest.param({"document": body("subscription.halted")}, id="another event"),
    ],
)
def test_normalise_another_source_event_gives_another_id(other: dict[str, Any]) -> None:
    first = fact_in(normalise(body()))
    second = fact_in(normalise(**{"document": body(), **other}))
    assert UUID(first.id) != UUID(second.id)


def test_normalise_a_record_without_the_gateways_headers_is_named_by_its_place() -> None:
    landed = record(orjson.dumps(body(created_at=None)), SUBSCRIPTION.encode(), topic="x.razorpay.webhooks", partition=2, offset=17)

    event = fact_in(step_of(NORMALISE, landed, {}))

    assert event.correlationid == "x.razorpay.webhooks-2-17"
    assert (event.data.occurred_at, event.data.time_source) == (RECEIVED_AT, "receipt")


@pytest.mark.parametrize("received_at", [b"", b"soon", b"-5", b"\xff"])
def test_normalise_a_receipt_that_is_no_number_falls_back_to_the_records_time(received_at: bytes) -> None:
    headers = (("razorpay-event-id", EVENT_ID.encode()), ("received-at", received_at))
    landed = record(orjson.dumps(body(created_at=None)), SUBSCRIPTION.encode(), headers=headers)
    assert fact_in(step_of(NORMALISE, landed, {})).data.occurred_at == RECEIVED_AT


# What normalise can not place


def test_normalise_a_charge_of_nobody_is_a_dead_letter_and_an_undeliverable_charge_of_no_team() -> None:
    step = normalise(body(notes=[], payment={"id": "pay_1", "amount": 49_900, "currency": "INR"}))

    assert step.reason is Reason.UNKNOWN_TEAM
    assert step.error is not None
    assert owner(step) is None
    output = only(step)
    assert (output.topic, output.key) == ("x.audit.events", SUBSCRIPTION.encode())
    event = audit_in(output)
    assert (event.type, event.subject) == (Kind.CHARGE_UNDELIVERABLE, None)
    assert b'"subject"' not in value_of(output)
    assert event.data.summary == "Charge received for an unknown team"
    assert event.data.metadata == {
        "subscription_id": SUBSCRIPTION,
        "plan_id": "plan_pro",
        "time_source": "created_at",
        "paid_count": 1,
        "amount": 49_900,
        "currency": "INR",
        "payment_id": "pay_1",
        "reason": "unknown_team",
        "event_id": EVENT_ID,
        "occurred_at": "2025-06-15T15:06:40Z",
        "from": None,
        "to": None,
    }


def test_normalise_a_charge_on_an_unknown_plan_is_an_undeliverable_charge_of_its_team() -> None:
    step = normalise(body(subscription={"plan_id": "plan_x"}))

    output = only(step)
    assert (output.topic, output.key) == ("x.audit.events", TEAM.encode())
    assert audit_in(output).subject == TEAM
    assert audit_in(output).data.summary == "Charge received for an unknown plan"


def test_normalise_an_undeliverable_charge_has_an_id_of_its_own() -> None:
    undeliverable = audit_in(only(normalise(body(subscription={"plan_id": "plan_x"}))))
    charged = fact_in(normalise(body()))
    assert undeliverable.id != charged.id


@pytest.mark.parametrize("value", [None, b"", b"{", b"[1,2,3]", b"42", b"\xff\xfe", b"null"])
def test_normalise_what_is_no_json_object_is_malformed(value: bytes | None) -> None:
    step = step_of(NORMALISE, record(value, b"key"), {})
    assert (step.reason, step.outputs) == (Reason.MALFORMED, ())
    assert step.error


def test_normalise_on_another_key_sends_the_delivery_to_its_own() -> None:
    landed = delivery(body(), key=b"sub_another", partition=1)

    step = step_of(NORMALISE, landed, {})

    assert step == Step(Reason.REROUTED, (Output(landed.topic, SUBSCRIPTION.encode(), landed.value, landed.headers),))


# Links, which normalise learns


def test_normalise_a_link_becomes_a_row() -> None:
    assert step_of(NORMALISE, link(team=TEAM.upper()), {}).reason is Reason.LINKED
    assert owner(step_of(NORMALISE, link(team=TEAM.upper()), {})) == TEAM


def test_normalise_a_link_replaces_the_row() -> None:
    assert owner(step_of(NORMALISE, link(), {SUBSCRIPTION.encode(): OTHER_TEAM.encode()})) == TEAM


def test_normalise_the_tombstone_of_a_link_changes_nothing() -> None:
    step = step_of(NORMALISE, record(None, SUBSCRIPTION.encode(), topic="x.subscription.links"), {SUBSCRIPTION.encode(): TEAM.encode()})
    assert step == Step(Reason.LINKED)


@pytest.mark.parametrize("team", ["team-42", "00000000-0000-0000-0000-000000000000"])
def test_normalise_a_link_to_no_team_id_is_a_dead_letter(team: str) -> None:
    step = step_of(NORMALISE, link(team=team), {})
    assert step.reason is Reason.UNKNOWN_TEAM
    assert step.error is not None
    assert team not in step.error


@pytest.mark.parametrize(
    "changed",
    [pytest.param({"data": {}}, id="no data"), pytest.param({"id": ""}, id="no id"), pytest.param({"time": "soon"}, id="no time")],
)
def test_normalise_a_link_that_is_no_envelope_of_one_is_malformed(changed: dict[str, Any]) -> None:
    step = step_of(NORMALISE, link(**changed), {})
    assert (step.reason, step.row) == (Reason.MALFORMED, None)


@pytest.mark.parametrize("key", [None, b"sub_another"])
def test_normalise_a_link_on_another_key_is_sent_to_its_subscriptions(key: bytes | None) -> None:
    """Its row would stand on a partition where no webhook of the subscription ever comes."""
    landed = link(key=key)
    step = step_of(NORMALISE, landed, {})
    assert step == Step(Reason.REROUTED, (Output("x.subscription.links", SUBSCRIPTION.encode(), landed.value, landed.headers),))


def test_normalise_changes_neither_the_record_nor_the_rows() -> None:
    rows: dict[bytes, bytes] = {}
    step_of(NORMALISE, delivery(body()), rows)
    assert rows == {}


# Two deliveries


PAYMENT = {"id": "pay_1", "amount": 49_900, "currency": "INR"}


def after(document: Any, rows: Rows | None = None, **where: Any) -> Rows:
    """The table once it has a delivery."""
    step = normalise(document, rows, **where)
    assert step.row is not None
    return {SUBSCRIPTION.encode(): step.row}


@pytest.mark.parametrize(
    "second",
    [
        pytest.param(body(subscription={"plan_id": "plan_x"}), id="another plan"),
        pytest.param(body(created_at=AT + 1), id="another time"),
        pytest.param(body("subscription.cancelled"), id="another event"),
        pytest.param(body("subscription.created"), id="what nothing follows from"),
        pytest.param(body(notes={"team_id": OTHER_TEAM}), id="another team"),
        pytest.param(body(notes=[]), id="no team"),
    ],
)
def test_normalise_of_two_bodies_with_one_event_id_the_second_moves_nothing(second: Any) -> None:
    step = normalise(second, after(body()))

    assert (step.reason, step.outputs, step.row) == (Reason.ID_CONFLICT, (), None)
    assert step.error is not None
    assert step.error.startswith(f"A webhook about {SUBSCRIPTION} came before with the event id {EVENT_ID} and says something else")


def test_normalise_an_event_id_stays_taken_by_a_webhook_that_could_not_be_placed() -> None:
    rows = after(body(notes=[], payment=PAYMENT))
    assert normalise(body(payment=PAYMENT), rows).reason is Reason.ID_CONFLICT


def test_normalise_a_dead_letter_that_is_produced_again_is_decided_on_again() -> None:
    unknown = body(subscription={"plan_id": "plan_team"})
    rows = after(unknown)
    with_plan = NormaliseStage(SETTINGS, Rules({"plan_pro": Tier.PRO, "plan_team": Tier.TEAM}))

    step = step_of(with_plan, delivery(unknown, offset=9), rows)

    assert step.reason is Reason.NORMALISED
    assert fact_in(step).data.tier == "team"


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(body(payment=PAYMENT), id="a charge"),
        pytest.param(body(notes=[], payment=PAYMENT), id="a charge of nobody"),
        pytest.param(body(subscription={"plan_id": "plan_x"}, payment=PAYMENT), id="a charge on an unknown plan"),
        pytest.param(body("subscription.created"), id="what nothing follows from"),
    ],
)
def test_normalise_the_delivery_of_a_second_registered_webhook_is_a_duplicate_whatever_became_of_the_first(document: Any) -> None:
    rows = after(document)

    second = normalise(document, rows, event_id="OcQNNvRBTYRYUw")

    assert (second.reason, second.outputs, second.error) == (Reason.DUPLICATE, (), None)
    assert second.row is not None
    other = normalise(body("subscription.halted"), {SUBSCRIPTION.encode(): second.row}, event_id="OcQNNvRBTYRYUw")
    assert other.reason is Reason.ID_CONFLICT, "its id is taken as well"


def test_normalise_the_second_registered_webhook_tried_again_changes_no_row() -> None:
    rows = after(body())
    again = after(body(), rows=rows, event_id="OcQNNvRBTYRYUw")
    assert normalise(body(), again, event_id="OcQNNvRBTYRYUw") == Step(Reason.DUPLICATE)


def test_normalise_two_charges_of_one_second_are_two() -> None:
    rows = after(body(payment=PAYMENT))
    second = normalise(body(payment={**PAYMENT, "id": "pay_2"}), rows, event_id="OcQNNvRBTYRYUw")
    assert fact_in(second).data.event_id == "OcQNNvRBTYRYUw"


def test_normalise_a_link_leaves_what_came_before_remembered() -> None:
    rows = after(body())
    linked = step_of(NORMALISE, link(team=OTHER_TEAM), rows)
    assert linked.row is not None
    assert normalise(body(created_at=AT + 1), {SUBSCRIPTION.encode(): linked.row}).reason is Reason.ID_CONFLICT
