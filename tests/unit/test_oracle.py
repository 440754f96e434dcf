"""The oracle by itself: tiers that return, pause, end later and move, each as anyone would write it by hand."""

from typing import Any

import pytest

from agents.classify.facts import Unreadable
from schemas.envelope import derived_id
from tests.factories import RECEIVED_AT, T0, TEAM, Event, billing, due, imported, override, read
from tests.oracle import Outcome, SequentialOracle
from tests.oracle_facts import due_record
from tests.oracle_history import Standing

DAY = 86_400


def charged(at: int, plan: str = "plan_pro", subscription: str = "sub_A") -> Event:
    return billing("charged", at, subscription, plan)


def halted(at: int, paid_count: int = 1) -> Event:
    return billing("halted", at, plan=None, paid_count=paid_count)


def paused(at: int, until: int | None = None) -> Event:
    return billing("paused", at, current_end=None if until is None else T0 + until)


def resumed(at: int, status: str = "active") -> Event:
    return billing("resumed", at, status=status)


def failed(at: int, ends: int, *reminders: int, event: str = "pending") -> Event:
    return billing(event, at, grace_ends_at=T0 + ends, grace_reminders_at=[T0 + each for each in reminders])


def completed(at: int, ends: int) -> Event:
    return billing("completed", at, current_end=T0 + ends)


def fed(*events: Event) -> tuple[SequentialOracle, Outcome]:
    """The oracle after all events, and its outcome of the last one."""
    oracle = SequentialOracle()
    *before, last = events
    for event in before:
        oracle.feed(event, RECEIVED_AT)
    return oracle, oracle.feed(last, RECEIVED_AT)


def said(outcome: Outcome) -> tuple[str, list[str], str | None]:
    """Reason, what the rows say, tier afterwards."""
    rows = [f"{row.kind} {row.from_tier} > {row.to_tier}: {row.reason}" for row in outcome.rows]
    return outcome.reason, rows, outcome.tier


# Returns


def test_a_return_to_a_former_plan_beats_the_override_in_between() -> None:
    _, outcome = fed(charged(0, "plan_hobby"), override(5, "team"), charged(9, "plan_pro"), override(12, "team"), charged(15, "plan_hobby"))

    assert said(outcome) == ("downgraded", ["subscription.downgraded team > hobby: downgraded"], "hobby")


def test_a_plan_change_and_back_counts_from_the_way_back() -> None:
    oracle, outcome = fed(charged(0, "plan_hobby"), override(5, "team"), charged(9, "plan_pro"), charged(15, "plan_hobby"))

    assert said(outcome) == ("downgraded", ["subscription.downgraded pro > hobby: downgraded"], "hobby")
    assert oracle.standing(TEAM) == Standing("hobby", "sub_A", T0 + 15)


def test_a_return_from_a_halt_beats_the_override_in_between() -> None:
    _, outcome = fed(charged(0), halted(5), override(7, "hobby_plus"), charged(9))

    assert said(outcome) == ("upgraded", ["subscription.upgraded hobby_plus > pro: upgraded"], "pro")


def test_a_return_from_a_halt_counts_from_the_return() -> None:
    august, september = 30 * DAY, 60 * DAY
    halt, _ = fed(charged(0), halted(august))
    back, outcome = fed(charged(0), halted(august), charged(september))

    assert halt.standing(TEAM) == Standing("hobby", None, T0 + august)
    assert back.standing(TEAM) == outcome.current == Standing("pro", "sub_A", T0 + september)


def test_a_renewal_counts_from_the_first_charge() -> None:
    oracle, outcome = fed(charged(0), charged(30 * DAY))

    assert (outcome.reason, outcome.current, oracle.standing(TEAM).since) == ("renewal", None, T0)


# Pauses


def test_a_pause_keeps_the_tier_until_its_current_end_and_then_falls() -> None:
    oracle, outcome = fed(charged(0), paused(5, until=9))

    assert said(outcome) == ("pauses_later", [], "pro")
    assert oracle.coming_times(TEAM) == {"sub_A": [T0 + 9]}
    (record,) = oracle.due_records(TEAM, T0 + 20)
    assert record == due(9)
    assert said(oracle.feed(record, RECEIVED_AT)) == ("paused", ["subscription.downgraded pro > hobby: paused"], "hobby")
    assert oracle.standing(TEAM) == Standing("hobby", None, T0 + 9)
    assert oracle.coming_times(TEAM) == {}


