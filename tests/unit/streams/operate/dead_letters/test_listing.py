"""What ``list`` and ``show`` print."""

import json

from schemas.reasons import Reason
from streams.operate.dead_letters.letters import DeadLetter
from streams.operate.dead_letters.listing import columns, listed, whole
from tests.unit.streams.operate.dead_letters.test_letters import letter

ADDRESS = "kim@customer.example"


def test_listed_is_json_with_the_counts_in_front() -> None:
    letters = [letter(), letter(reason=Reason.MALFORMED), letter(replays=3)]

    text = "".join(listed(letters))
    found = json.loads(text)

    assert text.startswith('{"total": 3, "by_reason": {"unknown_plan": 2, "malformed": 1}, ')
    assert [(each["at"], each["reason"], each["quarantined"]) for each in found["dead_letters"]] == [
        ("dead.letters:0:0", "unknown_plan", False),
        ("dead.letters:0:0", "malformed", False),
        ("dead.letters:0:0", "unknown_plan", True),
    ]
    assert {"at", "reason", "stage", "key", "time", "error", "replays"} <= found["dead_letters"][0].keys()


def test_columns_stand_below_each_other_with_place_and_key_whole() -> None:
    key = b"sub_" + b"9" * 100

    head, first, second = columns([letter(key=key), letter(key=None, replays=3)])

    assert first.split() == ["dead.letters:0:0", "unknown_plan", "normalise", key.decode(), "0"]
    assert second.split() == ["dead.letters:0:0", "unknown_plan", "normalise", "-", "3", "(quarantined)"]
    assert head.index("replays") == second.index("3 (quarantined)")


def test_columns_mask_a_key_that_is_an_address() -> None:
    assert ADDRESS not in "".join(columns([letter(key=ADDRESS.encode())]))


def test_listed_nothing_is_json_too() -> None:
    assert json.loads("".join(listed([]))) == {"total": 0, "by_reason": {}, "dead_letters": []}


def shown(found: DeadLetter, *, raw: bool) -> str:
    return json.dumps(whole(found, raw=raw))


def test_whole_masks_addresses_wherever_they_stand_unless_it_is_raw() -> None:
    found = letter(value=b'{"deep": [{"email": "%s"}]}' % ADDRESS.encode(), headers=[("from", ADDRESS.encode())], key=ADDRESS.encode())

    assert ADDRESS not in shown(found, raw=False)
    assert shown(found, raw=True).count(ADDRESS) == 3


def test_whole_value_that_is_no_json_is_shown_as_text() -> None:
    assert json.loads(shown(letter(value=b"\xff no JSON"), raw=False))["value"] == "\\xff no JSON"
    assert json.loads(shown(letter(value=None), raw=False))["value"] is None
