"""Finding the few records of a long log that hold some bytes, such as a key: whole batches are searched, and only those that hold them decoded.

librdkafka makes an object of each record, which takes four microseconds: half a second for each partition of a log of a million events.
Here a batch is decompressed and searched as one piece of memory, which is ten times as fast.
"""

import asyncio
import struct
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.codec import gzip_decode, lz4_decode, snappy_decode, zstd_decode
from aiokafka.errors import KafkaError, OffsetOutOfRangeError, for_code
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.control_record import ABORT_MARKER, ControlRecord
from aiokafka.record.default_records import DefaultRecordBatch

from streams.errors import KafkaUnavailable
from streams.kafka.client import aiokafka_config
from streams.kafka.records import Record
from streams.settings import Settings

FETCH_BYTES = 4_194_304
"""Of one answer about one partition. A batch that is larger comes whole all the same."""

_WAIT_MS = 100
_RETRY_SECONDS = 0.05
_READ_COMMITTED = 1
_MAGIC = 2

_HEADER = struct.Struct(">qiibIhiqqqhii")
"""Base offset, length behind it, leader epoch, magic, checksum, attributes, last offset's delta, two timestamps, producer id and epoch, first
sequence number, count of records (KIP-98)."""

_LENGTH_END = 12  # of base offset and length, which the length does not count
_CODEC, _TRANSACTIONAL, _CONTROL = 0x07, 0x10, 0x20
_DECODERS: dict[int, Callable[[bytes], bytes]] = {1: gzip_decode, 2: snappy_decode, 3: lz4_decode, 4: zstd_decode}

Passes = Callable[[Record], bool]


class Span(NamedTuple):
    """A partition of a topic (full name) from ``first`` up to, but not with, ``end``, which is committed."""

    topic: str
    partition: int
    first: int
    end: int


class Wanted(NamedTuple):
    """What is looked for in a partition: the records that ``passes`` takes of the batches that hold one of ``needles`` (None: of all)."""

    span: Span
    needles: Collection[bytes] | None
    passes: Passes


def search_logs(settings: Settings, wanted: Sequence[Wanted], timeout_seconds: float = 30.0) -> list[Record]:
    """Return the committed records that are looked for, in the order of ``wanted`` and of their offsets. Blocking, with a loop of its own.

    Raises KafkaUnavailable when nothing comes for ``timeout_seconds``, or retention deletes what is being read.
    """
    return asyncio.run(_search(settings, wanted, timeout_seconds))


async def _search(settings: Settings, wanted: Sequence[Wanted], timeout_seconds: float) -> list[Record]:
    client = AIOKafkaClient(**aiokafka_config(settings), request_timeout_ms=int(timeout_seconds * 1000))
    try:
        await client.bootstrap()
        await client.set_topics([each.span.topic for each in wanted])
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_Partition(client, each, timeout_seconds).records()) for each in wanted]
        return [record for task in tasks for record in task.result()]
    except KafkaError as error:
        raise _unavailable(settings, error) from error
    except ExceptionGroup as group:
        first = next(iter(group.exceptions))
        raise (_unavailable(settings, first) if isinstance(first, KafkaError) else first) from group
    finally:
        await client.close()


def _unavailable(settings: Settings, error: Exception) -> KafkaUnavailable:
    return KafkaUnavailable(f"Kafka does not answer at {settings.kafka_bootstrap_servers} ({type(error).__name__}).")


