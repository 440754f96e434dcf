"""What delivery handles: a record on its way, where it may wait, and how all of them are counted."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import msgspec

from streams.errors import TierstreamError
from streams.kafka.producer import Record

_OVERHEAD_BYTES = 256

Settled = Callable[[TierstreamError | None], None]
"""Called once, in delivery's thread: None when the record is safe (acknowledged, or in the spool), else why it is lost."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What may wait where. The window is what librdkafka has and Kafka has not acknowledged."""

    buffer_records: int = 50_000
    buffer_bytes: int = 33_554_432
    window_records: int = 2_000
    window_bytes: int = 8_388_608
    spill_after_seconds: float = 0.1
    aside_seconds: float = 60.0
    """How long a record that is larger than its topic takes waits before it is tried again: those that are sent with it are sent again,
    one by one."""


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts of one process since its start: published + recovered = sent + dropped + invalid + pending, always."""

    published: int = 0
    """Records that were handed over, whatever became of them."""
    recovered: int = 0
    """Records that the spool held from before."""
    sent: int = 0
    """Acknowledged by Kafka."""
    dropped: int = 0
    """Lost: no room in memory nor in the spool, too large for Kafka, or damaged on the disk."""
    invalid: int = 0
    """Refused, for they are no valid events."""
    pending: int = 0
    """Not settled yet, in memory or in the spool."""
    spooled: int = 0
    """Written to the spool, whatever became of them."""
    damaged: int = 0
    """Places in the spool where something stood that is no whole record."""


class State(Enum):
    WAITING = 0
    IN_FLIGHT = 1
    FAILED = 2  # to be produced again
    DONE = 3  # acknowledged, or lost


class Entry:
    """One record on its way."""

    __slots__ = ("aside", "record", "settled", "since", "size", "state", "stored", "suspect")

    def __init__(self, record: Record, settled: Settled | None = None, *, stored: bool = False, aside: bool = False) -> None:
        self.record = record
        self.settled = settled
        self.size = len(record.value) + len(record.key or b"") + _OVERHEAD_BYTES
        self.state = State.WAITING
        self.stored = stored  # in the spool
        self.aside = aside  # in the queue of what was too large
        self.suspect = False  # its batch was too large, and it may be the one
        self.since = 0.0

    def settle(self, error: TierstreamError | None) -> None:
        settled, self.settled = self.settled, None
        if settled is not None:
            settled(error)


_decode = msgspec.msgpack.Decoder(tuple[str, bytes, bytes | None, list[tuple[str, bytes | None]]]).decode

pack: Callable[[Record], bytes] = msgspec.msgpack.Encoder().encode
"""A record as the spool holds it."""


def unpack(payload: bytes) -> Record | None:
    """Return the record that ``pack`` made ``payload`` of, or None when it did not."""
    try:
        return Record(*_decode(payload))
    except msgspec.DecodeError:
        return None