@pytest.mark.parametrize("until", [None, 3, 5])
def test_a_pause_without_a_coming_end_falls_at_once(until: int | None) -> None:
    _, outcome = fed(charged(0), paused(5, until))

    assert said(outcome) == ("paused", ["subscription.downgraded pro > hobby: paused"], "hobby")


def test_a_pause_of_a_team_on_hobby_has_no_row() -> None:
    assert said(fed(charged(0, "plan_hobby"), paused(5))[1]) == ("paused", [], "hobby")


@pytest.mark.parametrize("until", [None, 7])
def test_a_return_from_a_pause_brings_the_tier_back(until: int | None) -> None:
    oracle, outcome = fed(charged(0), paused(5, until), due(7), resumed(9))

    assert said(outcome) == ("upgraded", ["subscription.upgraded hobby > pro: upgraded"], "pro")
    assert oracle.standing(TEAM) == Standing("pro", "sub_A", T0 + 9)


def test_a_return_without_the_status_active_changes_nothing() -> None:
    assert said(fed(charged(0), paused(5), resumed(9, "paused"))[1]) == ("payment_trouble", [], "hobby")


def test_a_return_before_the_pause_counted_is_a_renewal_and_nothing_comes_any_more() -> None:
    oracle, outcome = fed(charged(0), paused(5, until=20), resumed(9))

    assert said(outcome) == ("renewal", [], "pro")
    assert oracle.coming_times(TEAM) == {}
    assert said(oracle.feed(due(20), RECEIVED_AT)) == ("not_due", [], "pro")


def test_a_pause_that_comes_after_its_due_record_falls_at_once() -> None:
    assert said(fed(charged(0), due(9), paused(5, until=9))[1]) == ("paused", ["subscription.downgraded pro > hobby: paused"], "hobby")


# Ends to come


def test_a_completion_before_its_current_end_ends_at_the_due_record() -> None:
    oracle, outcome = fed(charged(0), completed(5, ends=9))

    assert said(outcome) == ("ends_later", [], "pro")
    assert oracle.coming_times(TEAM) == {"sub_A": [T0 + 9]}
    ended = oracle.feed(due(9), RECEIVED_AT)
    assert said(ended) == ("canceled", ["subscription.canceled pro > hobby: canceled"], "hobby")
    assert ended.current == Standing("hobby", None, T0 + 9)
    assert said(oracle.feed(charged(12), RECEIVED_AT)) == ("ended", ["billing.charge_undeliverable hobby > hobby: ended"], "hobby")


def test_a_due_record_before_the_coming_end_is_not_due() -> None:
    assert said(fed(charged(0), completed(5, ends=9), due(8))[1]) == ("not_due", [], "pro")


# Subscriptions that never began


def test_an_abandoned_subscription_takes_no_override_away() -> None:
    abandoned = billing("cancelled", 9, "sub_B", None, paid_count=0)
    _, outcome = fed(override(0, "pro"), abandoned)

    assert said(outcome) == ("not_started", [], "pro")


def test_a_subscription_that_began_takes_the_override_away_with_its_end() -> None:
    ended = billing("cancelled", 9, plan=None)

    assert said(fed(charged(0), override(5, "pro"), ended)[1]) == ("canceled", ["subscription.canceled pro > hobby: canceled"], "hobby")


# Moves


def test_the_team_that_a_subscription_leaves_is_canceled_with_reason_moved() -> None:
    _, outcome = fed(charged(0), billing("moved", 5))

    assert said(outcome) == ("moved", ["subscription.canceled pro > hobby: moved"], "hobby")


def test_the_team_that_a_subscription_leaves_falls_to_its_other_one() -> None:
    _, outcome = fed(charged(0, "plan_hobby", "sub_B"), charged(1), billing("moved", 5))

    assert said(outcome) == ("moved", ["subscription.downgraded pro > hobby: moved"], "hobby")


