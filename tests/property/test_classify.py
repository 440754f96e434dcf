"""Laws of the decision, on random scenarios of one team, and the second opinion on each of its steps."""

from hypothesis import event as note
from hypothesis import given
from hypothesis import strategies as st

from agents.classify.decide import decide
from agents.classify.facts import Billing, TeamEvent
from agents.classify.registers import ACTIVE, Row, standing
from schemas.kinds import SERVICE_KINDS, TRANSITIONS, Kind
from schemas.reasons import DEAD_LETTER_REASONS
from schemas.team_events import IMPORTED, SubscriptionEvent
from schemas.tiers import Tier
from tests.factories import RECEIVED_AT, T0, TEAM, Event, Team, billing, read
from tests.oracle import SequentialOracle
from tests.property.strategies import facts, logs, often

INITIAL = st.sampled_from([Tier.ANONYMOUS, Tier.FREE])


@often
@given(logs(), INITIAL)
def test_decide_and_the_oracle_say_the_same_of_every_event(log: list[Event], initial: Tier) -> None:
    team, oracle = Team(initial=initial), SequentialOracle(initial.label)

    for event in log:
        before = oracle.standing(TEAM).tier
        decision, outcome = team.feed(event), oracle.feed(event, RECEIVED_AT)

        note(outcome.reason)
        assert (decision.reason, decision.kind) == (outcome.reason, outcome.row and outcome.row.kind)
        assert (decision.before.tier.label, decision.after.tier.label) == (before, outcome.tier)
        assert decision.after.subscription_id == oracle.standing(TEAM).subscription


@given(logs(), INITIAL)
def test_decide_before_and_after_are_the_standings_of_the_rows(log: list[Event], initial: Tier) -> None:
    team = Team(initial=initial)

    for event in log:
        row = team.row
        decision = team.feed(event)

        assert (decision.before, decision.after) == (standing(row, initial), standing(decision.row, initial))


@given(logs())
def test_decide_transitions_go_the_way_they_say(log: list[Event]) -> None:
    team = Team(*log)

    for decision in team.decisions:
        match decision.kind:
            case Kind.UPGRADED:
                assert decision.after.tier > decision.before.tier
            case Kind.DOWNGRADED:
                assert decision.after.tier < decision.before.tier
            case Kind.NEAR_QUOTA_WALL:
                assert decision.after == decision.before
        assert decision.reason not in DEAD_LETTER_REASONS


@given(logs())
def test_decide_no_billing_event_moves_a_tier_unsaid(log: list[Event]) -> None:
    team = Team()

    for event in log:
        decision = team.feed(event)
        silent = decision.kind is None and decision.before.tier != decision.after.tier

        assert not silent or event["type"] == IMPORTED or event["data"].get("adopt")


@given(logs())
def test_decide_reports_billing_with_billings_kinds_and_services_with_their_own(log: list[Event]) -> None:
    for event, decision in zip(log, Team(*log).decisions, strict=True):
        if event["type"].startswith("subscription."):
            assert decision.kind in {None, *TRANSITIONS, Kind.CHARGE_UNDELIVERABLE}
        else:
            assert decision.kind in (None, event["type"])
            assert decision.kind is None or decision.kind in SERVICE_KINDS


@often
@given(logs(), st.data())
def test_decide_a_redelivery_never_emits_a_transition_again(log: list[Event], data: st.DataObject) -> None:
    team = Team(*log)
    row = team.row

    again = team.feed(data.draw(st.sampled_from(log)))

    assert again.kind not in TRANSITIONS | {Kind.CLAIMED, Kind.ADMIN_TIER_CHANGED}
    assert again.row == row


@often
@given(facts(), st.integers(0, 50), st.integers(0, 9))
def test_decide_a_renewal_never_emits_anything(events: list[Event], later: int, paid_count: int) -> None:
    team = Team(*events)

    for name, subscription in team.row.live.items():
        if subscription.status != ACTIVE or not subscription.plan_id:
            continue
        tier = Tier(subscription.plan_tier).label
        renewal = billing("charged", 6 + later, name, subscription.plan_id, tier=tier, paid_count=paid_count, event_id="renewal")
        decision = decide(team.row, read(renewal), Tier.FREE)

        assert decision.kind is None
        assert (decision.before.tier, decision.before.subscription_id) == (decision.after.tier, decision.after.subscription_id)


@often
@given(logs())
def test_decide_an_end_is_reported_at_most_once_until_the_subscription_returns(log: list[Event]) -> None:
    team = Team()
    emitted: set[str] = set()

    for raw in log:
        row, event = team.row, read(raw)
        decision = team.feed(raw)
        if isinstance(event.body, Billing) and decision.kind is Kind.CANCELED and decision.before.tier == decision.after.tier:
            name = event.body.fact.subscription_id
            assert name not in emitted
            emitted.add(name)
        emitted -= _returned(row, decision.row)


def _returned(before: Row, after: Row) -> set[str]:
    """The subscriptions that became active."""
    was = {name for name, subscription in before.live.items() if subscription.status == ACTIVE}
    return {name for name, subscription in after.live.items() if subscription.status == ACTIVE} - was


@given(logs(), INITIAL)
def test_decide_an_ended_subscription_never_governs_again(log: list[Event], initial: Tier) -> None:
    team = Team(initial=initial)
    ended: set[str] = set()

    for event in log:
        decision = team.feed(event)
        ended |= _ended_by(read(event))

        assert decision.after.subscription_id not in ended


def _ended_by(event: TeamEvent) -> set[str]:
    if not isinstance(event.body, Billing):
        return set()
    fact = event.body.fact
    over = event.body.event is SubscriptionEvent.CANCELLED or (
        event.body.event is SubscriptionEvent.COMPLETED and (fact.current_end or T0) <= fact.occurred_at
    )
    return {fact.subscription_id} if over else set()
