"""JSON texts as anybody may send them, down to a depth that is the same in every process."""

import json
import re
from itertools import accumulate

import orjson

MAX_DEPTH = 1_024
"""Levels of objects and lists that orjson reads."""

MAX_ODD_DEPTH = 500
"""Levels of a text that orjson has no value for. The standard library's reader gives up at some 1,000 calls, those of its caller included, so
at another depth in each process: this is well below."""

_MAX_INTEGER_DIGITS = 19
_NO_BRACKETS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?|[^"\[\]{}]+', re.DOTALL)
_STEPS = {ord(bracket): 1 if bracket in "[{" else -1 for bracket in "[]{}"}


class TooDeep(ValueError):
    """Objects and lists are nested deeper than can be read. Whether the text is JSON otherwise is not looked at."""


def decode(text: bytes | str) -> object:
    """Return the JSON value of ``text``; of a name that an object has twice, the last value.

    Lone surrogates and numbers beyond a double are JSON by RFC 8259, and are read. Raises TooDeep, and ValueError when there is no value: a
    byte order mark, another encoding than UTF-8, NaN and Infinity are no JSON.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        pass
    if depth(text) > MAX_ODD_DEPTH:
        raise TooDeep("is nested too deep")
    decoded = text.decode() if isinstance(text, bytes) else text
    return json.loads(decoded, parse_constant=_reject_constant, parse_int=_integer)


def depth(text: bytes | str) -> int:
    """Return how many objects and lists of ``text`` are open at once at most, whether it is JSON or not."""
    encoded = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    brackets = _NO_BRACKETS.sub(b"", encoded)
    return max(accumulate(map(_STEPS.__getitem__, brackets), initial=0))


def _reject_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MAX_INTEGER_DIGITS else float(digits)
