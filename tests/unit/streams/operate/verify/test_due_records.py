"""Due records: each says a time that its team's row had waited for, and none comes early or with other content."""

from dataclasses import replace

import orjson
import pytest

from agents.classify.outputs import due_record
from agents.classify.packing import pack
from streams.kafka.records import Record
from streams.operate.verify.due_records import MAX_EARLY_SECONDS, NOT_PRODUCED, DueRecords
from streams.operate.verify.report import Check
from tests.factories import T0, TEAM, Team
from tests.unit.agents.classify.decision_table import charged, completed
from tests.unit.agents.classify.return_table import paused
from tests.webhooks import record

KEY = TEAM.encode()
WAITING = pack(Team(charged(0), completed(5, ends_at=30)).row)
DONE = pack(Team(charged(0)).row)


def due(at: int, subscription: str = "sub_A", *, produced_at: int | None = None) -> Record:
    value = due_record(TEAM, subscription, "plan_pro", T0 + at, None)
    return record(value, KEY, topic="team.events", timestamp=(T0 + (at if produced_at is None else produced_at)) * 1000)


def judged(*records: Record, rows: dict[bytes, bytes] | None = None, after: bytes = DONE) -> Check:
    check = Check("due records", "")
    judge = DueRecords(check, {KEY: WAITING} if rows is None else rows, clock=lambda: T0 + 100)
    for each in records:
        judge.judge(each, after)
    judge.finish({KEY: after})
    return check


def test_due_record_that_its_row_waited_for_is_right_also_when_it_comes_again() -> None:
    check = judged(due(30), due(30))

    assert (check.differing, check.compared) == (0, 2)


def test_due_record_of_what_an_earlier_record_made_the_row_wait_for_is_right() -> None:
    waiting = pack(Team(charged(0), paused(5, 40)).row)
    first = record(orjson.dumps(charged(0)), KEY, topic="team.events", timestamp=T0 * 1000)
    check = Check("due records", "")
    judge = DueRecords(check, {})

    judge.judge(first, waiting)
    judge.judge(due(40), DONE)

    assert (check.differing, check.compared) == (0, 1)


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (due(31), "never waited for"),
        (due(30, "sub_B"), "never waited for"),
        (due(30, produced_at=30 - MAX_EARLY_SECONDS - 1), "61 s before it came"),
        (replace(due(30), value=(due(30).value or b"").replace(b'"adopt":false', b'"adopt":true')), "content"),
    ],
)
def test_due_record_that_is_wrong_is_reported(found: Record, sentence: str) -> None:
    check = judged(found)

    assert [sentence in line for line in check.lines()] == [True]


def test_due_record_of_a_worker_whose_clock_is_ahead_of_the_brokers_is_right() -> None:
    assert judged(due(30, produced_at=30 - MAX_EARLY_SECONDS)).differing == 0


def test_due_record_that_is_not_there_yet_is_pending() -> None:
    assert judged(after=WAITING).pending == {NOT_PRODUCED: 1}
    assert not judged(after=DONE).pending
