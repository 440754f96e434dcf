"""What is known of each thing that is accounted for, put together by its id: compact, and on the disk when there is much of it.

An entry is one trace of one thing: that a replay decided it, that a topic holds it, that a table has its row. Millions of them are
sorted into ids a bucket at a time, so memory holds one bucket and no more.
"""

import contextlib
import hashlib
import struct
import tempfile
import uuid
from collections.abc import Iterator
from enum import IntEnum
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

import orjson

from schemas.kinds import Kind
from streams.errors import TierstreamError
from streams.stores.audit_log import AuditRow

STAGES = ("gateway", "normalise", "classify", "audit", "forward")
"""Who may have decided or written something; an entry holds the index."""

NOBODY = 255
"""The stage of what none of them wrote."""

TOPICS = ("razorpay.webhooks", "subscription.links", "team.events", "audit.events", "dead.letters")
KINDS = tuple(Kind)
UNKNOWN_KIND = 255
"""The kind of a row whose kind this version does not know. Kept in snapshots, as the indexes of kinds are: kinds are added at the end."""


ANYWHERE = 0xFFFF
"""The target of an output that has no key, or whose partition does not matter."""

_BUCKETS = 64
_IN_MEMORY_BYTES = 262_144
"""So much of a bucket stays in memory: 16 MiB in all before anything goes to the disk."""

_LAYOUT = struct.Struct(">16sBBBBBHqH8s8s")
_ORIGIN = struct.Struct(">BBHIq")
_NOTHING = bytes(8)


class Source(IntEnum):
    """What an entry is a trace of."""

    KNOWN = 0
    """A snapshot holds it: it was accounted for before."""
    DECIDED = 1
    """A replay decided it; the place is that of the input."""
    RECORD = 2
    """The output topic holds it; the place is its own."""
    PARKED = 3
    """A dead letter holds it."""
    ROW = 4
    """``audit_log`` has its row."""
    MAIL = 5
    """``forwarder_sent`` has its row."""


class Entry(NamedTuple):
    """One trace. ``stage``, ``topic`` and ``kind`` are indexes; ``target`` is the partition that an output belongs to, and
    ``state`` says more of some sources. ``content`` and ``row`` are digests of a record's value and of the row it becomes."""

    id: bytes
    source: int
    stage: int = NOBODY
    kind: int = 0
    state: int = 0
    topic: int = 0
    partition: int = 0
    offset: int = -1
    target: int = 0
    content: bytes = _NOTHING
    row: bytes = _NOTHING


REPLAYED = 1
"""State of a RECORD that somebody produced again from a dead letter: it is beside the account."""

OPEN, IN_DOUBT, REFUSED, FINAL, WAITS = range(5)
"""States of a MAIL."""

ROW_WAIVED, MAIL_WAIVED = 1, 2
"""State of a KNOWN, added up: its row need not be there (the audit stage gave it up), its mail need not."""


class Evidence:
    """Entries, in no order, until ``by_id`` puts them together. Use it as a context manager: it may hold temporary files."""

    def __init__(self) -> None:
        self._files = contextlib.ExitStack()
        self._buckets = [self._files.enter_context(_new_file()) for _ in range(_BUCKETS)]

    def __enter__(self) -> "Evidence":
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def add(self, entry: Entry) -> None:
        """Keep ``entry``. Raises TierstreamError when the disk is full."""
        try:
            self._buckets[entry.id[15] % _BUCKETS].write(_LAYOUT.pack(*entry))
        except OSError as error:
            raise TierstreamError(
                f"The directory {tempfile.gettempdir()} takes no more temporary files ({error.strerror}); set TMPDIR to one with room."
            ) from error

    def by_id(self) -> Iterator[list[Entry]]:
        """Yield the entries of each id, by source and place. May be called again, and ``add`` too, but not in between."""
        for bucket in self._buckets:
            bucket.seek(0)
            entries = sorted(Entry(*fields) for fields in _LAYOUT.iter_unpack(bucket.read()))
            for _, group in groupby(entries, itemgetter(0)):
                yield list(group)


def _new_file() -> "tempfile.SpooledTemporaryFile[bytes]":
    return tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES)


def digest(value: bytes) -> bytes:
    """Return 8 bytes that stand for ``value``: two values of one id that differ have one with a chance of 2^-64."""
    return hashlib.blake2b(value, digest_size=8).digest()


def row_digest(row: AuditRow) -> bytes:
    """Return the digest of a row's content, the same for the event's JSON and for what PostgreSQL makes of it."""
    try:
        metadata = _plain(orjson.loads(row.metadata))
    except orjson.JSONDecodeError:  # PostgreSQL refuses the row as well
        metadata = row.metadata
    content = (*row[1:8], metadata, row.created_at.timestamp())
    return digest(orjson.dumps(content, str, orjson.OPT_SORT_KEYS))  # the driver's UUIDs are a class of their own


def _plain(value: object) -> object:
    """``jsonb`` writes 1e16 as 10000000000000000: a whole number is one number, however it is written."""
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < 2**63 else value
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def id_bytes(text: str) -> bytes:
    """Return the 16 bytes of an id: those of a UUID, or a digest of what is none."""
    try:
        return uuid.UUID(text).bytes
    except ValueError:
        return hashlib.blake2b(text.encode(), digest_size=16).digest()


def id_text(id: bytes) -> str:
    """Return an id as everybody writes it."""
    return str(uuid.UUID(bytes=id))


def origin_id(stage: int, topic: int, partition: int, offset: int) -> bytes:
    """Return the id of one input record of one stage."""
    return _ORIGIN.pack(stage, topic, 0, partition, offset)


def place(entry: Entry) -> str:
    """Name the place of an entry in a sentence."""
    return f"{TOPICS[entry.topic]}, partition {entry.partition}, offset {entry.offset}"
