"""What the comparison of two contracts says, change by change. Its laws are in tests/property/test_contracts.py."""

from typing import Any

import pytest

from streams.contracts.compatibility import changes
from streams.contracts.messages import Direction

Json = dict[str, Any]

TEXT: Json = {"type": "string"}
TEXT_OR_NULL: Json = {"anyOf": [TEXT, {"type": "null"}]}

NUMBER: Json = {"anyOf": [{"type": "integer"}, {"type": "number"}]}
OPEN: Json = {"type": "object", "properties": {}, "required": []}
CLOSED: Json = {**OPEN, "additionalProperties": False}


def field(schema: Json, *, required: bool = True) -> Json:
    return {"type": "object", "properties": {"f": schema}, "required": ["f"] if required else []}


@pytest.mark.parametrize(
    ("old", "new", "said", "breaks_readers", "breaks_senders"),
    [
        (field(TEXT), {"type": "object", "properties": {}, "required": []}, "f: is gone", True, True),
        (field(TEXT), field(TEXT, required=False), "f: may be absent now", True, False),
        (field(TEXT, required=False), field(TEXT), "f: has to be there now", False, True),
        (field(TEXT), field(TEXT_OR_NULL), "f: may be null now", True, False),
        (field(TEXT_OR_NULL), field(TEXT), "f: is no longer null", False, True),
        (field({"type": "integer"}), field({"type": "number"}), "f: may have a fraction now", True, False),
        (field({"type": "number"}), field({"type": "integer"}), "f: is a whole number only now", False, True),
        (field({"type": "boolean"}), field({}), "f: may be anything now", True, False),
        (field({}), field(TEXT), "f: has to be string now", False, True),
        (field({"enum": ["a"]}), field({"enum": ["a", "b"]}), "f: may be b now", True, False),
        (field({"enum": ["a", "b"]}), field({"enum": ["a"]}), "f: is never b any more", True, True),
        (field({"const": "v1"}), field(TEXT), "f: may be more than v1 now", True, False),
        (field({**TEXT, "maxLength": 5}), field({**TEXT, "maxLength": 9}), "f: maxLength is 9 now, and was 5", True, False),
        (field({**TEXT, "maxLength": 5}), field(TEXT), "f: maxLength is no longer set now, and was 5", True, False),
        (field(TEXT), field({**TEXT, "minLength": 1}), "f: minLength is 1 now, and was not set", False, True),
        (field({**TEXT, "maxLength": 9}), field({**TEXT, "maxLength": 5}), "f: maxLength is 5 now, and was 9", False, True),
        (field({**TEXT, "minLength": 1}), field({**TEXT, "minLength": 2}), "f: minLength is 2 now, and was 1", False, True),
        (field({**TEXT, "minLength": 2}), field({**TEXT, "minLength": 1}), "f: minLength is 1 now, and was 2", True, False),
        (field({"type": "integer"}), field(NUMBER), "f: may have a fraction now", True, False),
        (CLOSED, {**CLOSED, "properties": {"f": TEXT}}, "f: is new, and may be absent", True, False),
        (CLOSED, {**CLOSED, "properties": {"f": TEXT}, "required": ["f"]}, "f: is new, and always there", True, True),
        (OPEN, {**OPEN, "properties": {"f": TEXT}}, "f: is new, and may be absent", False, False),
        (OPEN, {**OPEN, "properties": {"f": TEXT}, "required": ["f"]}, "f: is new, and always there", False, True),
        ({**OPEN, "additionalProperties": TEXT}, {**OPEN, "additionalProperties": TEXT_OR_NULL}, "*: may be null now", True, False),
        (field({**TEXT, "format": "uuid"}), field(TEXT), "f: has no longer the format uuid", True, False),
        (field({**TEXT, "format": "uuid"}), field({**TEXT, "format": "date"}), "f: has the format date now, and had uuid", True, True),
        (field(TEXT), {**field(TEXT), "additionalProperties": False}, "has no further fields now", False, True),
        (field({"type": "array", "items": TEXT}), field({"type": "array", "items": TEXT_OR_NULL}), "f[]: may be null now", True, False),
        (field(field(TEXT)), field(field(TEXT, required=False)), "f.f: may be absent now", True, False),
        (
            field({**TEXT, "contentEncoding": "base64"}),
            field(TEXT),
            "f: contentEncoding has changed, which can not be compared",
            True,
            True,
        ),
        (
            field({"anyOf": [{"enum": ["a"]}, {**TEXT, "minLength": 3}]}),
            field(TEXT),
            "f: is described in another way, which can not be compared",
            True,
            True,
        ),
    ],
)
def test_change_is_named_and_breaks_whom_it_breaks(old: Json, new: Json, said: str, breaks_readers: bool, breaks_senders: bool) -> None:
    wanted: dict[Direction, bool] = {"out": breaks_readers, "in": breaks_senders}
    for direction, breaks in wanted.items():
        assert [(str(change), change.breaks) for change in changes(old, new, direction)] == [(said, breaks)]


def test_another_type_is_named_from_both_sides() -> None:
    found = changes(field(TEXT), field({"type": "boolean"}), "out")

    assert [(str(change), change.breaks) for change in found] == [("f: is no longer string", False), ("f: may be boolean now", True)]


def test_a_number_that_may_be_whole_is_a_number() -> None:
    assert changes(field(NUMBER), field({"type": "number"}), "out") == []


def test_descriptions_and_defaults_change_nothing() -> None:
    assert changes(field({**TEXT, "description": "old", "default": "a"}), field({**TEXT, "description": "new"}), "out") == []
