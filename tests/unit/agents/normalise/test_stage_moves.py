"""A subscription that moves from team to team: what is emitted for each, in any order of arrival."""

from typing import Any

import pytest

from agents.normalise.decide import Rules
from agents.normalise.stage import NormaliseStage
from schemas.envelope import derived_id
from schemas.reasons import Reason
from schemas.serialize import rfc3339
from schemas.team_events import SubscriptionFact
from schemas.tiers import Tier
from streams.engine.table_stage import Step, step_of
from streams.kafka.records import Record
from streams.settings import Settings
from tests.steps import facts_of, owner, value_of
from tests.webhooks import AT, RECEIVED_AT, SUBSCRIPTION, TEAM, body, delivery, link

OTHER_TEAM = "11111111-2222-4333-8444-555555555555"
NORMALISE = NormaliseStage(Settings(topic_prefix="x."), Rules({"plan_pro": Tier.PRO}))


def moves(step: Step) -> list[tuple[str | None, int]]:
    """Team and time of each ``subscription.moved`` of a step."""
    return [(fact.subject, fact.data.occurred_at) for fact in facts_of(step) if fact.type == "subscription.moved"]


class Subscription:
    """One subscription's deliveries, worked in one after the other with the row that they left."""

    def __init__(self, row: bytes | None = None) -> None:
        self.rows = {SUBSCRIPTION.encode(): row} if row else {}

    def takes(self, landed: Record) -> Step:
        step = step_of(NORMALISE, landed, self.rows)
        if step.row is not None:
            self.rows[SUBSCRIPTION.encode()] = step.row
        return step

    def receives(self, team: str | None, at: int, event: str = "subscription.charged", **entity: Any) -> Step:
        notes = {"team_id": team} if team else []
        document = body(event, notes=notes, created_at=AT + at, subscription=entity)
        return self.takes(delivery(document, event_id=f"evt_{event}_{at}", received_at=RECEIVED_AT + 1_000))


def test_normalise_a_note_of_another_team_tells_the_team_that_loses_the_subscription() -> None:
    subscription = Subscription()
    subscription.receives(OTHER_TEAM, 0)

    step = subscription.receives(TEAM, 10, paid_count=2)

    given, moved = facts_of(step)
    assert (step.reason, given.type, given.subject) == (Reason.NORMALISED, "subscription.charged", TEAM)
    assert (moved.type, moved.subject, moved.source) == ("subscription.moved", OTHER_TEAM, "tierstream/normalise")
    assert step.outputs[1].key == OTHER_TEAM.encode()
    assert moved.id == derived_id("normalise", "razorpay", "evt_subscription.charged_10", OTHER_TEAM, "subscription.moved")
    assert (moved.causationid, moved.time.timestamp()) == ("evt_subscription.charged_10", AT + 10)
    assert moved.data == SubscriptionFact(
        event_id="evt_subscription.charged_10",
        subscription_id=SUBSCRIPTION,
        occurred_at=AT + 10,
        time_source="created_at",
        plan_id="plan_pro",
        tier="pro",
        paid_count=2,
        status="active",
    )


def test_normalise_an_older_note_that_comes_later_tells_its_team_of_the_move_at_once() -> None:
    in_order, late = Subscription(), Subscription()
    in_order.receives(OTHER_TEAM, 0)
    moved = in_order.receives(TEAM, 10).outputs[1]
    late.receives(TEAM, 10)

    step = late.receives(OTHER_TEAM, 0)

    assert [(fact.type, fact.subject) for fact in facts_of(step)] == [
        ("subscription.charged", OTHER_TEAM),
        ("subscription.moved", OTHER_TEAM),
    ]
    assert step.outputs[1] == moved, "the very same record"
    assert owner(step) == TEAM


def test_normalise_a_subscription_that_returns_leaves_the_team_between() -> None:
    subscription = Subscription()
    subscription.receives(OTHER_TEAM, 0)
    subscription.receives(TEAM, 10)
    assert moves(subscription.receives(OTHER_TEAM, 20)) == [(TEAM, AT + 20)]


