"""Laws of the decision, on random scenarios of one team, and the second opinion on each of its steps."""

import re
from collections import defaultdict
from datetime import datetime

import orjson
from hypothesis import event as note
from hypothesis import given
from hypothesis import strategies as st

from agents.classify.decide import Decision, decide
from agents.classify.outputs import audit_events, owner_of
from agents.classify.registers import Standing as AgentsStanding
from agents.classify.stage import ClassifyStage
from agents.classify.stage import Team as AgentsTeam
from schemas.kinds import GRACE_KINDS, SERVICE_KINDS, TRANSITIONS, Kind
from schemas.reasons import DEAD_LETTER_REASONS
from schemas.team_events import IMPORTED
from schemas.tiers import Tier
from streams.settings import Settings
from tests.factories import RECEIVED_AT, T0, TEAM, Event, Team, billing, read
from tests.oracle import Row, SequentialOracle, final_standing
from tests.oracle_facts import Fact
from tests.oracle_facts import read as read_by_hand
from tests.oracle_history import Standing
from tests.property.strategies import LATEST, facts, logs, logs_with_conflicts, often
from tests.webhooks import record

INITIAL = st.sampled_from([Tier.ANONYMOUS, Tier.FREE])


def emitted(event: Event, decision: Decision) -> tuple[Row, ...]:
    """Return the audit events of a decision as the rows of the oracle."""
    found = []
    for written in audit_events(read(event), decision, owner_of(decision.row)):
        audit_event = orjson.loads(written)
        metadata = audit_event["data"]["metadata"]
        kind = audit_event["type"]
        found.append(
            Row(
                id=audit_event["id"],
                kind=kind,
                team=audit_event["subject"],
                from_tier=metadata.get("from", decision.before.tier.label),  # what is passed through names no tiers
                to_tier=metadata.get("to", decision.after.tier.label),
                reason=metadata["reason"],
                subscription=metadata.get("subscription_id"),
                plan=metadata.get("plan_id"),
                event_id=metadata["event_id"],
                occurred_at=seconds(metadata["occurred_at"]),
                ends_at=seconds(metadata["ends_at"]) if kind in GRACE_KINDS else None,
            )
        )
    return tuple(found)


def seconds(time: str) -> int:
    return int(datetime.fromisoformat(time).timestamp())


def by_hand(standing: AgentsStanding) -> Standing:
    """Return a standing of the row as the oracle says it."""
    return Standing(standing.tier.label, standing.subscription_id, standing.since)


def kinds(decision: Decision) -> list[Kind]:
    """The kinds of the audit events of a decision, in their order."""
    grace = [] if decision.grace is None else [decision.grace.kind]
    return grace if decision.kind is None else [*grace, decision.kind]


# The second opinion


@often
@given(logs() | logs_with_conflicts(), INITIAL)
def test_decide_and_the_oracle_say_the_same_of_every_event(log: list[Event], initial: Tier) -> None:
    team, oracle = Team(initial=initial), SequentialOracle(initial.label)

    for event in log:
        before = oracle.standing(TEAM)
        decision, outcome = team.feed(event), oracle.feed(event, RECEIVED_AT)

        note(outcome.reason)
        assert (decision.reason, kinds(decision)) == (outcome.reason, [row.kind for row in outcome.rows])
        assert (by_hand(decision.before), by_hand(decision.after)) == (before, oracle.standing(TEAM))
        assert emitted(event, decision) == outcome.rows


@often
@given(logs() | logs_with_conflicts())
def test_tier_current_gets_what_the_oracle_says_and_when(log: list[Event]) -> None:
    stage, oracle = ClassifyStage(Settings(partitions=1)), SequentialOracle()
    row: AgentsTeam | None = None

    for event in log:
        consumed = record(orjson.dumps(event), TEAM.encode(), topic="team.events", timestamp=RECEIVED_AT * 1000)
        effect, outcome = stage.effect(consumed, row), oracle.feed(event, RECEIVED_AT)
        row = effect.row or row

        current = None
        if effect.current is not None:
            data = orjson.loads(effect.current().value or b"")["data"]
            current = Standing(data["tier"], data["subscription_id"], seconds(data["since"]))
        expected = outcome.current
        if expected is not None and not expected.since:  # nobody knows since when: it has the time of the event
            expected = Standing(expected.tier, expected.subscription, seconds(event["time"]))
        assert current == expected


# Any order, any duplicates


