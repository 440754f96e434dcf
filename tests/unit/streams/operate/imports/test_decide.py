"""What a line does, by what was imported of its team before."""

import pytest

from agents.classify.service_ids import remembered
from streams.operate.imports.decide import SECOND, SOURCE, Known, New, Refused, Unchanged, decide, event_id
from streams.operate.imports.lines import Line

TEAM, OTHER = "7b0c54c8-2f55-4c1b-9f59-0d1c0c6c1a11", "7b0c54c8-2f55-4c1b-9f59-0d1c0c6c1a12"
PRO = ("pro", "plan_pro", "sub_1", None)
TEAM_TIER = ("team", "plan_team", "sub_1", None)


def line(tier: str = "pro", plan: str | None = "plan_pro", at: int | None = None, subscription: str | None = "sub_1") -> Line:
    return Line(2, TEAM, tier, subscription, plan, None, at)


def seconds(number: float) -> int:
    return int(number * SECOND)


@pytest.mark.parametrize(
    ("given", "known", "linked", "outcome"),
    [
        # a line without a time comes before everything that Razorpay says, and a correction just after what it corrects
        (line(), None, None, New(0, link=True)),
        (line(subscription=None), None, None, New(0, link=False)),
        (line(), Known(0, PRO), TEAM, Unchanged()),
        (line(), Known(0, TEAM_TIER), TEAM, New(seconds(1), link=False)),
        (line(), Known(seconds(1_700.9), TEAM_TIER), TEAM, New(seconds(1_701), link=False)),
        # one with a time has it
        (line(at=seconds(9)), None, None, New(seconds(9), link=True)),
        (line(at=seconds(9)), Known(seconds(9), PRO), TEAM, Unchanged()),
        (line(at=seconds(9)), Known(seconds(8), PRO), TEAM, New(seconds(9), link=False)),
        (line(at=seconds(9)), Known(seconds(10), PRO), TEAM, Unchanged()),
        # what was produced is finished: a link that is missing is written, with the time of its import
        (line(), Known(seconds(3), PRO), None, New(seconds(3), link=True)),
    ],
)
def test_line_is_new_or_known(given: Line, known: Known | None, linked: str | None, outcome: object) -> None:
    assert decide(given, known, linked) == outcome


@pytest.mark.parametrize("at", [seconds(9), seconds(8)])
def test_another_statement_of_no_later_time_is_refused_for_it_could_not_count(at: int) -> None:
    outcome = decide(line(at=at), Known(seconds(9), TEAM_TIER), TEAM)

    assert outcome == Refused("occurred_at: is not after the team's import of 1970-01-01T00:00:09Z, which says something else")


def test_former_import_that_the_team_has_is_unchanged_though_a_newer_one_says_something_else() -> None:
    former = line(at=seconds(5))
    ids = remembered(b"", 5, f"{SOURCE}#{event_id(former, seconds(5))}", b"12345678")

    assert decide(former, Known(seconds(9), TEAM_TIER, ids), TEAM) == Unchanged()


def test_subscription_of_another_team_is_refused() -> None:
    assert isinstance(decide(line(), None, OTHER), Refused)


def test_id_derives_from_all_that_the_event_says() -> None:
    lines = [
        Line(2, TEAM, "pro"),
        Line(2, TEAM, "team"),
        Line(2, TEAM, "pro", subscription_id="s"),
        Line(2, TEAM, "pro", plan_id="s"),
        Line(2, TEAM, "pro", email="a@b.c"),
        Line(2, OTHER, "pro"),
    ]

    ids = {event_id(each, at) for each in lines for at in (0, 1)}

    assert len(ids) == 12
    assert event_id(Line(2, TEAM, "pro"), 0) == event_id(Line(9, TEAM, "pro", at=5), 0)