def test_normalise_what_the_owner_has_again_moves_nothing_again() -> None:
    subscription = Subscription()
    subscription.receives(OTHER_TEAM, 0)
    subscription.receives(TEAM, 10)

    assert moves(subscription.receives(TEAM, 10)) == [], "a redelivery"
    assert moves(subscription.receives(OTHER_TEAM, 0)) == [], "a redelivery of what it was before"
    assert moves(subscription.receives(TEAM, 20)) == [], "a renewal"
    assert moves(subscription.receives(None, 30, "subscription.cancelled")) == [], "without a note: the owner's"


@pytest.mark.parametrize("event", ["subscription.cancelled", "subscription.completed", "subscription.halted", "subscription.paused"])
def test_normalise_an_end_with_another_note_moves_the_subscription(event: str) -> None:
    subscription = Subscription()
    subscription.receives(OTHER_TEAM, 0)
    assert moves(subscription.receives(TEAM, 10, event)) == [(OTHER_TEAM, AT + 10)]


@pytest.mark.parametrize(
    ("event", "entity"),
    [
        ("subscription.pending", {}),
        ("subscription.authenticated", {}),
        ("subscription.activated", {"paid_count": 0}),
        ("subscription.resumed", {"status": "paused"}),
        ("subscription.updated", {"has_scheduled_changes": True}),
        ("subscription.created", {}),
        ("payment.failed", {}),
        ("subscription.charged", {"plan_id": "plan_x"}),
    ],
)
def test_normalise_what_gives_nobody_the_plan_takes_it_from_nobody(event: str, entity: dict[str, Any]) -> None:
    subscription = Subscription()
    subscription.receives(OTHER_TEAM, 0)

    step = subscription.receives(TEAM, 10, event, **entity)

    assert [output for output in step.outputs if b"subscription.moved" in value_of(output)] == []
    assert facts_of(subscription.receives(None, 20))[0].subject == OTHER_TEAM


def test_normalise_an_old_redelivery_without_a_note_is_of_the_team_that_had_it_then() -> None:
    subscription = Subscription(OTHER_TEAM.encode())
    first = subscription.receives(None, 0)
    subscription.receives(TEAM, 10)

    assert subscription.receives(None, 0).outputs == first.outputs
    assert facts_of(subscription.receives(None, 20))[0].subject == TEAM


def test_normalise_a_row_of_the_former_format_loses_the_subscription_to_any_note() -> None:
    assert moves(Subscription(OTHER_TEAM.encode()).receives(TEAM, 10)) == [(OTHER_TEAM, AT + 10)]
    assert moves(Subscription(TEAM.encode()).receives(TEAM, 10)) == []


def linked(team: str, at: int) -> Record:
    return link(team=team, time=rfc3339(AT + at), timestamp=(AT + 1_000) * 1_000)


def test_normalise_an_import_moves_a_subscription() -> None:
    subscription = Subscription()
    subscription.receives(OTHER_TEAM, 0)

    step = subscription.takes(linked(TEAM, 10))

    assert (step.reason, moves(step)) == (Reason.LINKED, [(OTHER_TEAM, AT + 10)])
    assert facts_of(step)[0].data.event_id == "import#i1"
    assert moves(subscription.takes(linked(TEAM, 10))) == [], "the same once more"
    assert moves(subscription.receives(OTHER_TEAM, 20)) == [(TEAM, AT + 20)]


def test_normalise_an_import_older_than_what_its_webhooks_say_is_moved_itself() -> None:
    subscription = Subscription()
    subscription.receives(OTHER_TEAM, 20)

    step = subscription.takes(linked(TEAM, 10))

    assert moves(step) == [(TEAM, AT + 20)], "the import of its tier says that it is active"
    assert owner(step) == OTHER_TEAM


def test_normalise_an_import_from_the_future_counts_from_when_it_was_written() -> None:
    subscription = Subscription()
    subscription.receives(OTHER_TEAM, 0)
    assert moves(subscription.takes(linked(TEAM, 5_000))) == [(OTHER_TEAM, AT + 1_000)]
