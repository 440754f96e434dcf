"""The ids of what services told about a team, and what each said: so that one id says one thing. Pure.

Of each event that a row keeps (a claim, an admin's decision, an import) it remembers the time (5 bytes), a digest of source and id (8) and a
digest of kind and data (8), the newest of them. The time is no part of what an event says: one that is sent without a time gets that
of each attempt.
"""

import contextlib
from enum import Enum
from hashlib import blake2b
from typing import Final

import orjson

MAX_IDS: Final = 64
"""Ids that a row remembers. A team is claimed once and put on a tier by hand a few times."""

_TIME_BYTES: Final = 5
_DIGEST_BYTES: Final = 8
_ENTRY_BYTES: Final = _TIME_BYTES + 2 * _DIGEST_BYTES


class Known(Enum):
    """What is known of an event's id."""

    NEW = "new"
    SAME = "same"
    """It said the same before."""
    OTHER = "other"
    """It said something else before."""


def content_of(kind: str, data: bytes) -> bytes:
    """Return a digest of what an event says: its kind, and its data, whatever their order and the white space between.

    Rows hold it, so it must never change.
    """
    with contextlib.suppress(ValueError, TypeError):  # JSON that orjson has no value for is compared as it was written
        data = orjson.dumps(orjson.loads(data), option=orjson.OPT_SORT_KEYS)
    return _digest(kind.encode() + b"\0" + data)


def known(ids: bytes, name: str, content: bytes) -> Known:
    """Say what the remembered ``ids`` know of the event called ``name``, which says ``content``."""
    if not ids:
        return Known.NEW
    named = _digest(name.encode())
    for at in range(_TIME_BYTES, len(ids), _ENTRY_BYTES):
        middle = at + _DIGEST_BYTES
        if ids[at:middle] == named:
            return Known.SAME if ids[middle : middle + _DIGEST_BYTES] == content else Known.OTHER
    return Known.NEW


def remembered(ids: bytes, seconds: int, name: str, content: bytes) -> bytes:
    """Return the ids with one that is new. They are in the order of their times, so that any order of arrival gives the same."""
    entries = [ids[at : at + _ENTRY_BYTES] for at in range(0, len(ids), _ENTRY_BYTES)]
    entries.append(seconds.to_bytes(_TIME_BYTES) + _digest(name.encode()) + content)
    return b"".join(sorted(entries)[-MAX_IDS:])


def _digest(text: bytes) -> bytes:
    return blake2b(text, digest_size=_DIGEST_BYTES).digest()
