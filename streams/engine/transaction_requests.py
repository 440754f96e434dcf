"""Requests of Kafka's protocol that a transaction needs, in the versions that aiokafka lacks.

``TxnOffsetCommit`` from version 3 on names the group's member and generation, by which the coordinator fences (KIP-447, Kafka 2.5).
"""

from collections.abc import Iterable, Mapping
from io import BytesIO
from typing import Any

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Array,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
    UnsignedVarInt32,
)

from streams.engine.record_batches import Partition

UNKNOWN_LEADER_EPOCH = -1
NO_TAGS: dict[int, bytes] = {}


class _CompactArray(Array):  # type: ignore[misc]  # aiokafka is untyped
    """An array of the flexible versions (KIP-482), which is never null here."""

    def encode(self, items: Any) -> bytes:
        return bytes(UnsignedVarInt32.encode(len(items) + 1)) + b"".join(self.array_of.encode(item) for item in items)

    def decode(self, data: BytesIO) -> list[Any]:
        return [self.array_of.decode(data) for _ in range(UnsignedVarInt32.decode(data) - 1)]


_TAGS = ("tags", TaggedFields)
_STRING = CompactString("utf-8")


class TxnOffsetCommitResponse_v3(Response):  # type: ignore[misc]  # noqa: N801  # the protocol's name
    """An error code for each partition."""

    API_KEY = 28
    API_VERSION = 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            _CompactArray(("topic", _STRING), ("partitions", _CompactArray(("partition", Int32), ("error_code", Int16), _TAGS)), _TAGS),
        ),
        _TAGS,
    )


class TxnOffsetCommitRequest_v3(RequestStruct):  # type: ignore[misc]  # noqa: N801  # the protocol's name
    """Offsets for an open transaction, in the name of a member of a generation."""

    FLEXIBLE_VERSION = True
    API_KEY = 28
    API_VERSION = 3
    RESPONSE_TYPE = TxnOffsetCommitResponse_v3
    SCHEMA = Schema(
        ("transactional_id", _STRING),
        ("group_id", _STRING),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("generation_id", Int32),
        ("member_id", _STRING),
        ("group_instance_id", _STRING),
        (
            "topics",
            _CompactArray(
                ("topic", _STRING),
                (
                    "partitions",
                    _CompactArray(("partition", Int32), ("offset", Int64), ("leader_epoch", Int32), ("metadata", _STRING), _TAGS),
                ),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class TxnOffsetCommitRequest(Request[TxnOffsetCommitRequest_v3]):  # type: ignore[misc]
    """Builds the request in the version that the broker knows."""

    API_KEY = 28

    def __init__(self, producer: tuple[str, int, int], member: tuple[str, int, str, str | None], offsets: Mapping[Partition, int]) -> None:
        """``producer``: transactional id, producer id and epoch. ``member``: group, generation, member id and instance id."""
        self._producer, self._member, self._offsets = producer, member, offsets

    def build(self, request_struct_class: type[TxnOffsetCommitRequest_v3]) -> TxnOffsetCommitRequest_v3:
        """Return the request."""
        (transactional_id, *producer), (group, *member) = self._producer, self._member
        topics = [
            (topic, [(number, self._offsets[topic, number], UNKNOWN_LEADER_EPOCH, "", NO_TAGS) for number in numbers], NO_TAGS)
            for topic, numbers in by_topic(self._offsets)
        ]
        return request_struct_class(transactional_id, group, *producer, *member, topics, NO_TAGS)


def by_topic(partitions: Iterable[Partition]) -> list[tuple[str, list[int]]]:
    """Return the partitions' numbers by topic, as requests list them."""
    topics: dict[str, list[int]] = {}
    for topic, number in partitions:
        topics.setdefault(topic, []).append(number)
    return list(topics.items())
