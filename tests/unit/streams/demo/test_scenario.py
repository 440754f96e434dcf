"""The demo's scenario: that it holds what it promises, and that its bodies look like Razorpay's."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest

from schemas.kinds import SERVICE_KINDS
from schemas.razorpay import PLACEHOLDER_EMAIL, parse_webhook
from schemas.reasons import Reason
from schemas.team_events import SubscriptionEvent
from streams.demo.deliveries import BAD_SIGNATURE, EVENTS, WEBHOOKS, Delivery
from streams.demo.razorpay import razorpay_id
from streams.demo.scenario import build_scenario

NOW = 1_780_000_000.0
SCENARIO = build_scenario(NOW)
SAMPLES = Path(__file__).parents[5] / "shared" / "samples" / "razorpay"


def webhooks(event: str) -> list[Delivery]:
    return [delivery for delivery in SCENARIO.deliveries if delivery.event == event]


def test_scenario_has_every_turn_that_a_life_can_take() -> None:
    expected = {delivery.reason for delivery in SCENARIO.deliveries}

    assert len(SCENARIO.team_ids) >= 8
    assert expected >= {
        Reason.CLAIMED, Reason.UPGRADED, Reason.RENEWAL, Reason.DOWNGRADED, Reason.SUPERSEDED, Reason.CANCELED, Reason.DUPLICATE,
        Reason.STALE, Reason.UNKNOWN_PLAN, Reason.UNKNOWN_TEAM, Reason.IGNORED, Reason.PASSED_THROUGH, Reason.ADMIN_CHANGED,
        Reason.ENDED, Reason.MALFORMED, Reason.PAUSES_LATER, Reason.ENDS_LATER, Reason.GRACE_STARTED, Reason.GRACE_RECOVERED,
        BAD_SIGNATURE,
    }  # fmt: skip
    assert {delivery.event for delivery in SCENARIO.deliveries if delivery.route == EVENTS} == set(SERVICE_KINDS)
    assert {"subscription.halted", "order.paid", "payment.failed"} <= {delivery.event for delivery in SCENARIO.deliveries}


def test_scenario_has_a_pause_a_paid_year_that_ends_two_graces_and_a_move_of_which_the_stages_say_something_themselves() -> None:
    derived = {each.team: (each.event, each.reason) for delivery in SCENARIO.deliveries for each in delivery.derived}

    assert derived == {
        "harbor": (SubscriptionEvent.DUE, Reason.CANCELED),
        "kelp": (SubscriptionEvent.DUE, Reason.PAUSED),
        "lagoon": (SubscriptionEvent.DUE, Reason.GRACE_REMINDER),
        "meadow": (SubscriptionEvent.DUE, Reason.CANCELED),
        "nettle": (SubscriptionEvent.MOVED, Reason.MOVED),
    }


def test_scenario_every_time_that_comes_due_has_passed_for_more_than_a_minute_and_lies_before_what_follows() -> None:
    for delivery in SCENARIO.deliveries:
        for derived in delivery.derived:
            if derived.event == SubscriptionEvent.DUE:
                at = int(derived.event_id.rpartition("@")[2])
                later = [
                    each.happened_at
                    for each in SCENARIO.deliveries
                    if each.team == derived.team and each.happened_at > delivery.happened_at
                ]
                assert delivery.happened_at < at < min([*later, NOW - 60])


def test_scenario_ends_before_now_and_begins_in_the_order_of_arrival() -> None:
    arrivals = [delivery.arrives_at for delivery in SCENARIO.deliveries]

    assert arrivals == sorted(arrivals)
    assert arrivals[-1] < NOW
    assert all(delivery.happened_at < delivery.arrives_at for delivery in SCENARIO.deliveries)


def test_scenario_has_one_pair_that_arrives_in_the_wrong_order_and_two_deliveries_that_come_twice() -> None:
    ember = [delivery for delivery in SCENARIO.deliveries if delivery.team == "ember"]
    times = [delivery.happened_at for delivery in ember]
    twice = [event_id for event_id, count in Counter(delivery.event_id for delivery in SCENARIO.deliveries).items() if count > 1]

    assert times != sorted(times)
    assert len(twice) == 2
    for event_id in twice:
        first, second = (delivery for delivery in SCENARIO.deliveries if delivery.event_id == event_id)
        assert first.body == second.body


def test_scenario_is_the_same_but_for_its_times_whenever_it_is_reported() -> None:
    later = build_scenario(NOW + 12_345.6)

    assert [delivery.event_id for delivery in later.deliveries] == [delivery.event_id for delivery in SCENARIO.deliveries]
    assert {later.deliveries[n].happened_at - SCENARIO.deliveries[n].happened_at for n in range(len(later.deliveries))} == {12_345}


def test_webhooks_of_the_scenario_are_read_with_their_own_time_and_plan() -> None:
    for delivery in SCENARIO.deliveries:
        if delivery.route == WEBHOOKS and delivery.reason != Reason.MALFORMED:
            webhook = parse_webhook(delivery.body)
            assert webhook.event == delivery.event
            assert webhook.occurred_at(int(NOW)) == (delivery.happened_at, "created_at")
            assert re.fullmatch(r"[0-9A-Za-z]{14}", delivery.event_id)


def test_a_harbor_webhook_names_its_team_in_the_payment_only_and_has_the_placeholder_address() -> None:
    webhook = parse_webhook(next(delivery.body for delivery in SCENARIO.deliveries if delivery.team == "harbor"))

    assert webhook.subscription is not None
    assert webhook.subscription.notes == {}
    assert webhook.note("team_id") == SCENARIO.team_ids["harbor"]
    assert webhook.email == PLACEHOLDER_EMAIL


@pytest.mark.parametrize("event", [
    "charged", "authenticated", "activated", "updated", "pending", "halted", "paused", "resumed", "cancelled", "completed",
])  # fmt: skip
def test_webhook_bodies_have_the_fields_of_a_real_delivery(event: str) -> None:
    sample = SAMPLES / f"subscription.{event}.json"
    if not sample.is_file():
        pytest.skip("the recorded deliveries are not there")

    ours, real = orjson.loads(webhooks(f"subscription.{event}")[0].body), orjson.loads(sample.read_bytes())

    assert ours.keys() == real.keys()
    assert _subscription(real).keys() - _subscription(ours).keys() <= {"offer_id", "payment_method", "type"}
    for field in ("status", "pause_initiated_by", "cancel_initiated_by"):
        assert _subscription(ours).get(field) == _subscription(real).get(field)


def _subscription(body: dict[str, Any]) -> dict[str, Any]:
    entity: dict[str, Any] = body["payload"]["subscription"]["entity"]
    return entity


def test_razorpay_ids_have_14_base62_characters_and_follow_from_their_parts() -> None:
    assert re.fullmatch(r"[0-9A-Za-z]{14}", razorpay_id("aurora", 1))
    assert razorpay_id("aurora", 1) == razorpay_id("aurora", "1") != razorpay_id("aurora", 2)
