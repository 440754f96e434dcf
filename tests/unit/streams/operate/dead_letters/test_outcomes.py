"""What is written for one dead letter."""

import orjson
import pytest

from agents.audit.record import AuditRecord, read_audit_record
from schemas.kinds import Kind
from schemas.reasons import Reason
from streams.operate.dead_letters.letters import Action, DeadLetter, Mark, read
from streams.operate.dead_letters.outcomes import Decree, Written, outcome
from streams.operate.dead_letters.plan import Item
from tests.dead_letter_doubles import SETTINGS
from tests.pretended_stack import record
from tests.unit.streams.operate.dead_letters.test_letters import letter
from tests.webhooks import TEAM, body

OWN = [("razorpay-event-id", b"id-1"), ("received-at", b"1700000000000"), ("content-type", b"application/json")]


def written(found: DeadLetter, action: Action = Action.REPLAYED, also: tuple[str, ...] = ()) -> list[Written]:
    item = Item(found.place, found.identity, found.origin or found.place, also)
    return outcome(SETTINGS, found, item, Decree(action, "plan added", "kim", 1_700_000_000.0))


def test_outcome_of_a_replay_is_the_record_as_it_was_its_mark_and_the_event() -> None:
    found = letter(headers=OWN, value=orjson.dumps(body()), replays=1)

    again, mark, event = written(found, also=("forward audit.events:0:1",))[:2] + written(found)[2:]

    assert (again.topic, again.key, again.value) == ("razorpay.webhooks", b"key", found.record.value)
    assert again.headers == [*OWN, ("dlq-replays", b"2")]
    assert (mark.topic, mark.key, mark.value, mark.partition) == ("dead.letters", b"key", None, 0)
    assert read(record("dead.letters", mark.key, mark.value, mark.headers), "") == Mark(found.identity)
    audited = read_audit_record(event.value)
    assert isinstance(audited, AuditRecord)
    assert (audited.kind, str(audited.team_id)) == (Kind.OPERATOR_REPLAYED, TEAM)
    assert audited.data.metadata == {
        "because": "plan added", "by": "kim", "at": "dead.letters:0:0", "of": "razorpay.webhooks:0:5", "reason": "unknown_plan",
        "stage": "normalise", "replays": 2,
    }  # fmt: skip


def test_outcome_of_one_record_that_two_stages_parked_has_a_mark_for_each() -> None:
    found = letter(stage="audit", topic="audit.events")
    marks = written(found, also=("forward audit.events:0:5",))[1:-1]

    assert [read(record("dead.letters", b"key", None, mark.headers), "") for mark in marks] == [
        Mark("audit audit.events:0:5"),
        Mark("forward audit.events:0:5"),
    ]


def test_outcome_of_a_discard_is_the_mark_and_the_event_and_no_record() -> None:
    mark, event = written(letter(), Action.DISCARDED)

    assert mark.topic == "dead.letters"
    assert orjson.loads(event.value or b"")["type"] == Kind.OPERATOR_DISCARDED


def test_outcome_of_a_webhook_without_an_event_id_keeps_the_id_that_its_place_was() -> None:
    headers = dict(written(letter())[0].headers)

    assert headers["razorpay-event-id"] == b"razorpay.webhooks-0-5"
    assert headers["received-at"]


def test_outcome_of_a_time_that_was_in_the_future_is_judged_by_the_time_of_the_replay() -> None:
    assert "received-at" not in dict(written(letter(headers=OWN, reason=Reason.FUTURE_TIME))[0].headers)


@pytest.mark.parametrize(("key", "value", "team"), [(TEAM.encode(), b"?", TEAM), (b"sub_1", b"\xff", None), (None, None, None)])
def test_outcome_names_the_team_where_it_is_known(key: bytes | None, value: bytes | None, team: str | None) -> None:
    event = orjson.loads(written(letter(key=key, value=value))[-1].value or b"")

    assert event.get("subject") == team
