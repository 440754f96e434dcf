"""A timeline says of every event what the demo's scenario expects, and what was recorded of it."""

import json

import pytest

from schemas.razorpay import landing_key
from streams.demo.deliveries import BAD_SIGNATURE, EVENTS, Delivery
from streams.demo.scenario import build_scenario
from streams.operate.explain import Explanation, explain
from streams.topics import RAZORPAY_WEBHOOKS, TEAM_EVENTS
from tests.explain_doubles import mail, searched
from tests.verify_doubles import NOW, PRETENDED, SETTINGS

SCENARIO = build_scenario(NOW)
KEYS = ["at", "type", "stage", "outcome", "from", "to", "event_id", "audit_id", "delivery"]


def explained(team: str) -> Explanation:
    logs, stores = searched(PRETENDED)
    return explain(SETTINGS, logs, stores, SCENARIO.team_ids[team])


def deliveries_of(team: str) -> list[Delivery]:
    """The team's deliveries that were accepted. A webhook that names no subscription is on no partition of the team's: see test_search."""
    return [
        delivery
        for delivery in SCENARIO.deliveries
        if delivery.team == team
        and delivery.reason != BAD_SIGNATURE
        and (delivery.route == EVENTS or landing_key(delivery.body).subscription_id is not None)
    ]


@pytest.mark.parametrize("team", SCENARIO.team_ids)
def test_every_delivery_of_a_team_has_its_outcome_and_the_last_tier_is_told(team: str) -> None:
    found = explained(team)

    parked = any(delivery.reason == "unknown_plan" for delivery in deliveries_of(team))  # the demo replays it at its end
    assert found.tier == ("free" if parked else SCENARIO.last_tiers[team].label)
    assert found.notes == []
    for delivery in deliveries_of(team):
        outcomes = [entry.outcome for entry in found.entries if entry.event_id == delivery.event_id]
        assert delivery.reason in outcomes, (delivery.note, outcomes)
    assert [entry.at for entry in found.entries] == sorted(entry.at for entry in found.entries)


@pytest.mark.parametrize("team", SCENARIO.team_ids)
def test_every_row_of_a_team_stands_in_an_entry_with_its_mail(team: str) -> None:
    found = explained(team)
    rows = {id for id, row in PRETENDED.rows.items() if str(row.team_id) == SCENARIO.team_ids[team]}

    assert {entry.audit_id for entry in found.entries if entry.audit_id} == rows
    for entry in found.entries:
        if entry.audit_id:
            assert entry.row_written
            assert entry.delivery == PRETENDED.ledger.get(entry.audit_id)


def test_json_holds_the_fields_of_the_contract() -> None:
    printed = json.loads(json.dumps(explained("aurora").as_json()))

    assert list(printed)[:4] == ["team_id", "tier", "since", "events"]
    assert all(list(entry)[: len(KEYS)] == KEYS for entry in printed["events"])
    assert "@" not in json.dumps(printed).replace("***@", "")


def test_what_a_stage_has_not_worked_in_is_pending() -> None:
    logs, stores = searched(PRETENDED)
    logs.offsets["classify", TEAM_EVENTS.name] = {}

    found = explain(SETTINGS, logs, stores, SCENARIO.team_ids["aurora"])

    decided = {entry.outcome for entry in found.entries if entry.stage == "classify" and not entry.audit_id}
    assert decided == {"pending"}
    logs.offsets["normalise", RAZORPAY_WEBHOOKS.name] = {}
    logs.topics[TEAM_EVENTS.name] = []
    found = explain(SETTINGS, logs, stores, SCENARIO.team_ids["aurora"])
    assert {entry.outcome for entry in found.entries if entry.stage == "normalise"} == {"pending"}


def test_row_that_is_not_written_and_mail_that_waits_say_so() -> None:
    logs, stores = searched(PRETENDED)
    upgrade = next(row for row in stores.rows if row.kind == "subscription.upgraded" and str(row.team_id) == SCENARIO.team_ids["aurora"])
    stores.ledger = [each for each in stores.ledger if each.audit_id != upgrade.id]

    waiting = next(e for e in explain(SETTINGS, logs, stores, SCENARIO.team_ids["aurora"]).entries if e.audit_id == str(upgrade.id))
    stores.ledger.append(mail(upgrade, "in_flight", "a***@example.com", attempts=3, last_error="answer 500"))
    stores.rows.remove(upgrade)
    held = next(e for e in explain(SETTINGS, logs, stores, SCENARIO.team_ids["aurora"]).entries if e.audit_id == str(upgrade.id))

    assert (waiting.delivery, waiting.row_written) == ("pending", True)
    assert (held.delivery, held.row_written) == ("in_flight", False)
    assert held.as_json()["mail"]["attempts"] == 3
