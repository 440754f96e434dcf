"""The decision on one event: every line of the decision table, every tie within a second, and one scenario from end to end."""

from itertools import combinations, pairwise

import pytest

from agents.classify.decide import decide
from agents.classify.registers import EMPTY, Row
from schemas.kinds import GRACE_KINDS, OPERATOR_KINDS, SERVICE_KINDS, TRANSITIONS, Kind
from schemas.reasons import Reason
from schemas.team_events import EVENT_RANK, SERVICE_RANK, SubscriptionEvent
from schemas.tiers import Tier
from tests.factories import RECEIVED_AT, Event, Team, billing, claim, imported, override, read, service
from tests.oracle import SequentialOracle
from tests.unit.agents.classify import return_table
from tests.unit.agents.classify.decision_table import DECISION_TABLE, Case, cancelled, charged, halted, updated

TABLE = DECISION_TABLE | return_table.TABLE
CASES = [pytest.param(case, id=f"{group}: {case.title}") for group, cases in TABLE.items() for case in cases]


@pytest.mark.parametrize("case", CASES)
def test_decide_every_line_of_the_table(case: Case) -> None:
    team = Team(*case.given)

    decision = team.feed(case.event)

    outcomes = (decision.reason, decision.kind, f"{decision.before.tier.label} > {decision.after.tier.label}")
    assert outcomes == (case.reason, case.kind, case.tiers)


@pytest.mark.parametrize("case", CASES)
def test_decide_a_redelivery_changes_nothing_and_emits_no_transition(case: Case) -> None:
    team = Team(*case.given, case.event)
    row, standing = team.row, team.decisions[-1].after

    again = team.feed(case.event)

    assert (again.row, again.after) == (row, standing)
    assert again.kind not in TRANSITIONS


def test_table_has_a_scenario_for_every_reason_of_classify() -> None:
    outcomes = {case.reason for cases in TABLE.values() for case in cases}
    assert outcomes == {
        Reason.UPGRADED,
        Reason.DOWNGRADED,
        Reason.CANCELED,
        Reason.CLAIMED,
        Reason.ADMIN_CHANGED,
        Reason.PASSED_THROUGH,
        Reason.ENDED,
        Reason.RENEWAL,
        Reason.SUPERSEDED,
        Reason.SCHEDULED,
        Reason.NOT_ACTIVE,
        Reason.NOT_STARTED,
        Reason.ENDS_LATER,
        Reason.ALREADY_ENDED,
        Reason.PAYMENT_TROUBLE,
        Reason.DUPLICATE,
        Reason.STALE,
        Reason.IMPORTED,
        Reason.ADOPTED,
        Reason.PAUSED,
        Reason.PAUSES_LATER,
        Reason.MOVED,
        Reason.NOT_DUE,
    }


def test_table_has_a_scenario_for_every_kind() -> None:
    assert {case.kind for cases in TABLE.values() for case in cases} == {*Kind, None} - GRACE_KINDS - OPERATOR_KINDS
    assert {*SERVICE_KINDS, *TRANSITIONS, *GRACE_KINDS, *OPERATOR_KINDS, Kind.CHARGE_UNDELIVERABLE} == {*Kind}


WITHOUT_EFFECT = [
    billing("authenticated", 9),
    billing("activated", 9, paid_count=0),
    billing("pending", 9),
    billing("resumed", 9, status="pending"),
    updated(9, "plan_team", scheduled=True),
    updated(9, "plan_team", "halted"),
    service("near_quota_wall", 9, resource_type="seats", used=9, limit=10),
]


@pytest.mark.parametrize("given", [[], [charged(0)], [charged(0), halted(5)]])
@pytest.mark.parametrize("event", WITHOUT_EFFECT, ids=lambda event: event["type"])
def test_decide_event_without_effect_leaves_the_very_row(given: list[Event], event: Event) -> None:
    row = Team(*given).row

    assert decide(row, read(event), Tier.FREE).row is row


@pytest.mark.parametrize("initial", [Tier.ANONYMOUS, Tier.FREE, Tier.HOBBY, Tier.PRO])
def test_decide_starts_a_team_on_the_initial_tier(initial: Tier) -> None:
    team = Team(initial=initial)

    assert team.feed(claim(0)).before.tier is initial
    assert team.feed(cancelled(5, paid_count=0)).after.tier is initial