def test_a_move_of_a_subscription_that_never_began_there_says_nothing() -> None:
    assert said(fed(override(0, "pro"), billing("moved", 5))[1]) == ("not_started", [], "pro")


# Grace periods


@pytest.mark.parametrize("event", ["pending", "payment.failed"])
def test_a_grace_period_is_begun_reminded_of_and_terminated(event: str) -> None:
    oracle, started = fed(charged(0), failed(5, 20, 10, 15, event=event))

    assert said(started) == ("grace_started", ["payment.grace_started pro > pro: grace_started"], "pro")
    assert started.rows[0].ends_at == T0 + 20
    assert oracle.coming_times(TEAM) == {"sub_A": [T0 + 10, T0 + 15, T0 + 20]}

    (reminder,) = oracle.due_records(TEAM, T0 + 17)
    assert reminder == due(15), "of two that have passed, the last"
    assert said(oracle.feed(reminder, RECEIVED_AT)) == ("grace_reminder", ["payment.grace_reminder pro > pro: grace_reminder"], "pro")

    assert said(oracle.feed(due(20), RECEIVED_AT)) == (
        "canceled",
        ["payment.grace_terminated pro > hobby: grace_terminated", "subscription.canceled pro > hobby: canceled"],
        "hobby",
    )
    assert said(oracle.feed(charged(25), RECEIVED_AT)) == ("upgraded", ["subscription.upgraded hobby > pro: upgraded"], "pro")


def test_a_payment_ends_the_grace_period_once() -> None:
    oracle, recovered = fed(charged(0), failed(5, 20), charged(9))

    assert said(recovered) == ("grace_recovered", ["payment.grace_recovered pro > pro: grace_recovered"], "pro")
    assert said(oracle.feed(halted(12), RECEIVED_AT)) == ("canceled", ["subscription.canceled pro > hobby: canceled"], "hobby")


def test_a_halt_terminates_the_grace_period() -> None:
    _, outcome = fed(charged(0), failed(5, 20), halted(9))

    assert [row.kind for row in outcome.rows] == ["payment.grace_terminated", "subscription.canceled"]
    assert outcome.reason == "canceled"
    assert [row.ends_at for row in outcome.rows] == [T0 + 20, None]


def test_an_update_leaves_the_grace_period_as_it_is() -> None:
    oracle, outcome = fed(charged(0), failed(5, 20), billing("updated", 9, status="active"))

    assert (outcome.reason, outcome.rows) == ("renewal", ())
    assert oracle.coming_times(TEAM) == {"sub_A": [T0 + 20]}


@pytest.mark.parametrize("grace", [{}, {"grace_ends_at": T0 + 5}, {"grace_ends_at": None}])
def test_a_failed_payment_without_a_grace_period_is_kept_nowhere(grace: dict[str, Any]) -> None:
    oracle, outcome = fed(billing("pending", 5, **grace))

    assert outcome == Outcome("payment_trouble", (), "free", None)
    assert oracle.courses(TEAM) == {}


# Imports and due records


def test_an_import_that_names_a_subscription_begins_its_run() -> None:
    oracle, _ = fed(imported(0, "team", "plan_pro", "sub_A"), charged(9))

    assert oracle.standing(TEAM) == Standing("team", "sub_A", T0)


def test_due_record_is_that_of_the_design() -> None:
    record = due_record(TEAM, "sub_A", "plan_pro", T0)

    assert record["id"] == record["data"]["event_id"]
    assert record["id"] == derived_id("classify", "tierstream/classify", f"sub_A@{T0}", TEAM, "subscription.due")
    assert (record["type"], record["source"], record["subject"]) == ("subscription.due", "tierstream/classify", TEAM)
    assert (record["time"], record["data"]["occurred_at"], record["data"]["time_source"]) == ("2025-06-15T15:06:40Z", T0, "due")


def test_the_nil_uuid_is_no_team_for_the_oracle_and_for_classify() -> None:
    event = billing("charged", 0, team="00000000-0000-0000-0000-000000000000")

    outcome = SequentialOracle().feed(event, RECEIVED_AT)

    assert (outcome.reason, outcome.rows, outcome.tier) == ("unknown_team", (), None)
    with pytest.raises(Unreadable) as refused:
        read(event)
    assert refused.value.reason == "unknown_team"
