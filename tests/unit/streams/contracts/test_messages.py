"""The messages of each topic: all kinds are there, and every writer keeps to them."""

import json
import time
from datetime import UTC, datetime

import orjson
import pytest

from agents.classify.outputs import due_record, initial_tier_changed
from agents.classify.stage import ClassifyStage
from agents.normalise.decide import Rules
from agents.normalise.stage import NormaliseStage
from schemas.kinds import SERVICE_KINDS, Kind
from schemas.loops import LOOPS_MAP, Mail
from schemas.published import PUBLISHED
from schemas.service_events import enveloped
from schemas.team_events import SERVICE_DATA, SubscriptionEvent
from schemas.tiers import Tier
from streams.contracts.messages import inlined, messages
from streams.engine.table_stage import step_of
from streams.operate.actions import operator_event
from streams.operate.dead_letters.letters import Action
from streams.operate.imports.decide import New
from streams.operate.imports.lines import Line
from streams.operate.imports.publish import records_of
from streams.settings import Settings
from tests.contracts import faults
from tests.unit.streams.operate.dead_letters.test_letters import letter
from tests.unit.streams.operate.dead_letters.test_outcomes import written
from tests.webhooks import TEAM, body, delivery, record

ADDRESSES = {"email", "name"}
OWN_WORDS = {"admin.tier_changed": {"to": "requested", "reason": "admin_reason"}}
SENT = {
    Kind.CLAIMED: {"email": "ada@example.com", "user_id": "u-1", "tier": "pro", "name": "Ada"},
    Kind.NEAR_QUOTA_WALL: {"resource_type": "seats", "used": 9, "limit": 10.5, "unit": "seats"},
    Kind.EXPERIMENT_CONVERSION: {"experiment": "e", "variant": "v", "goal": "g"},
    Kind.ADMIN_TIER_CHANGED: {"to": "team", "admin": "kim", "reason": "asked"},
    Kind.ADMIN_PROMO_ISSUED: {"code": "X", "admin": "kim", "percent_off": 10, "expires_at": 1_760_000_000},
    Kind.RESOURCE_EXPIRY_IMMINENT: {"resource_type": "domain", "resource_id": "1", "expires_at": "2026-01-01T00:00:00Z"},
}


def test_messages_of_audit_events_are_of_every_kind() -> None:
    assert set(PUBLISHED) == set(Kind)
    assert {message.kind for message in messages() if message.topic.name == "audit.events"} == set(Kind)


def test_messages_of_team_events_are_what_services_send_and_every_fact() -> None:
    found = [message for message in messages() if message.topic.name == "team.events"]

    assert {message.kind for message in found if message.by_services} == SERVICE_KINDS
    assert {message.kind for message in found if not message.by_services} == {*SubscriptionEvent, "team.imported"}


def test_messages_have_names_of_their_own_and_a_description() -> None:
    assert len({message.name for message in messages()}) == len(messages())
    assert all(message.description.endswith(".") for message in messages())


@pytest.mark.parametrize("kind", sorted(SERVICE_KINDS))
def test_messages_publish_what_a_service_sends_but_no_address(kind: Kind) -> None:
    renamed = OWN_WORDS.get(kind, {})
    sent = {renamed.get(name, name) for name in SERVICE_DATA[kind].model_fields.keys() - ADDRESSES}

    assert sent <= PUBLISHED[kind].model_fields.keys()
    assert not ADDRESSES & PUBLISHED[kind].model_fields.keys()


@pytest.mark.parametrize("kind", sorted(kind for kind, row in LOOPS_MAP.items() if isinstance(row, Mail)))
def test_messages_publish_what_a_mail_is_made_of(kind: Kind) -> None:
    row = LOOPS_MAP[kind]
    assert isinstance(row, Mail)
    published = {field.alias or name for name, field in PUBLISHED[kind].model_fields.items()}

    assert {each.field for each in row.event_properties} - ADDRESSES <= published


