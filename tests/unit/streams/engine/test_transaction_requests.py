"""Offsets for a transaction, byte for byte as version 3 of Kafka's TxnOffsetCommit has them (KIP-447, KIP-482)."""

import struct

from streams.engine.transaction_requests import (
    TxnOffsetCommitRequest,
    TxnOffsetCommitRequest_v3,
    TxnOffsetCommitResponse_v3,
    by_topic,
)

VERSIONS = {28: (0, 5)}


def compact(text: str) -> bytes:
    return bytes([len(text) + 1]) + text.encode()


def request(instance_id: str | None) -> bytes:
    member = ("group", 7, "member", instance_id)
    return bytes(TxnOffsetCommitRequest(("id", 4_711, 3), member, {("in", 2): 500}).prepare(VERSIONS).encode())


def test_offsets_are_sent_in_the_name_of_a_member_of_a_generation() -> None:
    instance = compact("worker-3")
    assert request("worker-3") == b"".join([
        compact("id"), compact("group"), struct.pack(">qhi", 4_711, 3, 7), compact("member"), instance,
        b"\x02", compact("in"), b"\x02", struct.pack(">iqi", 2, 500, -1), b"\x01", b"\0", b"\0", b"\0",
    ])  # fmt: skip


def test_dynamic_member_has_no_instance() -> None:
    assert request(None) == request("worker-3").replace(compact("worker-3"), b"\0")


def test_answer_has_a_code_for_each_partition() -> None:
    answer = TxnOffsetCommitResponse_v3.decode(
        struct.pack(">i", 0) + b"\x02" + compact("in") + b"\x03" + struct.pack(">ih", 2, 0) + b"\0" + struct.pack(">ih", 5, 22) + b"\0\0\0"
    )

    assert [(topic, [(number, code) for number, code, _ in partitions]) for topic, partitions, _ in answer.topics] == [
        ("in", [(2, 0), (5, 22)])
    ]


def test_request_is_flexible_and_of_the_first_version_that_names_a_generation() -> None:
    assert (TxnOffsetCommitRequest_v3.API_VERSION, TxnOffsetCommitRequest_v3.FLEXIBLE_VERSION) == (3, True)


def test_partitions_are_listed_by_topic() -> None:
    assert by_topic([("a", 1), ("b", 0), ("a", 2)]) == [("a", [1, 2]), ("b", [0])]
