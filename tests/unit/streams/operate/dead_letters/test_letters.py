"""Records of ``dead.letters``: a dead letter, a mark, and what is neither."""

import pytest

from schemas.reasons import Reason
from streams.errors import ConfigurationError
from streams.operate.dead_letters.letters import Action, DeadLetter, Mark, Place, mark_headers, read
from tests.dead_letter_doubles import MemoryLogs
from tests.pretended_stack import record


def letter(**changes: object) -> DeadLetter:
    logs = MemoryLogs()
    logs.park(5, **changes)  # type: ignore[arg-type]  # as park takes them
    (found,) = logs.records["dead.letters", 0]
    entry = read(found, "")
    assert isinstance(entry, DeadLetter)
    return entry


def test_read_a_dead_letter_says_what_its_headers_say() -> None:
    found = letter(reason=Reason.UNKNOWN_TEAM, replays=2, source=3)

    assert (found.reason, found.stage, found.origin, found.replays, found.error) == (
        "unknown_team",
        "normalise",
        Place("razorpay.webhooks", 3, 5),
        2,
        "why",
    )
    assert (found.key, found.is_quarantined, found.left_out) == ("key", False, False)


def test_read_a_mark_closes_the_dead_letter_that_it_was_made_for() -> None:
    found = letter()

    assert read(record("dead.letters", b"key", None, mark_headers(found, Action.DISCARDED)), "") == Mark(found.identity)


def test_identity_of_a_dead_letter_that_was_written_again_is_the_same_and_that_of_another_stage_is_not() -> None:
    assert letter().identity == letter().identity
    assert letter().identity != letter(stage="classify").identity


def test_read_a_record_without_our_headers_is_a_dead_letter_of_nobody() -> None:
    found = read(record("dead.letters", None, b"?", [("dlq-partition", b"-1"), ("dlq-offset", b"x"), ("other", None)]), "")

    assert isinstance(found, DeadLetter)
    assert (found.reason, found.stage, found.origin, found.identity) == ("", "", None, "dead.letters:0:0")


def test_place_is_written_as_it_is_parsed() -> None:
    assert str(Place.parse("eu.razorpay.webhooks:3:17", "eu.")) == "razorpay.webhooks:3:17"


@pytest.mark.parametrize("text", ["", "dead.letters", "dead.letters:1", ":1:2", "dead.letters:-1:2", "dead.letters:1:x", "a:1:²"])
def test_place_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is no place"):
        Place.parse(text)