def test_decide_initial_tier_on_a_level_with_the_plan_is_no_upgrade() -> None:
    assert Team(initial=Tier.PRO).feed(charged(0)).reason is Reason.RENEWAL


# Ranks: which of two facts of one second is the later one

RANKED: list[tuple[str, dict[str, object]]] = [
    ("activated", {"plan": "plan_hobby"}),
    ("updated", {"plan": "plan_growth", "status": "active"}),
    ("charged", {"plan": "plan_pro"}),
    ("halted", {"plan": "plan_team"}),
]
"""The facts that the status register ranks, lowest first; each names another plan."""


def test_ranks_are_those_of_the_design() -> None:
    names = ["authenticated", "activated", "updated", "charged", "pending", "paused", "resumed", "halted", "completed", "cancelled"]
    assert [EVENT_RANK[SubscriptionEvent(f"subscription.{name}")] for name in names] == [*range(10)]
    assert EVENT_RANK[SubscriptionEvent.PAYMENT_FAILED] == EVENT_RANK[SubscriptionEvent.PENDING]
    assert EVENT_RANK[SubscriptionEvent.MOVED] == EVENT_RANK[SubscriptionEvent.DUE] == EVENT_RANK[SubscriptionEvent.CANCELLED]
    assert {*EVENT_RANK} == {*SubscriptionEvent}
    assert max(EVENT_RANK.values()) < SERVICE_RANK