@pytest.mark.parametrize("kind", sorted(SERVICE_KINDS))
def test_services_events_keep_to_the_contract_as_the_gateway_and_the_publisher_write_them(kind: Kind) -> None:
    sent = enveloped({"kind": kind, "team_id": TEAM, "data": SENT[kind]}, "app", datetime.now(UTC))

    assert faults("team.events", sent.value) == []


@pytest.mark.parametrize("kind", sorted(SERVICE_KINDS))
def test_classify_keeps_to_the_contract_with_what_services_send(kind: Kind) -> None:
    sent = enveloped({"kind": kind, "team_id": TEAM, "data": SENT[kind]}, "app", datetime.now(UTC))
    received = record(sent.value, TEAM.encode(), topic="team.events", timestamp=int(time.time() * 1000))

    step = step_of(ClassifyStage(Settings()), received, {})

    assert {output.topic for output in step.outputs} >= {"audit.events"}
    assert [fault for output in step.outputs for fault in faults(output.topic, output.value)] == []


@pytest.mark.parametrize(
    ("document", "writes"),
    [
        (body(), "team.events"),
        (body("payment.failed", payment={"id": "pay_1", "amount": 100, "currency": "INR", "email": "ada@example.com"}), ""),
        (body(notes=[], payment={"id": "pay_1", "amount": 100, "currency": "INR"}), "audit.events"),
        (body(subscription={"plan_id": "plan_nobody_knows"}), "audit.events"),
    ],
    ids=["charge", "failed payment", "charge of an unknown team", "charge of an unknown plan"],
)
def test_normalise_keeps_to_the_contract(document: dict[str, object], writes: str) -> None:
    step = step_of(NormaliseStage(Settings(), Rules({"plan_pro": Tier.PRO})), delivery(document), {})

    assert [output.topic for output in step.outputs] == ([writes] if writes else [])
    assert [fault for output in step.outputs for fault in faults(output.topic, output.value)] == []


def test_what_follows_without_an_event_keeps_to_the_contract() -> None:
    assert faults("team.events", due_record(TEAM, "sub_1", "plan_pro", 1_750_000_000, "ada@example.com")) == []
    assert faults("tier.current", initial_tier_changed(TEAM, Tier.FREE, Tier.ANONYMOUS, 1_750_000_000)) == []


def test_imports_keep_to_the_contract() -> None:
    line = Line(1, TEAM, "pro", "sub_1", "plan_pro", "ada@example.com", None)

    link, tier = records_of(Settings(), line, New(1_750_000_000_000_000, True), [])

    assert link is not None
    assert faults("subscription.links", link.value) == []
    assert faults("team.events", tier.value) == []


@pytest.mark.parametrize("action", [Action.REPLAYED, Action.DISCARDED])
def test_what_operators_do_with_a_dead_letter_keeps_to_the_contract(action: Action) -> None:
    event = written(letter(value=orjson.dumps(body())), action)[-1]

    assert event.topic == "audit.events"
    assert faults("audit.events", event.value) == []


def test_what_operators_do_without_a_team_keeps_to_the_contract() -> None:
    event = operator_event(
        Settings(), Kind.OPERATOR_REPLAYED, "a:0:1#1", team_id=None, summary="Replayed", because="why", by="kim", at=1.0, details={}
    )

    assert faults("audit.events", event.value) == []


def test_schemas_are_written_without_references_and_fields_called_title_stay() -> None:
    inner = {"title": "Inner", "type": "object", "properties": {"title": {"title": "Title", "type": "string"}}}

    found = inlined({"$defs": {"Inner": inner}, "properties": {"one": {"$ref": "#/$defs/Inner", "description": "The ``one``."}}})

    assert found == {"properties": {"one": {"type": "object", "properties": {"title": {"type": "string"}}, "description": "The `one`."}}}


def test_schemas_of_the_messages_hold_no_reference() -> None:
    assert "$ref" not in json.dumps([message.schema for message in messages()])
