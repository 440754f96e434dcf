"""Laws of the oracle alone: order-free states, grace periods that end once, and times that come once."""

import re
from collections import defaultdict

from hypothesis import event as note
from hypothesis import given
from hypothesis import strategies as st

from schemas.team_events import IMPORTED
from tests.factories import RECEIVED_AT, T0, TEAM, Event
from tests.oracle import Outcome, SequentialOracle, final_standing, final_standings
from tests.oracle_facts import MERGED, Fact, read
from tests.property.strategies import LATEST, facts, logs, often

INITIAL = st.sampled_from(["anonymous", "free"])

GRACE_LETTERS = {
    "payment.grace_started": "s",
    "payment.grace_reminder": "m",
    "payment.grace_recovered": "r",
    "payment.grace_terminated": "t",
}
ONE_END_EACH = re.compile("(sm*[rt]?)*")
"""The grace periods of one subscription: each begins, may be reminded of, and then recovers or is terminated, never both. One that
ends otherwise (the subscription is cancelled, paused, moved) has no row for its end."""


def fed(log: list[Event], initial: str = "free") -> SequentialOracle:
    oracle = SequentialOracle(initial)
    for event in log:
        oracle.feed(event, RECEIVED_AT)
    return oracle


def is_silent(event: Event) -> bool:
    """Whether the event may begin a grace period that has no audit row."""
    return event["type"] == IMPORTED or bool(event["data"].get("adopt"))


@often
@given(logs(), INITIAL)
def test_a_recovery_and_a_termination_never_both_go_out_for_one_grace_started(log: list[Event], initial: str) -> None:
    oracle = SequentialOracle(initial)
    periods: dict[str | None, str] = defaultdict(str)

    for event in log:
        if not is_silent(event):
            for row in oracle.feed(event, RECEIVED_AT).rows:
                periods[row.subscription] += GRACE_LETTERS.get(row.kind, "")

    for name, letters in periods.items():
        note(letters[:4])
        assert ONE_END_EACH.fullmatch(letters), (name, letters)


@often
@given(logs(), INITIAL)
def test_a_silent_event_may_begin_a_grace_period_which_then_ends_once_as_well(log: list[Event], initial: str) -> None:
    oracle = SequentialOracle(initial)
    periods: dict[str | None, str] = defaultdict(str)

    for event in log:
        outcome = oracle.feed(event, RECEIVED_AT)
        if is_silent(event):
            periods[event["data"].get("subscription_id")] += "."
        for row in outcome.rows:
            periods[row.subscription] += GRACE_LETTERS.get(row.kind, "")

    for letters in periods.values():
        assert re.fullmatch("([s.][m.]*[rt]?)*", letters), letters


@often
@given(facts(), st.data(), INITIAL)
def test_standing_and_coming_times_are_the_same_in_any_order_with_any_duplicates(
    events: list[Event], data: st.DataObject, initial: str
) -> None:
    again = data.draw(st.lists(st.sampled_from(events), max_size=4))
    order = data.draw(st.permutations(events + again))

    one, other = fed(events, initial), fed(order, initial)

    assert one.standing(TEAM) == other.standing(TEAM)
    assert one.coming_times(TEAM) == other.coming_times(TEAM)
    known = {fact for event in order if isinstance(fact := read(event, RECEIVED_AT), Fact)}
    assert one.standing(TEAM) == final_standing(known, initial)
    if any(fact.role in MERGED for fact in known):
        assert final_standings(((event, RECEIVED_AT) for event in order), initial) == {TEAM: one.standing(TEAM)}


@often
@given(facts(), st.data())
def test_outcome_follows_from_what_is_known_and_not_from_how_it_came(events: list[Event], data: st.DataObject) -> None:
    *known, last = events

    one, other = fed(known), fed(data.draw(st.permutations(known)))

    assert one.feed(last, RECEIVED_AT) == other.feed(last, RECEIVED_AT)


@often
@given(logs(), st.data())
def test_a_redelivery_is_reported_once(log: list[Event], data: st.DataObject) -> None:
    oracle = fed(log)
    standing, courses = oracle.standing(TEAM), oracle.courses(TEAM)

    again: Outcome = oracle.feed(data.draw(st.sampled_from(log)), RECEIVED_AT)

    assert {row.kind for row in again.rows} <= {"near_quota_wall", "billing.charge_undeliverable"}
    assert (oracle.standing(TEAM), oracle.courses(TEAM)) == (standing, courses)


@given(logs())
def test_at_most_two_rows_and_the_reason_is_the_last_ones(log: list[Event]) -> None:
    oracle = SequentialOracle()

    for event in log:
        outcome = oracle.feed(event, RECEIVED_AT)

        assert len({row.id for row in outcome.rows}) == len(outcome.rows) <= 2
        assert all((row.ends_at is not None) == (row.kind in GRACE_LETTERS) for row in outcome.rows)
        assert [row.kind in GRACE_LETTERS for row in outcome.rows] in ([], [True], [False], [True, False])
        assert not outcome.rows or outcome.reason == outcome.rows[-1].reason


@often
@given(logs())
def test_a_time_that_a_due_record_named_comes_no_more(log: list[Event]) -> None:
    oracle = fed(log)

    for now in range(T0, T0 + 2 * LATEST):
        for record in oracle.due_records(TEAM, now):
            name, at = record["data"]["subscription_id"], record["data"]["occurred_at"]
            coming = oracle.coming_times(TEAM)[name]
            assert at <= now

            note(oracle.feed(record, RECEIVED_AT).reason)

            left = [each for each in coming if each > at] if oracle.courses(TEAM)[name].in_force else []
            assert oracle.coming_times(TEAM).get(name, []) == left

    assert oracle.coming_times(TEAM) == {}


@given(logs())
def test_due_record_of_a_coming_end_ends_and_of_a_reminder_reminds(log: list[Event]) -> None:
    oracle = fed(log)

    for name, (first, *_) in oracle.coming_times(TEAM).items():
        course = oracle.courses(TEAM)[name]
        newest = max(
            event["data"]["occurred_at"] for event in log if event["data"].get("subscription_id") == name and "occurred_at" in event["data"]
        )
        if newest > first:
            continue  # a later fact may have it in force again
        last = first in (course.coming_end, course.until if course.mode == "paused" else None, course.trouble and course.trouble.ends_at)
        (record,) = [each for each in oracle.due_records(TEAM, first) if each["data"]["subscription_id"] == name]

        oracle.feed(record, RECEIVED_AT)

        assert oracle.courses(TEAM)[name].in_force != last
