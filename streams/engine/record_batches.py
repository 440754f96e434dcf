"""What a producer sends of each partition, in record batches with sequence numbers (KIP-98)."""

import struct
import time
from collections import deque
from typing import NamedTuple

from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c
from cramjam import lz4

BATCH_BYTES = 1_048_576
"""A record batch is closed before it is larger than this, unless one record alone is."""

REQUEST_BYTES = 16_777_216
"""A request ends with the batch that reaches this: brokers take at most 100 MiB (``socket.request.max.bytes``)."""

MAX_SEQUENCE = 2**31 - 1

MAGIC, UNCOMPRESSED, LZ4 = 2, 0, 3
LZ4_LEVEL = 1
"""aiokafka's own builder takes 9, which needs four times the CPU for a few percent."""

# Where a record batch of magic 2 has what compression changes, from KIP-98: its length from behind the length on, the checksum, the
# attributes (from where on the checksum is), the records.
_LENGTH, _CRC, _ATTRIBUTES, _RECORDS = 8, 17, 21, 61
_LENGTH_FROM = 12

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
    """A batch that records are added to. All have the time at which it was opened."""

    __slots__ = ("_builder", "_timestamp_ms", "records")

    def __init__(self) -> None:
        self._builder = DefaultRecordBatchBuilder(MAGIC, UNCOMPRESSED, True, -1, -1, 0, BATCH_BYTES)
        self._timestamp_ms = int(time.time() * 1000)
        self.records = 0

    def append(self, key: bytes | None, value: bytes | None, headers: list[Header]) -> bool:
        """Add a record; return False where it would make the batch too large. The first is always taken."""
        if self._builder.append(self.records, self._timestamp_ms, key, value, headers) is None:
            return False
        self.records += 1
        return True

    def build(self, producer_id: int, producer_epoch: int, sequence: int) -> bytes:
        self._builder.set_producer_state(producer_id, producer_epoch, sequence)
        return _compressed(self._builder.build())


def _compressed(batch: bytearray) -> bytes:
    """Return a record batch with its records in one LZ4 frame, or as it is where that is no gain."""
    compressor = lz4.Compressor(level=LZ4_LEVEL, content_checksum=False, block_linked=False)
    compressor.compress(bytes(batch[_RECORDS:]))
    records = bytes(compressor.finish())
    if len(records) >= len(batch) - _RECORDS:
        return bytes(batch)
    (attributes,) = struct.unpack_from(">h", batch, _ATTRIBUTES)
    checked = struct.pack(">h", attributes | LZ4) + batch[_ATTRIBUTES + 2 : _RECORDS] + records
    head = batch[:_ATTRIBUTES]
    struct.pack_into(">i", head, _LENGTH, _ATTRIBUTES - _LENGTH_FROM + len(checked))
    struct.pack_into(">I", head, _CRC, calc_crc32c(checked))
    return bytes(head) + checked