@often
@given(facts(), st.data(), INITIAL)
def test_decide_any_order_and_any_duplicates_give_the_same_row_tier_and_since(
    events: list[Event], data: st.DataObject, initial: Tier
) -> None:
    again = data.draw(st.lists(st.sampled_from(events), max_size=4))
    order = data.draw(st.permutations(events + again))

    one, other = Team(*events, initial=initial), Team(*order, initial=initial)

    assert one.row == other.row
    assert one.decisions[-1].after == other.decisions[-1].after
    known = {fact for event in events if isinstance(fact := read_by_hand(event, RECEIVED_AT), Fact)}
    assert by_hand(one.decisions[-1].after) == final_standing(known, initial.label)


@often
@given(logs(), st.data())
def test_decide_a_redelivery_never_emits_a_transition_again(log: list[Event], data: st.DataObject) -> None:
    team = Team(*log)
    row = team.row

    again = team.feed(data.draw(st.sampled_from(log)))

    assert again.kind not in TRANSITIONS | {Kind.CLAIMED, Kind.ADMIN_TIER_CHANGED}
    assert again.grace is None
    assert again.row == row


@given(logs(), INITIAL)
def test_decide_before_is_the_standing_that_the_decision_before_left(log: list[Event], initial: Tier) -> None:
    decisions = Team(*log, initial=initial).decisions

    assert [decision.before for decision in decisions[1:]] == [decision.after for decision in decisions[:-1]]
    assert decisions[0].before.tier is initial


# What a decision may say


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
        if event["type"].startswith(("subscription.", "payment.")):
            assert decision.kind in {None, *TRANSITIONS, Kind.CHARGE_UNDELIVERABLE}
            assert decision.grace is None or decision.grace.kind in GRACE_KINDS
        else:
            assert decision.kind in (None, event["type"])
            assert decision.kind is None or decision.kind in SERVICE_KINDS
            assert decision.grace is None


@often
@given(facts(), st.integers(0, 50), st.integers(0, 9))
def test_decide_a_renewal_emits_nothing_but_the_end_of_a_grace_period(events: list[Event], later: int, paid_count: int) -> None:
    team, oracle = Team(*events), SequentialOracle()
    for event in events:
        oracle.feed(event, RECEIVED_AT)

    for name, course in oracle.courses(TEAM).items():
        if course.mode != "active" or not course.plan:
            continue
        renewal = billing("charged", LATEST + 1 + later, name, course.plan, tier=course.tier, paid_count=paid_count, event_id="renewal")
        decision = decide(team.row, read(renewal), Tier.FREE)

        assert kinds(decision) == ([] if course.trouble is None else [Kind.GRACE_RECOVERED])
        assert decision.before == decision.after


@often
@given(logs())
def test_decide_an_end_is_reported_at_most_once_until_the_subscription_returns(log: list[Event]) -> None:
    team, oracle = Team(), SequentialOracle()
    in_force: set[str] = set()
    reported: set[str] = set()

    for event in log:
        decision = team.feed(event)
        oracle.feed(event, RECEIVED_AT)
        if decision.kind is Kind.CANCELED and decision.before.tier == decision.after.tier:
            name = event["data"]["subscription_id"]
            assert name not in reported
            reported.add(name)
        now_in_force = {name for name, course in oracle.courses(TEAM).items() if course.in_force}
        reported -= now_in_force - in_force
        in_force = now_in_force


@given(logs(), INITIAL)
def test_decide_an_ended_subscription_never_governs_again(log: list[Event], initial: Tier) -> None:
    team = Team(initial=initial)
    ended: set[str | None] = set()

    for event in log:
        decision = team.feed(event)
        fact = read_by_hand(event, RECEIVED_AT)
        if isinstance(fact, Fact) and fact.role == "end":
            ended.add(fact.subscription)

        assert decision.after.subscription_id is None or decision.after.subscription_id not in ended


# Grace periods

GRACE_LETTERS = {Kind.GRACE_STARTED: "s", Kind.GRACE_REMINDER: "m", Kind.GRACE_RECOVERED: "r", Kind.GRACE_TERMINATED: "t"}


@often
@given(logs())
def test_decide_a_recovery_and_a_termination_never_both_go_out_for_one_grace_started(log: list[Event]) -> None:
    team = Team()
    periods: dict[str, str] = defaultdict(str)

    for event in log:
        if event["type"] == IMPORTED or event["data"].get("adopt"):
            continue  # what these begin has no audit event
        decision = team.feed(event)
        if decision.grace is not None:
            assert decision.grace.ends_at > T0
            periods[event["data"]["subscription_id"]] += GRACE_LETTERS[decision.grace.kind]

    assert all(re.fullmatch("(sm*[rt]?)*", letters) for letters in periods.values()), periods
