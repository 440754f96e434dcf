"""The stream of ``make chaos``: what its scenarios hold, and that what is said of due records is right, wrong and missing where it is so."""

import random
from collections import Counter
from collections.abc import Iterable
from typing import Any

import orjson
import pytest

from agents.classify.stage import ClassifyStage
from agents.normalise.decide import Rules
from agents.normalise.stage import NormaliseStage
from schemas.kinds import GRACE_KINDS, Kind
from schemas.reasons import Reason
from schemas.team_events import SubscriptionEvent
from streams.embedded.stack import EXAMPLE_PLANS
from streams.settings import Settings, load_plans
from streams.topics import CLASSIFY_CHANGELOG, NORMALISE_CHANGELOG, RAZORPAY_WEBHOOKS, TEAM_EVENTS
from tests.due_verdict import DueRecords
from tests.load import TeamScenario, team_scenarios
from tests.oracle import Outcome, SequentialOracle
from tests.pretended_stack import Log, PretendedStage

Event = dict[str, Any]
NOW = 1_780_000_000
SECONDS = 100
COMING = range(NOW, NOW + SECONDS)
SETTINGS = Settings(plans=EXAMPLE_PLANS, partitions=4, replication_factor=1)
RULES = Rules(load_plans(EXAMPLE_PLANS), grace_days=SETTINGS.grace_days, grace_reminder_days=SETTINGS.grace_reminders)


class Played:
    """The stream on pretended stages, whose clock goes on by ``SECONDS`` in all: the records of ``team.events`` and what came of them."""

    def __init__(self, seed: int) -> None:
        self.found = team_scenarios(seed, 12, 720, NOW - 7_200, COMING)
        log = Log(SETTINGS.partitions, NOW * 1000)
        normalise = PretendedStage(NormaliseStage(SETTINGS, RULES), log, NORMALISE_CHANGELOG.name)
        classify = PretendedStage(ClassifyStage(SETTINGS), log, CLASSIFY_CHANGELOG.name)
        webhooks = _mixed(self.found, random.Random(seed))
        for number, webhook in enumerate(webhooks):
            log.now_ms = max(log.now_ms, (NOW * 1000) + number * SECONDS * 1000 // len(webhooks))
            entity = orjson.loads(webhook.body)["payload"]["subscription"]["entity"]
            headers = [("razorpay-event-id", webhook.event_id.encode()), ("received-at", b"%d" % log.now_ms)]
            for produced in normalise.work_in(log.append(RAZORPAY_WEBHOOKS.name, entity["id"].encode(), webhook.body, headers)):
                if produced.topic == TEAM_EVENTS.name:
                    classify.work_in(produced)
            classify.let_time_pass()
        log.now_ms = COMING.stop * 1000
        classify.let_time_pass()
        self.counted = classify.counted
        self.events = [(orjson.loads(record.value or b""), record.timestamp // 1000) for record in log.held(TEAM_EVENTS.name)]
        self.kinds = Counter(orjson.loads(record.value or b"")["type"] for record in log.topics["audit.events"])


def _mixed(found: Iterable[TeamScenario], chance: random.Random) -> list[Any]:
    """The webhooks of all scenarios beside each other, some of them late."""
    numbered = [(number + chance.choice((0, 0, 3)), webhook) for team in found for number, webhook in enumerate(team.webhooks)]
    return [webhook for _, webhook in sorted(numbered, key=lambda each: each[0])]


def watched(events: Iterable[tuple[Event, int]]) -> tuple[DueRecords, list[Outcome]]:
    due = DueRecords(SequentialOracle(), began=COMING.stop)
    outcomes = []
    for event, received_at in events:
        outcomes.append(due.oracle.feed(event, received_at))
        due.note(event, received_at)
    return due, outcomes


@pytest.fixture(scope="module", params=[1, 2, 3])
def played(request: pytest.FixtureRequest) -> Played:
    return Played(request.param)


def is_due(event: Event) -> bool:
    return bool(event["type"] == SubscriptionEvent.DUE)


def test_stream_has_every_turn_that_time_brings_and_the_oracle_counts_the_same_outcomes(played: Played) -> None:
    due, outcomes = watched(played.events)

    assert Counter(outcome.reason for outcome in outcomes) == played.counted
    assert (due.missing(), due.wrong, due.repeated()) == ([], [], [])
    assert due.came.total() > 20
    assert set(played.counted) >= {
        Reason.PAUSED, Reason.PAUSES_LATER, Reason.MOVED, Reason.ENDS_LATER, Reason.NOT_STARTED, Reason.GRACE_STARTED, Reason.GRACE_REMINDER,
        Reason.GRACE_RECOVERED, Reason.CANCELED, Reason.PAYMENT_TROUBLE,
    }  # fmt: skip
    assert set(played.kinds) >= {*GRACE_KINDS, Kind.UPGRADED, Kind.DOWNGRADED, Kind.CANCELED}


def test_stream_has_times_that_pass_while_it_runs_and_times_that_have_passed_before(played: Played) -> None:
    times = [event["data"]["occurred_at"] for event, _ in played.events if is_due(event)]

    assert sum(at in COMING for at in times) > 5
    assert sum(at < COMING.start for at in times) > 5


def test_stream_without_coming_times_has_nothing_that_happens_by_itself() -> None:
    found = {webhook.event for team in team_scenarios(1, 10, 500, NOW - 7_200) for webhook in team.webhooks}

    assert found.isdisjoint({"subscription.paused", "subscription.resumed", "payment.failed"})


def test_due_record_that_is_missing_is_named(played: Played) -> None:
    (*_, number) = [number for number, (event, _) in enumerate(played.events) if is_due(event)]
    event, _ = played.events[number]

    due, _ = watched(played.events[:number])
    due_with_it, _ = watched(played.events[: number + 1])

    lost = f"due record of {event['data']['subscription_id']} of {event['subject']} at {event['data']['occurred_at']}"
    assert lost in due.missing()
    assert lost not in due_with_it.missing()


def test_due_record_that_is_early_invented_changed_or_repeated_is_named(played: Played) -> None:
    number, (event, at) = next((number, each) for number, each in enumerate(played.events) if is_due(each[0]))
    early = (event, event["data"]["occurred_at"] - 7)
    invented = ({**event, "data": {**event["data"], "subscription_id": "sub_of_nobody"}}, at)
    renamed = ({**event, "id": "another"}, at)
    before = played.events[:number]

    assert "7 s early" in watched([*before, early])[0].wrong[0]
    assert "nothing waited for" in watched([*before, invented])[0].wrong[0]
    assert "has the id another" in watched([*before, renamed])[0].wrong[0]
    assert "came 2 times" in watched([*before, (event, at), (event, at)])[0].repeated()[0]
