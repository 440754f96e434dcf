"""JSON texts: what is read, what is none, and where depth ends it."""

import math
import sys
from collections.abc import Callable

import orjson
import pytest

from schemas.json_text import MAX_DEPTH, MAX_ODD_DEPTH, TooDeep, decode, depth


def nested(levels: int, inner: str = "1", opening: str = "[", closing: str = "]") -> str:
    return opening * levels + inner + closing * levels


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'{"a": 1, "a": 2}', {"a": 2}),
        (b'{"a": 1e400}', {"a": math.inf}),
        (b'{"a": -1e400, "a": 1e-400}', {"a": 0.0}),
        (b"[123456789012345678901234567890]", [123456789012345678901234567890.0]),
        (b"[" + b"9" * 5_000 + b"]", [math.inf]),
        (b'["\\ud800"]', ["\ud800"]),
        (b'["\\u0000"]', ["\x00"]),
        (b' \t\r\n{"": null}\n', {"": None}),
        ('{"\u00e9": true}', {"\u00e9": True}),
    ],
)
def test_decode_reads_whatever_is_json(text: bytes | str, value: object) -> None:
    assert decode(text) == value


@pytest.mark.parametrize(
    "text",
    [
        *(
            b"",
            b" ",
            b"{",
            b'{"a":}',
            b"[1,]",
            b'{"a": NaN}',
            b"[Infinity]",
            b"[-Infinity]",
            b"01",
            b"+1",
            b"'a'",
            b"{} {}",
            b'["\x00"]',
            b'["\n"]',
        ),
        *(b"\xef\xbb\xbf{}", b'{"a": "\xff"}', '{"a": 1}'.encode("utf-16"), b'["\xed\xa0\x80"]', b"\x00{}", b"nul", b"\xc2\xa0{}"),
    ],
)
def test_decode_what_is_no_json_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - of three libraries, each with its own words
        decode(text)

    assert not isinstance(refused.value, TooDeep)


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
def test_decode_reads_down_to_its_depth_and_says_what_is_deeper(opening: str, closing: str) -> None:
    step = opening.count("[") + opening.count("{")

    decode(nested(MAX_DEPTH // step, "1", opening, closing))
    with pytest.raises(TooDeep):
        decode(nested(MAX_DEPTH // step + 1, "1", opening, closing))


@pytest.mark.parametrize("inner", ['"\\ud800"', "1e400"])
def test_decode_of_odd_values_has_a_depth_of_its_own_at_any_depth_of_the_caller(inner: str) -> None:
    def called(times: int, call: Callable[[], object]) -> object:
        return called(times - 1, call) if times else call()

    deep = sys.getrecursionlimit() - MAX_ODD_DEPTH - 200

    assert called(deep, lambda: decode(nested(MAX_ODD_DEPTH, inner))) == decode(nested(MAX_ODD_DEPTH, inner))
    with pytest.raises(TooDeep):
        decode(nested(MAX_ODD_DEPTH + 1, inner))


@pytest.mark.parametrize("levels", [1_500, 100_000, 524_288])
def test_decode_never_raises_anything_else_for_a_depth(levels: int) -> None:
    for text in (nested(levels), "[" * levels, nested(levels, "1", '{"a":', "}"), nested(levels, '"\\ud800"')):
        with pytest.raises(TooDeep):
            decode(text)


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ("1", 0),
        ("{}", 1),
        ('{"a": [{}, {}, [1]]}', 3),
        ('"[[["', 0),
        ('["\\"[[", []]', 2),
        ('["\\\\", [[]]]', 3),
        ("[[", 2),
        ('[[ "[[[', 2),
        ("]]][", 0),
        ('["\ud800", []]', 2),
    ],
)
def test_depth_counts_what_is_open_outside_of_texts(text: str, levels: int) -> None:
    assert depth(text) == levels
    if "\ud800" not in text:
        assert depth(text.encode()) == levels


def test_depth_of_orjson_is_the_one_that_is_stated() -> None:
    orjson.loads(nested(MAX_DEPTH))
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(nested(MAX_DEPTH + 1))
