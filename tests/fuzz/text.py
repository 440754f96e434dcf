"""Changes of a body's text and of its bytes, whatever becomes of them as JSON."""

import re
from collections.abc import Callable

from tests.fuzz.values import Chance

_SCALAR = re.compile(rb'(?<=:)\s*(?:"[^"\\]*"|-?\d+|true|false|null)(?=[,}\]])')


def _byte_order_mark(chance: Chance, body: bytes, _: bytes) -> bytes:
    return b"\xef\xbb\xbf" + body


def _other_encoding(chance: Chance, body: bytes, _: bytes) -> bytes:
    return body.decode("utf-8", "replace").encode(chance.choice(("utf-16", "utf-16-be", "utf-32", "latin-1", "cp500")), "replace")


def _truncated(chance: Chance, body: bytes, _: bytes) -> bytes:
    return body[: chance.randrange(len(body) + 1)]


def _concatenated(chance: Chance, body: bytes, other: bytes) -> bytes:
    return body + chance.choice((b"", b"\n", b",", b"\x1e", b"\x00")) + other


def _spliced_with_another(chance: Chance, body: bytes, other: bytes) -> bytes:
    return body[: chance.randrange(len(body) + 1)] + other[chance.randrange(len(other) + 1) :]


def _in_a_list(chance: Chance, body: bytes, other: bytes) -> bytes:
    return b"[" + b",".join(chance.choice(([body], [body, other], [body] * 3, []))) + b"]"


def _name_twice(chance: Chance, body: bytes, _: bytes) -> bytes:
    name = chance.choice((b"event", b"id", b"payload", b"created_at", b"entity", b"notes", b"kind", b"team_id", b"plan_id"))
    value = chance.choice((b"null", b"{}", b"[]", b'"subscription.charged"', b"1", b'"sub_Fuzz0000000001"'))
    at = chance.choice([found.end() for found in re.finditer(rb"\{", body)] or [0])
    return body[:at] + b'"' + name + b'": ' + value + b", " + body[at:]


def _deep(chance: Chance, body: bytes, _: bytes) -> bytes:
    levels = chance.choice((2, 60, 400, 490, 520, 1_000, 1_030, 5_000))
    opening, closing = chance.choice(((b"[", b"]"), (b'{"entity":', b"}"), (b'{"a":[', b"]}")))
    return _in_place_of_a_scalar(chance, body, opening * levels + chance.choice((b"1", b'"\\ud800"')) + closing * levels)


def _raw_value(chance: Chance, body: bytes, _: bytes) -> bytes:
    raw = (
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"9" * 5_000,
        b"-0",
        b"01",
        b".5",
        b'"\\ud83d"',
        b'"\\u0000"',
        b'"\xff\xfe"',
        b'"\xed\xa0\x80"',
        b"'x'",
    )
    return _in_place_of_a_scalar(chance, body, chance.choice((*raw, b"", b"undefined", b'"a\tb"', b"/* */ 1")))


def _blanks(chance: Chance, body: bytes, _: bytes) -> bytes:
    return chance.choice((b" \r\n\t", b"\x0c", b"\xc2\xa0", b"\n" * 1_000)) + body + chance.choice((b"\n", b"\x00", b" "))


def _in_place_of_a_scalar(chance: Chance, body: bytes, value: bytes) -> bytes:
    scalars = list(_SCALAR.finditer(body))
    if not scalars:
        return body + value
    found = chance.choice(scalars)
    return body[: found.start()] + value + body[found.end() :]


TEXT_CHANGES: tuple[Callable[[Chance, bytes, bytes], bytes], ...] = (
    *(_byte_order_mark, _other_encoding, _truncated, _concatenated, _spliced_with_another),
    *(_in_a_list, _name_twice, _name_twice, _deep, _raw_value, _raw_value, _blanks),
)


# Bytes


def _flip(chance: Chance, body: bytes) -> bytes:
    if not body:
        return body
    at = chance.randrange(len(body))
    return body[:at] + bytes([body[at] ^ (1 << chance.randrange(8))]) + body[at + 1 :]


def _insert(chance: Chance, body: bytes) -> bytes:
    at = chance.randrange(len(body) + 1)
    return body[:at] + chance.choice((chance.randbytes(1), chance.randbytes(8), b'"', b"{", b"}", b",", b"\\", b"\x00")) + body[at:]


def _delete(chance: Chance, body: bytes) -> bytes:
    at = chance.randrange(len(body) + 1)
    return body[:at] + body[at + chance.choice((1, 1, 2, 16, 200)) :]


def _repeat(chance: Chance, body: bytes) -> bytes:
    start, end = sorted((chance.randrange(len(body) + 1), chance.randrange(len(body) + 1)))
    at = chance.randrange(len(body) + 1)
    return body[:at] + body[start:end] + body[at:]


BYTE_CHANGES: tuple[Callable[[Chance, bytes], bytes], ...] = (_flip, _flip, _insert, _delete, _repeat)
