"""Razorpay's word against a team's row: what agrees, what differs, and when the webhook that mends it happened."""

from typing import Any

import pytest

from agents.classify.history import Mode
from agents.classify.registers import EMPTY, merge_end, merge_halt, merge_pause
from schemas.team_events import SubscriptionEvent
from schemas.tiers import Tier
from streams.operate.reconcile.compare import Drift, Obstacle, Ours, Problem, compare, ours_of, read_entity
from tests.razorpay_api import T0, subscription
from tests.register_factories import active

TEAM = "7b0c54c8-2f55-4c1b-9f59-0d1c0c6c1a11"
PLANS = {"plan_pro": Tier.PRO, "plan_hobby": Tier.HOBBY}
READ_AT = T0 + 10_000
NEWEST = T0 + 500
ACTIVE = Ours(in_force=True, plan_id="plan_pro", mode=Mode.ACTIVE, newest=NEWEST)
HALTED = Ours(plan_id="plan_pro", mode=Mode.HALTED, newest=NEWEST)
LAPSED = Ours(plan_id="plan_pro", mode=Mode.LAPSED, newest=NEWEST)
PAUSED_LATER = Ours(in_force=True, plan_id="plan_pro", mode=Mode.PAUSED, newest=NEWEST)
ENDED = Ours(is_ended=True, newest=NEWEST, mode=Mode.ENDED)
ENDS_LATER = Ours(in_force=True, plan_id="plan_pro", mode=Mode.ACTIVE, newest=NEWEST, ends_later=True)
UNSEEN = Ours()


def compared(status: str, ours: Ours, team: str | None = TEAM, read_at: int = READ_AT, **fields: Any) -> Drift | None:
    return compare(read_entity(subscription("sub_1", status, **fields)), team, ours, PLANS, read_at)


@pytest.mark.parametrize(
    ("status", "ours", "fields"),
    [
        ("active", ACTIVE, {}),
        ("active", UNSEEN, {"paid_count": 0}),
        ("pending", ACTIVE, {}),
        ("pending", LAPSED, {}),
        ("halted", HALTED, {}),
        ("halted", LAPSED, {}),
        ("halted", UNSEEN, {}),
        ("paused", HALTED, {}),
        ("paused", PAUSED_LATER, {}),
        ("cancelled", ENDED, {}),
        ("cancelled", UNSEEN, {}),
        ("completed", ENDS_LATER, {}),
        ("created", UNSEEN, {"paid_count": 0}),
        ("authenticated", UNSEEN, {"paid_count": None}),
        ("expired", UNSEEN, {"paid_count": 0}),
    ],
)
def test_agreement_is_no_drift(status: str, ours: Ours, fields: dict[str, Any]) -> None:
    assert compared(status, ours, **fields) is None


ACTIVATED, IS_HALTED = SubscriptionEvent.ACTIVATED, SubscriptionEvent.HALTED


@pytest.mark.parametrize(
    ("status", "ours", "fields", "problem", "event", "at"),
    [
        # never seen: at the latest of its own times that has passed
        ("active", UNSEEN, {}, Problem.MISSING, ACTIVATED, T0 + 100),
        ("pending", UNSEEN, {}, Problem.MISSING, ACTIVATED, T0 + 100),
        # known: at least a second after the newest fact
        ("active", HALTED, {}, Problem.OUT_OF_FORCE, ACTIVATED, NEWEST + 1),
        ("active", HALTED, {"current_start": T0 + 900}, Problem.OUT_OF_FORCE, ACTIVATED, T0 + 900),
        ("active", ACTIVE, {"plan": "plan_hobby"}, Problem.OTHER_PLAN, ACTIVATED, NEWEST + 1),
        ("halted", ACTIVE, {"current_end": T0 + 800}, Problem.STILL_IN_FORCE, IS_HALTED, T0 + 800),
        ("paused", ACTIVE, {}, Problem.STILL_IN_FORCE, SubscriptionEvent.PAUSED, NEWEST + 1),
        # an end counts whatever its time, so it has the one that Razorpay gives
        ("cancelled", ACTIVE, {"ended_at": T0 + 400}, Problem.NOT_ENDED, SubscriptionEvent.CANCELLED, T0 + 400),
        ("completed", HALTED, {"ended_at": None}, Problem.NOT_ENDED, SubscriptionEvent.COMPLETED, NEWEST + 1),
    ],
)
def test_difference_has_the_webhook_that_mends_it(
    status: str, ours: Ours, fields: dict[str, Any], problem: Problem, event: SubscriptionEvent, at: int
) -> None:
    drift = compared(status, ours, **fields)

    assert drift is not None
    assert (drift.problem, drift.event, drift.at, drift.obstacle) == (problem, event, at, None)


@pytest.mark.parametrize(
    ("status", "ours", "fields", "problem", "obstacle"),
    [
        ("active", UNSEEN, {"team": None}, Problem.MISSING, Obstacle.UNKNOWN_TEAM),
        ("active", UNSEEN, {"plan": "plan_new"}, Problem.MISSING, Obstacle.UNKNOWN_PLAN),
        ("active", ENDED, {}, Problem.ENDED_HERE, Obstacle.NO_EVENT),
        ("pending", HALTED, {}, Problem.OUT_OF_FORCE, Obstacle.NO_EVENT),
        ("created", ACTIVE, {"paid_count": 0}, Problem.NOT_STARTED, Obstacle.NO_EVENT),
        ("frozen", UNSEEN, {}, Problem.UNKNOWN_STATUS, Obstacle.NO_EVENT),
        ("halted", ACTIVE, {"read_at": NEWEST}, Problem.STILL_IN_FORCE, Obstacle.CHANGED_MEANWHILE),
    ],
)
def test_difference_that_no_webhook_may_mend_says_why(
    status: str, ours: Ours, fields: dict[str, Any], problem: Problem, obstacle: Obstacle
) -> None:
    drift = compared(status, ours, **fields)

    assert drift is not None
    assert (drift.problem, drift.event, drift.at, drift.obstacle) == (problem, None, 0, obstacle)


def test_row_says_whether_a_subscription_is_in_force_on_which_plan_and_since_which_fact() -> None:
    row = active(EMPTY, 5)

    assert ours_of(None, "sub_A") == ours_of(row, "sub_Z") == Ours()
    (known,) = row.live
    assert ours_of(row, known).in_force
    assert ours_of(row, known).newest > 0
    version = (2_000_000_000, 9, 1, "e")
    assert ours_of(merge_halt(row, known, version, True), known).mode is Mode.HALTED
    assert ours_of(merge_pause(row, known, version, 2_000_000_500, ""), known).mode is Mode.PAUSED
    assert ours_of(merge_end(row, known, version, True), known) == Ours(is_ended=True, newest=2_000_000_000, mode=Mode.ENDED)
