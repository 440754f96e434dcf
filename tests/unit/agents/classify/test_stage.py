"""Classify's step: an event and the rows in, the outcome, the records and the row out."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import orjson
import pytest

from agents.classify.facts import read_team_event
from agents.classify.packing import pack, unpack
from agents.classify.stage import ClassifyStage
from schemas.audit import TIER_CURRENT, TierCurrent
from schemas.envelope import HEADERS, Envelope
from schemas.kinds import Kind
from schemas.reasons import DEAD_LETTER_REASONS, Reason
from schemas.team_events import SubscriptionFact
from streams.engine.table_stage import Step, step_of
from streams.engine.transactions import Output
from streams.errors import StageFailed
from streams.kafka.records import Record
from streams.settings import Settings
from tests import factories
from tests.factories import billing, claim, imported, override, service
from tests.steps import audit_in, only, value_of
from tests.unit.agents.classify.return_table import paused, pending
from tests.webhooks import TEAM, record

SETTINGS = Settings(topic_prefix="x.")
PRODUCED_AT = factories.RECEIVED_AT
"""When due records are produced in these tests, in Unix seconds."""

CLASSIFY = ClassifyStage(SETTINGS)
Rows = Mapping[bytes, bytes]


def classify(event: factories.Event, rows: Rows | None = None, **where: Any) -> Step:
    return step_of(CLASSIFY, team_event(event, **where), rows or {})


def team_event(event: factories.Event, *, key: bytes | None = TEAM.encode(), **where: Any) -> Record:
    return record(orjson.dumps(event), key, topic="x.team.events", timestamp=factories.RECEIVED_AT * 1000, **where)


def test_classify_a_first_charge_emits_the_transition_and_the_tier_and_keeps_the_row() -> None:
    step = classify(billing("charged"))

    audit, tier = step.outputs
    assert step.reason is Reason.UPGRADED
    assert (audit.topic, audit.key) == ("x.audit.events", TEAM.encode())
    assert (tier.topic, tier.key) == ("x.tier.current", TEAM.encode())
    assert audit.headers == tier.headers == HEADERS
    event = audit_in(audit)
    assert (event.type, event.subject) == (Kind.UPGRADED, TEAM)
    assert {key: event.data.metadata[key] for key in ("from", "to", "reason")} == {"from": "free", "to": "pro", "reason": "upgraded"}
    current = Envelope[TierCurrent].model_validate_json(value_of(tier))
    assert (current.type, current.data.team_id, current.data.tier) == (TIER_CURRENT, TEAM, "pro")
    assert step.key == TEAM.encode()
    assert step.row is not None
    assert set(unpack(step.row).live) == {"sub_A"}


def test_classify_a_renewal_keeps_the_row_and_emits_nothing() -> None:
    row = classify(billing("charged")).row
    assert row is not None

    step = classify(billing("charged", at=60, paid_count=2), {TEAM.encode(): row})

    assert (step.reason, list(step.outputs)) == (Reason.RENEWAL, [])
    assert step.row not in (None, row)


def test_classify_an_event_that_changes_no_register_writes_no_row() -> None:
    row = classify(billing("charged")).row
    assert row is not None

    step = classify(service("near_quota_wall", at=5, resource_type="disk", used=9, limit=10), {TEAM.encode(): row})

    assert step.reason is Reason.PASSED_THROUGH
    assert (step.key, step.row) == (None, None)
    assert audit_in(only(step)).type == Kind.NEAR_QUOTA_WALL


def test_classify_an_import_sets_the_tier_and_emits_no_transition() -> None:
    step = classify(imported(0, "growth"))

    output = only(step)
    assert step.reason is Reason.IMPORTED
    assert output.topic == "x.tier.current"
    assert Envelope[TierCurrent].model_validate_json(value_of(output)).data.tier == "growth"


def test_classify_the_first_event_of_a_team_says_its_tier_also_when_it_is_the_initial_one() -> None:
    step = classify(claim())
    assert [output.topic for output in step.outputs] == ["x.audit.events", "x.tier.current"]


def test_classify_another_governing_subscription_on_the_same_tier_is_reported_on_tier_current() -> None:
    first = classify(billing("charged"))
    assert first.row is not None

    step = classify(billing("charged", at=60, subscription="sub_B"), {TEAM.encode(): first.row})

    current = Envelope[TierCurrent].model_validate_json(value_of(only(step)))
    assert (current.data.tier, current.data.subscription_id) == ("pro", "sub_B")


def test_classify_decides_from_the_row_it_is_given_not_from_the_one_it_made_last() -> None:
    """After an aborted transaction, or on another owner of the partition, the row is an older one."""
    free = classify(claim()).row
    assert free is not None
    first = classify(billing("charged", at=60), {TEAM.encode(): free})
    assert first.reason is Reason.UPGRADED

    again = classify(billing("charged", at=60), {TEAM.encode(): free})
    from_nothing = classify(billing("charged", at=60))

    assert (again.reason, again.row) == (Reason.UPGRADED, first.row)
    assert from_nothing.row not in (None, first.row)


def test_classify_a_redelivery_gives_the_same_ids_wherever_it_lies() -> None:
    first, again = classify(billing("charged"), offset=1), classify(billing("charged"), offset=99, partition=3)
    assert [value_of(output) for output in first.outputs] == [value_of(output) for output in again.outputs]


def test_classify_two_sources_and_two_teams_with_one_event_id_get_ids_of_their_own() -> None:
    other = str(UUID(int=7))
    steps = [
        classify(override(5, "pro", id="1", source="desk")),
        classify(override(5, "pro", id="1", source="app")),
        classify(override(5, "pro", id="1", source="desk", team=other), key=other.encode()),
    ]
    ids = [orjson.loads(value_of(output))["id"] for step in steps for output in step.outputs]
    assert len(set(ids)) == 6


def test_classify_on_another_key_sends_the_event_to_its_teams() -> None:
    event = team_event(billing("charged"), key=b"sub_A", partition=2)

    step = step_of(CLASSIFY, event, {})

    assert step == Step(Reason.REROUTED, (Output("x.team.events", TEAM.encode(), event.value, event.headers),))


def test_classify_a_team_id_in_another_spelling_is_sent_to_the_key_of_the_one_form() -> None:
    event = team_event(billing("charged", team=TEAM.upper()), key=TEAM.upper().encode())
    assert only(step_of(CLASSIFY, event, {})).key == TEAM.encode()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, Reason.MALFORMED),
        (b"", Reason.MALFORMED),
        (b"{}", Reason.MALFORMED),
        (b"\xff\x00", Reason.MALFORMED),
        (b"[" * 100_000, Reason.MALFORMED),
        (orjson.dumps(billing("charged") | {"subject": "team-42"}), Reason.UNKNOWN_TEAM),
        (orjson.dumps(billing("charged") | {"type": "team.renamed"}), Reason.UNKNOWN_KIND),
        (orjson.dumps(billing("charged", plan="plan_of_nobody")), Reason.UNKNOWN_PLAN),
        (orjson.dumps(override(0, "platinum")), Reason.UNKNOWN_TIER),
        (orjson.dumps(billing("charged", at=99_999_999)), Reason.FUTURE_TIME),
    ],
)
def test_classify_poison_is_a_dead_letter_with_a_sentence(value: bytes | None, reason: Reason) -> None:
    poison = record(value, TEAM.encode(), topic="x.team.events", timestamp=factories.RECEIVED_AT * 1000)

    step = step_of(CLASSIFY, poison, {})

    assert (step.reason, step.outputs, step.row) == (reason, (), None)
    assert step.reason in DEAD_LETTER_REASONS
    assert step.error is not None
    assert step.error.endswith(".")


@pytest.mark.parametrize("initial", ["free", "anonymous"])
def test_classify_starts_a_team_on_the_initial_tier(initial: str) -> None:
    step = step_of(ClassifyStage(Settings(initial_tier=initial)), team_event(billing("charged")), {})
    assert audit_in(step.outputs[0]).data.metadata["from"] == initial


def test_classify_something_else_under_a_services_id_is_a_dead_letter_that_names_it() -> None:
    rows = {TEAM.encode(): classify(override(1, "pro", id="one")).row or b""}

    step = classify(override(9, "team", id="one"), rows)

    assert (step.reason, step.outputs, step.row) == (Reason.ID_CONFLICT, (), None)
    assert step.error is not None
    assert step.error.startswith(
        "An event of app about this team came before with the id one and says something else; the first one counts."
    )


def test_classify_changes_neither_the_record_nor_the_rows() -> None:
    rows: dict[bytes, bytes] = {}
    step_of(CLASSIFY, team_event(billing("charged")), rows)
    assert rows == {}


# Due records


def waiting(*events: factories.Event) -> bytes:
    return pack(factories.Team(*events).row)


@pytest.mark.parametrize(("now", "at"), [(4, None), (8, 8), (10, 8), (11, 11), (14, 11), (15, 15), (10**6, 15)])
def test_due_records_say_the_last_time_that_has_passed(now: int, at: int | None) -> None:
    packed = waiting(billing("charged"), pending(5))

    records = CLASSIFY.due_records(TEAM.encode(), packed, factories.T0 + now)

    assert CLASSIFY.due_at(packed) == factories.T0 + 8
    assert [read_team_event(output.value, PRODUCED_AT).occurred_at - factories.T0 for output in records] == ([] if at is None else [at])


def test_due_records_are_those_of_each_subscription_and_go_to_the_topic_that_classify_reads() -> None:
    packed = waiting(billing("charged", 0), billing("charged", 1, "sub_B"), paused(5, 30), paused(6, 20, "sub_B"))

    records = CLASSIFY.due_records(TEAM.encode(), packed, factories.T0 + 40)

    assert {(output.topic, output.key) for output in records} == {("x.team.events", TEAM.encode())}
    events = [Envelope[SubscriptionFact].model_validate_json(value_of(output)) for output in records]
    assert {(event.type, event.data.subscription_id, event.data.occurred_at - factories.T0) for event in events} == {
        ("subscription.due", "sub_A", 30),
        ("subscription.due", "sub_B", 20),
    }


def test_due_record_is_the_same_whoever_produces_it_and_decided_on_once() -> None:
    packed = waiting(billing("charged"), pending(5, email="payer@example.com"))
    (output,) = CLASSIFY.due_records(TEAM.encode(), packed, factories.T0 + 9)
    assert CLASSIFY.due_records(TEAM.encode(), packed, factories.T0 + 10) == [output]

    first = step_of(
        CLASSIFY, record(output.value, output.key, topic="x.team.events", timestamp=PRODUCED_AT * 1000), {TEAM.encode(): packed}
    )
    assert first.row is not None
    again = step_of(
        CLASSIFY, record(output.value, output.key, topic="x.team.events", timestamp=PRODUCED_AT * 1000), {TEAM.encode(): first.row}
    )

    reminder = audit_in(only(first))
    assert (first.reason, reminder.type) == (Reason.GRACE_REMINDER, Kind.GRACE_REMINDER)
    assert reminder.data.metadata["ends_at"] == "2025-06-15T15:06:55Z"
    assert reminder.data.contact is not None, "a payer without a claim is reminded as well"
    assert (again.reason, list(again.outputs)) == (Reason.DUPLICATE, [])


# Another initial tier

TEAMS = {
    b"claimed": waiting(claim(5)),
    b"claimed with a tier": waiting(claim(0, tier="hobby")),
    b"abandoned": waiting(billing("cancelled", 9, paid_count=0)),
    b"paying": waiting(billing("charged")),
    b"paid once": waiting(billing("charged"), billing("cancelled", 9)),
}


def test_another_initial_tier_changes_the_teams_that_nothing_else_sets_a_tier_of() -> None:
    change = ClassifyStage(Settings(topic_prefix="x.", initial_tier="hobby")).settings_changed(CLASSIFY.settings, TEAMS)

    outputs = {output.key: output for output in change.outputs()}
    assert change.affected == 2
    assert change.refusal is not None
    assert change.refusal(2, 5) == (
        "TIERSTREAM_INITIAL_TIER is hobby, and this worker's 5 teams were decided with free: 2 would change their tier without an event. "
        "Set it back, or start classify with --accept-initial-tier."
    )
    assert outputs.keys() == {b"claimed", b"abandoned"}
    assert {output.topic for output in outputs.values()} == {"x.tier.current"}
    current = Envelope[TierCurrent].model_validate_json(value_of(outputs[b"abandoned"]))
    assert (current.type, current.data.tier, current.data.since.timestamp()) == (TIER_CURRENT, "hobby", factories.T0 + 9)


def test_another_initial_tier_that_changes_nobody_is_nothing_to_refuse() -> None:
    change = ClassifyStage(Settings(initial_tier="hobby")).settings_changed(CLASSIFY.settings, {b"paying": TEAMS[b"paying"]})

    assert (change.affected, list(change.outputs())) == (0, [])


def test_changelog_that_names_no_tier_of_the_ladder_is_an_error() -> None:
    with pytest.raises(StageFailed, match="'gold'"):
        CLASSIFY.settings_changed(b"gold", TEAMS)
