"""The law of the registers: any order of the same facts, with any duplicates, ends in the same row and the same standing."""

from functools import reduce

from hypothesis import given
from hypothesis import strategies as st

from agents.classify.decide import decide
from agents.classify.history import state_of
from agents.classify.packing import pack, unpack
from agents.classify.registers import EMPTY, Row, standing
from schemas.tiers import Tier
from tests.factories import RECEIVED_AT, Event, read
from tests.oracle import final_standings, final_tier
from tests.oracle_facts import Fact
from tests.oracle_facts import read as read_by_hand
from tests.property.strategies import facts, logs, often

INITIAL = st.sampled_from([Tier.ANONYMOUS, Tier.FREE])


def row_after(events: list[Event], row: Row = EMPTY) -> Row:
    """Return the row that the real ``decide`` leaves after ``events``."""
    return reduce(lambda merged, event: decide(merged, read(event), Tier.FREE).row, events, row)


@often
@given(facts(), st.data())
def test_row_is_the_same_in_any_order_with_any_duplicates(events: list[Event], data: st.DataObject) -> None:
    again = data.draw(st.lists(st.sampled_from(events), max_size=4))
    order = data.draw(st.permutations(events + again))

    assert row_after(order) == row_after(events)
    assert standing(row_after(order), Tier.FREE) == standing(row_after(events), Tier.FREE)


@given(facts(max_size=5), st.data())
def test_row_is_the_same_when_everything_is_delivered_twice_over(events: list[Event], data: st.DataObject) -> None:
    first, second = data.draw(st.permutations(events)), data.draw(st.permutations(events))

    assert row_after(first + second) == row_after(events)


@given(facts(), st.data())
def test_merging_is_idempotent_whatever_came_between(events: list[Event], data: st.DataObject) -> None:
    row = row_after(events)
    repeated = data.draw(st.sampled_from(events))

    assert row_after([repeated], row) == row


@often
@given(facts(max_size=10), facts(max_size=1), facts(max_size=1))
def test_merging_two_facts_into_any_row_commutes(events: list[Event], one: list[Event], other: list[Event]) -> None:
    row = row_after(events)
    # Ids of the three lists overlap; the events of one team never do.
    one, other = [_renamed(one[0], "one")], [_renamed(other[0], "other")]

    assert row_after(one + other, row) == row_after(other + one, row)


def _renamed(event: Event, name: str) -> Event:
    data = {**event["data"], "event_id": name} if "event_id" in event["data"] else event["data"]
    return {**event, "id": name, "data": data}


@often
@given(logs(), INITIAL)
def test_tier_of_the_row_is_the_order_free_oracles(log: list[Event], initial: Tier) -> None:
    known = {fact for event in log if isinstance(fact := read_by_hand(event, RECEIVED_AT), Fact)}

    assert standing(row_after(log), initial).tier.label == final_tier(known, initial.label)


@given(logs())
def test_governing_subscription_of_the_row_is_the_order_free_oracles(log: list[Event]) -> None:
    by_hand = final_standings((event, RECEIVED_AT) for event in log)

    row = row_after(log)
    assert (row == EMPTY) == (not by_hand)
    assert all(expected.subscription == standing(row, Tier.FREE).subscription_id for expected in by_hand.values())


@given(logs())
def test_row_packed_and_unpacked_at_any_moment_goes_on_as_if_it_never_was(log: list[Event]) -> None:
    row = EMPTY
    for event in log:
        again = unpack(pack(row))
        assert again == row
        row = row_after([event], again)

    assert row == row_after(log)


@given(logs())
def test_row_keeps_its_invariants(log: list[Event]) -> None:
    row = row_after(log)

    assert not row.live.keys() & (row.ended.keys() | row.unstarted.keys())
    assert not row.ended.keys() & row.unstarted.keys()
    for subscription in row.live.values():
        facts, state = subscription.facts(), subscription.state
        versions = [fact.version for fact in facts]
        assert versions == sorted(set(versions))
        assert (subscription.count, subscription.newest) == (len(facts), versions[-1])
        assert state == state_of(facts)
        assert state.in_force == (state.since is not None)
        assert all(time > state.passed for time in state.coming_times())
