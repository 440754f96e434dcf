"""A parked entry says what an operator did with its dead letter, who, and why."""

import uuid
from datetime import UTC, datetime

import orjson
import pytest

from streams.demo.scenario import build_scenario
from streams.operate.dead_letters.letters import Action, DeadLetter, read
from streams.operate.dead_letters.outcomes import Decree, outcome
from streams.operate.dead_letters.plan import Item
from streams.operate.explain import explain
from streams.operate.explain.words import reasoning
from streams.stores.audit_log import AuditRow
from streams.topics import DEAD_LETTERS
from tests.explain_doubles import SearchedLogs, searched
from tests.pretended_stack import record
from tests.verify_doubles import NOW, PRETENDED, SETTINGS

STRANGER = next(delivery for delivery in build_scenario(NOW).deliveries if delivery.team is None and delivery.reason == "unknown_team")


def letter_of(logs: SearchedLogs, event_id: str) -> DeadLetter:
    records = logs.topics[DEAD_LETTERS.name]
    parked = next(record for record in records if ("razorpay-event-id", event_id.encode()) in record.headers)
    letter = read(parked, "")
    assert isinstance(letter, DeadLetter)
    return letter


@pytest.mark.parametrize("is_written", [True, False])
@pytest.mark.parametrize(("action", "words"), [(Action.REPLAYED, "Replayed at "), (Action.DISCARDED, "Discarded at ")])
def test_parked_entry_says_what_was_done_with_its_dead_letter(action: Action, words: str, is_written: bool) -> None:
    logs, stores = searched(PRETENDED)
    letter = letter_of(logs, STRANGER.event_id)
    assert letter.origin is not None
    decided = outcome(SETTINGS, letter, Item(letter.place, letter.identity, letter.origin), Decree(action, "asked Asha", "kim", NOW))
    mark, event = decided[-2:]
    logs.topics[DEAD_LETTERS.name] = [
        *logs.topics[DEAD_LETTERS.name],
        record(mark.topic, mark.key, None, mark.headers, partition=letter.place.partition, offset=1_000),
    ]
    said = orjson.loads(event.value or b"")
    row = AuditRow(
        uuid.UUID(said["id"]), None, None, "cli", said["type"], None, None, said["data"]["summary"],
        orjson.dumps(said["data"]["metadata"]).decode(), datetime.fromtimestamp(NOW, UTC),
    )  # fmt: skip
    stores.rows += [row] if is_written else []

    (entry,) = explain(SETTINGS, logs, stores, STRANGER.event_id).entries

    (closing,) = entry.closings
    assert (closing.action, closing.by, closing.because) == (action, *(("kim", "asked Asha") if is_written else (None, None)))
    assert f"{words}{closing.at}{' by kim: asked Asha' if is_written else ''}." in reasoning(entry)
    assert entry.as_json()["closings"][0]["action"] == action


def test_parked_entry_that_nobody_decided_on_has_no_closing() -> None:
    logs, stores = searched(PRETENDED)

    (entry,) = explain(SETTINGS, logs, stores, STRANGER.event_id).entries

    assert entry.closings == ()