@pytest.mark.parametrize("paid_counts", [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize(("lower", "higher"), [*combinations(RANKED, 2)], ids=lambda fact: fact[0])
def test_tie_within_a_second_the_higher_rank_is_the_later_whichever_comes_first(
    lower: tuple[str, dict[str, object]], higher: tuple[str, dict[str, object]], paid_counts: tuple[int, int]
) -> None:
    first = billing(lower[0], 0, paid_count=paid_counts[0], **lower[1])  # type: ignore[arg-type]
    second = billing(higher[0], 0, paid_count=paid_counts[1], **higher[1])  # type: ignore[arg-type]

    row = Team(first, second).row

    assert row == Team(second, first).row
    subscription = row.state("sub_A")
    assert subscription.newest == read(second).version
    assert subscription.plan_id == (lower if higher[0] == "halted" else higher)[1]["plan"]


@pytest.mark.parametrize("event", ["charged", "activated", "updated", "halted"])
@pytest.mark.parametrize("end", ["completed", "cancelled"])
def test_tie_within_a_second_an_end_absorbs_whichever_comes_first(event: str, end: str) -> None:
    fact, over = billing(event, 0, status="active"), billing(end, 0)

    assert Team(fact, over).row == Team(over, fact).row
    assert Team(over).feed(fact).reason is Reason.STALE
    assert Team(fact).feed(over).reason is (Reason.ALREADY_ENDED if event == "halted" else Reason.CANCELED)


@pytest.mark.parametrize(
    "versions",
    [
        # time, then rank, then paid count, then the event's id
        [billing("cancelled", 0, paid_count=9), billing("activated", 1, paid_count=1)],
        [billing("updated", 0, paid_count=9), billing("charged", 0, paid_count=1)],
        [billing("charged", 0, paid_count=1, event_id="z"), billing("charged", 0, paid_count=2, event_id="a")],
        [billing("charged", 0, paid_count=9), billing("charged", 0, paid_count=10)],
        [billing("charged", 0, event_id="Rp71ZiqdEWusLa"), billing("charged", 0, event_id="Rp71ZiqdEWusLb")],
        # an import ranks before every event of its second, a person's decision after
        [
            imported(0, "pro"),
            billing("activated", 0),
            billing("cancelled", 0),
            override(0, "pro"),
            override(0.5, "pro"),
            imported(1, "pro"),
        ],
        # two services' events of the same instant: source and id
        [override(0, "pro", id="2", source="a"), override(0, "pro", id="1", source="b"), override(0, "pro", id="2", source="b")],
    ],
)
def test_version_orders_facts(versions: list[Event]) -> None:
    assert all(earlier < later for earlier, later in pairwise(read(event).version for event in versions))


def test_version_a_redelivery_by_another_producer_has_the_same() -> None:
    fact = billing("charged", 0)

    assert read({**fact, "id": "other", "source": "elsewhere"}).version == read(fact).version


# A scenario, and what anyone would write by hand


def test_scenario_of_a_team_in_order_emits_what_anyone_would_write_by_hand() -> None:
    old, new = "sub_A", "sub_B"
    events: list[tuple[Event, str | None]] = [
        (claim(0), "onboarding.claimed free>free"),
        (billing("authenticated", 10, paid_count=0), None),
        (billing("activated", 12, plan="plan_hobby"), "subscription.upgraded free>hobby"),
        (charged(12, "plan_hobby"), None),
        (charged(12, "plan_hobby"), None),
        (charged(40, "plan_hobby", paid_count=2), None),
        (updated(50, "plan_pro"), "subscription.upgraded hobby>pro"),
        (charged(51, "plan_pro", paid_count=3), None),
        (updated(55, "plan_hobby", scheduled=True), None),
        (charged(80, "plan_growth", new), "subscription.upgraded pro>growth"),
        (cancelled(81, old), None),
        (charged(79, "plan_pro", old, paid_count=4), None),
        (override(90, "team"), "admin.tier_changed growth>team"),
        (charged(110, "plan_growth", new, paid_count=2), None),
        (billing("pending", 140, new, "plan_growth", paid_count=2), None),
        (halted(150, new), "subscription.canceled team>hobby"),
        (charged(160, "plan_hobby_plus", new, paid_count=3), "subscription.upgraded hobby>hobby_plus"),
        (service("near_quota_wall", 170, resource_type="seats", used=9, limit=10), "near_quota_wall hobby_plus>hobby_plus"),
        (cancelled(180, new), "subscription.canceled hobby_plus>hobby"),
        (charged(190, "plan_hobby_plus", new, paid_count=4), "billing.charge_undeliverable hobby>hobby"),
    ]

    team, oracle = Team(), SequentialOracle()
    outcomes = [team.feed(event) for event, _ in events]
    second_opinion = [oracle.feed(event, RECEIVED_AT) for event, _ in events]

    by_hand = [line for _, line in events]
    assert [
        decision.kind and f"{decision.kind} {decision.before.tier.label}>{decision.after.tier.label}" for decision in outcomes
    ] == by_hand
    rows_by_hand = [[] if line is None else [line] for line in by_hand]
    assert [[f"{row.kind} {row.from_tier}>{row.to_tier}" for row in outcome.rows] for outcome in second_opinion] == rows_by_hand


def test_decide_leaves_the_row_it_was_given() -> None:
    row = Team(charged(0)).row
    before = Row(dict(row.live), dict(row.ended), row.paid)

    for event in (
        charged(9, "plan_team"),
        cancelled(9),
        halted(9),
        override(9, "team"),
        claim(9),
        imported(9, "team", "plan_pro", "sub_A"),
    ):
        decide(row, read(event), Tier.FREE)

    assert row == before
    assert Row() == EMPTY


# One id, two events


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(override(9, "team", id="one"), id="another tier"),
        pytest.param(override(9, "pro", "admin-8", id="one"), id="another admin"),
        pytest.param(claim(9, id="one"), id="another kind"),
        pytest.param(service("near_quota_wall", 9, id="one", resource_type="seats", used=9, limit=10), id="what is passed through"),
    ],
)
def test_decide_something_else_under_an_id_moves_nothing(other: Event) -> None:
    team = Team(override(1, "pro", id="one"))
    row = team.row

    decision = team.feed(other)

    assert (decision.reason, decision.kind, decision.row) == (Reason.ID_CONFLICT, None, row)
    assert decision.after.tier is Tier.PRO


def test_decide_the_same_under_an_id_at_another_time_is_a_duplicate() -> None:
    """An event that is sent without a time gets that of each attempt."""
    team = Team(override(1, "pro", id="one"), override(2, "team", id="two"))

    again = team.feed(override(3, "pro", id="one"))

    assert (again.reason, again.kind, again.after.tier) == (Reason.DUPLICATE, None, Tier.TEAM)


def test_decide_an_id_is_its_sources_own() -> None:
    team = Team(override(1, "pro", id="one", source="app"))
    assert team.feed(override(2, "team", id="one", source="console")).reason is Reason.ADMIN_CHANGED


def test_decide_an_import_under_an_id_that_said_something_else_moves_nothing() -> None:
    team = Team(imported(1, "pro", id="one"))
    assert team.feed(imported(2, "team", id="one")).reason is Reason.ID_CONFLICT
    assert team.decisions[-1].after.tier is Tier.PRO