class _Partition:
    """The search of one partition."""

    def __init__(self, client: Any, wanted: Wanted, timeout_seconds: float) -> None:
        self._client, self._wanted, self._timeout_seconds = client, wanted, timeout_seconds
        self._next = wanted.span.first
        self._found: list[Record] = []

    async def records(self) -> list[Record]:
        """Read to the end, fetching ahead while what came is searched."""
        span = self._wanted.span
        searching: asyncio.Future[None] | None = None
        last_progress = time.monotonic()
        while self._next < span.end:
            answer = await self._fetch()
            if answer is None:
                if time.monotonic() - last_progress > self._timeout_seconds:
                    raise KafkaUnavailable(f"{span.topic}, partition {span.partition}, does not get past offset {self._next}.")
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            last_progress = time.monotonic()
            batches, aborted = answer
            self._next = batches[-1].next_offset
            if searching is not None:
                await searching
            searching = asyncio.ensure_future(asyncio.to_thread(self._look_through, batches, aborted))
        if searching is not None:
            await searching
        return self._found

    async def _fetch(self) -> "tuple[list[_Batch], list[tuple[int, int]]] | None":
        """Return the next batches, and the transactions among them that were aborted; None when nothing came."""
        span = self._wanted.span
        leader = self._client.cluster.leader_for_partition(TopicPartition(span.topic, span.partition))
        if leader is None or leader == -1:
            await self._client.force_metadata_update()
            return None
        asked = [(span.topic, [(span.partition, self._next, FETCH_BYTES)])]
        response = await self._client.send(leader, FetchRequest(_WAIT_MS, 1, FETCH_BYTES, _READ_COMMITTED, asked))
        partition = next((part for _, parts in response.topics for part in parts), None)
        if partition is None:
            return None
        error = for_code(partition[1])
        if error is OffsetOutOfRangeError:
            raise KafkaUnavailable(
                f"{span.topic}, partition {span.partition}: offset {self._next} was deleted by retention while it was read; run the command again."
            )
        if partition[1]:
            if not error.retriable:
                raise error(f"{span.topic}, partition {span.partition}")
            await self._client.force_metadata_update()
            return None
        aborted = partition[5 if response.API_VERSION >= 5 else 4]
        batches = list(_batches(partition[-1] or b""))
        return (batches, list(aborted or ())) if batches else None

    def _look_through(self, batches: "Sequence[_Batch]", aborted: Sequence[tuple[int, int]]) -> None:
        coming = sorted(aborted, key=lambda transaction: transaction[1])
        ending = set[int]()
        for batch in batches:
            while coming and coming[0][1] <= batch.base_offset:
                ending.add(coming.pop(0)[0])
            if batch.attributes & _CONTROL:
                if batch.producer_id in ending and _is_abort(batch):
                    ending.discard(batch.producer_id)
            elif not (batch.attributes & _TRANSACTIONAL and batch.producer_id in ending) and self._may_hold(batch):
                self._found += (record for record in self._decoded(batch) if self._wanted.passes(record))

    def _may_hold(self, batch: "_Batch") -> bool:
        needles = self._wanted.needles
        if needles is None:
            return True
        content = batch.content()
        return any(needle in content for needle in needles)

    def _decoded(self, batch: "_Batch") -> Iterator[Record]:
        span = self._wanted.span
        for record in DefaultRecordBatch(batch.encoded):
            if span.first <= record.offset < span.end:
                key, value = record.key, record.value
                yield ConsumerRecord(
                    topic=span.topic,
                    partition=span.partition,
                    offset=record.offset,
                    timestamp=record.timestamp,
                    timestamp_type=record.timestamp_type,
                    key=key,
                    value=value,
                    checksum=None,
                    serialized_key_size=len(key or b""),
                    serialized_value_size=len(value or b""),
                    headers=record.headers,
                )


class _Batch(NamedTuple):
    """A record batch, compressed as it came."""

    encoded: bytes
    base_offset: int
    next_offset: int
    attributes: int
    producer_id: int

    def content(self) -> bytes:
        """Return the records, decompressed."""
        records = self.encoded[_HEADER.size :]
        codec = self.attributes & _CODEC
        return _DECODERS[codec](records) if codec else records


def _batches(encoded: bytes) -> Iterator[_Batch]:
    """Yield the batches of an answer. The last may be cut short: it comes whole with the next answer."""
    at = 0
    while at + _HEADER.size <= len(encoded):
        base_offset, length, _, magic, _, attributes, last_delta, _, _, producer_id, *_ = _HEADER.unpack_from(encoded, at)
        end = at + _LENGTH_END + length
        if end > len(encoded):
            return
        if magic != _MAGIC:
            raise KafkaUnavailable(f"The log holds a batch of the format {magic}, which Kafka 4 no longer has.")
        yield _Batch(encoded[at:end], base_offset, base_offset + last_delta + 1, attributes, producer_id)
        at = end


def _is_abort(batch: _Batch) -> bool:
    return any(ControlRecord.parse(record.key) == ABORT_MARKER for record in DefaultRecordBatch(batch.encoded))
