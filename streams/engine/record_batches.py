"""What a producer sends of each partition, in record batches with sequence numbers (KIP-98)."""

import struct
import time
from collections import deque
from typing import NamedTuple

from aiokafka.record.util import calc_crc32c
from cramjam import lz4

BATCH_BYTES = 1_048_576
"""A record batch is closed before it is larger than this, unless one record alone is."""

REQUEST_BYTES = 16_777_216
"""A request ends with the batch that reaches this: brokers take at most 100 MiB (``socket.request.max.bytes``)."""

MAX_SEQUENCE = 2**31 - 1

MAGIC, UNCOMPRESSED, LZ4 = 2, 0, 3
TRANSACTIONAL = 16
LZ4_LEVEL = 1
"""A higher one needs four times the CPU for a few percent."""

NO_OFFSET, NO_LEADER_EPOCH = 0, -1  # the broker sets both

Partition = tuple[str, int]
Header = tuple[str, bytes | None]


class Batch(NamedTuple):
    """A record batch as it is sent, also when it is sent again: its sequence number is how a broker knows it."""

    payload: bytes
    records: int


class RecordBatches:
    """The records of one producer's open transaction, by partition, in the order in which they came."""

    def __init__(self, producer_id: int, producer_epoch: int) -> None:
        self._producer = producer_id, producer_epoch
        self._next_sequence: dict[Partition, int] = {}
        self._open: dict[Partition, _OpenBatch] = {}
        self._full: dict[Partition, deque[_OpenBatch]] = {}

    @property
    def has_full(self) -> bool:
        """Whether a batch is full, and need not wait for others."""
        return bool(self._full)

    def append(self, partition: Partition, key: bytes | None, value: bytes | None, headers: list[Header]) -> None:
        """Add a record."""
        batch = self._open.get(partition)
        if batch is None:
            batch = self._open[partition] = _OpenBatch()
        elif batch.append(key, value, headers):
            return
        else:
            self._full.setdefault(partition, deque()).append(batch)
            batch = self._open[partition] = _OpenBatch()
        batch.append(key, value, headers)

    def take(self, *, only_full: bool) -> dict[Partition, Batch]:
        """Return the oldest batch of each partition, up to ``REQUEST_BYTES``, and forget them. Sequence numbers are given here: those of a
        batch that is dropped before are not missing afterwards."""
        taken: dict[Partition, Batch] = {}
        size = 0
        for partition in list(self._full if only_full else self._full | self._open):
            batch = self._oldest(partition)
            payload = batch.build(*self._producer, self._next_sequence.get(partition, 0))
            self._next_sequence[partition] = (self._next_sequence.get(partition, 0) + batch.records) & MAX_SEQUENCE
            taken[partition] = Batch(payload, batch.records)
            size += len(payload)
            if size >= REQUEST_BYTES:
                break
        return taken

    def drop(self) -> None:
        """Forget what was not taken."""
        self._open.clear()
        self._full.clear()

    def _oldest(self, partition: Partition) -> "_OpenBatch":
        full = self._full.get(partition)
        if full is None:
            return self._open.pop(partition)
        batch = full.popleft()
        if not full:
            del self._full[partition]
        return batch


class _OpenBatch:
    """A batch that records are added to. All have the time at which it was opened.

    The format is that of KIP-98, magic 2. aiokafka's builder takes longer: it has the checksum of what is compressed only afterwards.
    """

    __slots__ = ("_encoded", "_headers", "_size", "_timestamp_ms", "records")

    def __init__(self) -> None:
        self._encoded: list[bytes] = []
        self._size = 0
        self._headers: tuple[list[Header], bytes] = ([], _varint(0))
        self._timestamp_ms = int(time.time() * 1000)
        self.records = 0

    def append(self, key: bytes | None, value: bytes | None, headers: list[Header]) -> bool:
        """Add a record; return False where it would make the batch too large. The first is always taken."""
        known, encoded_headers = self._headers
        if headers is not known:  # those of a stage are mostly one object
            encoded_headers = _headers(headers)
            self._headers = headers, encoded_headers
        record = b"".join((
            _NO_ATTRIBUTES_AND_NO_DELTA,
            _varint(self.records),
            _NULL if key is None else _varint(len(key)),
            key or b"",
            _NULL if value is None else _varint(len(value)),
            value or b"",
            encoded_headers,
        ))  # fmt: skip
        length = _varint(len(record))
        size = self._size + len(length) + len(record)
        if self.records and size > BATCH_BYTES:
            return False
        self._encoded += (length, record)
        self._size = size
        self.records += 1
        return True

    def build(self, producer_id: int, producer_epoch: int, sequence: int) -> bytes:
        """Return the batch, compressed where that is a gain."""
        records, codec = b"".join(self._encoded), UNCOMPRESSED
        compressor = lz4.Compressor(level=LZ4_LEVEL, content_checksum=False, block_linked=False)
        compressor.compress(records)
        compressed = bytes(compressor.finish())
        if len(compressed) < len(records):
            records, codec = compressed, LZ4
        times = self._timestamp_ms, self._timestamp_ms
        checked = (
            struct.pack(">hiqqqhii", TRANSACTIONAL | codec, self.records - 1, *times, producer_id, producer_epoch, sequence, self.records)
            + records
        )
        counted = struct.pack(">ibI", NO_LEADER_EPOCH, MAGIC, calc_crc32c(checked)) + checked
        return struct.pack(">qi", NO_OFFSET, len(counted)) + counted


def _encoded_varint(number: int) -> bytes:
    number, encoded = number << 1, bytearray()  # zigzag, of what is not negative
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


_VARINTS = tuple(map(_encoded_varint, range(8_192)))
_NULL = b"\x01"  # the length -1
_NO_ATTRIBUTES_AND_NO_DELTA = b"\0\0"


def _varint(number: int) -> bytes:
    """Return a length or an offset as records have it (a zigzag varint)."""
    return _VARINTS[number] if number < len(_VARINTS) else _encoded_varint(number)


def _headers(headers: list[Header]) -> bytes:
    encoded = [_varint(len(headers))]
    for name, value in headers:
        raw = name.encode()
        encoded += (_varint(len(raw)), raw, _NULL if value is None else _varint(len(value)), value or b"")
    return b"".join(encoded)
