"""Which dead letters the options of a command choose."""

import pytest

from schemas.reasons import Reason
from streams.errors import ConfigurationError
from streams.operate.dead_letters.filters import Filters, filters_of
from streams.operate.dead_letters.letters import Place
from tests.unit.streams.operate.dead_letters.test_letters import letter

NOTHING = {"reason": None, "stage": None, "key": None, "since": None, "until": None, "at": None}


@pytest.mark.parametrize(
    ("filters", "matches"),
    [
        (Filters(), True),
        (Filters(reason="unknown_plan"), True),
        (Filters(reason="malformed"), False),
        (Filters(stage="normalise", key="key"), True),
        (Filters(stage="audit", key="key"), False),
        (Filters(key="ke"), False),
        (Filters(at=Place("dead.letters", 0, 0)), True),
        (Filters(at=Place("razorpay.webhooks", 0, 5)), True),
        (Filters(at=Place("dead.letters", 0, 5)), False),
    ],
)
def test_filters_all_that_are_given_must_hold(filters: Filters, matches: bool) -> None:
    assert filters.matches(letter(reason=Reason.UNKNOWN_PLAN)) is matches


def test_filters_since_is_in_and_until_is_not() -> None:
    found = letter()

    assert Filters(since=found.time).matches(found)
    assert not Filters(until=found.time).matches(found)
    assert Filters(since=found.time - 1, until=found.time + 1).matches(found)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1700000000", 1_700_000_000.0), ("2026-03-01", 1_772_323_200.0), ("2026-03-01T05:30:00+05:30", 1_772_323_200.0), ("2026-03-01T00:00:00Z", 1_772_323_200.0)],
)  # fmt: skip
def test_times_are_unix_seconds_dates_and_rfc_3339(text: str, seconds: float) -> None:
    assert filters_of(**{**NOTHING, "since": text}, topic_prefix="").since == seconds


@pytest.mark.parametrize(
    "wrong",
    [{"reason": "sent"}, {"stage": "all"}, {"since": "2026-03-01T00:00:00"}, {"until": "now"}, {"since": "2", "until": "2"}, {"at": "x"}],
)
def test_what_can_not_match_anything_is_refused_in_one_sentence(wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError):
        filters_of(**{**NOTHING, **wrong}, topic_prefix="")
