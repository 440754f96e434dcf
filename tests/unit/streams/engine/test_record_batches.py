"""Record batches as a broker reads them: every record once, in order, under sequence numbers without a gap."""

import os
from collections import defaultdict
from typing import Any

import pytest
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given
from hypothesis import strategies as st

from streams.engine import record_batches
from streams.engine.record_batches import BATCH_BYTES, LZ4, MAX_SEQUENCE, UNCOMPRESSED, Batch, Partition, RecordBatches

PRODUCER, EPOCH = 4_711, 3
A, B = ("audit.events", 0), ("tier.current", 7)


def read(batch: Batch) -> tuple[Any, list[Any]]:
    """Return a batch and its records as aiokafka's consumer reads them."""
    records = MemoryRecords(batch.payload)
    found = records.next_batch()
    assert found is not None
    assert found.validate_crc()
    assert not records.has_next()
    return found, list(found)


def values(batch: Batch) -> list[bytes | None]:
    return [record.value for record in read(batch)[1]]


def incompressible(size: int) -> bytes:
    return os.urandom(size)


def test_batch_is_the_transactional_producers_and_holds_what_was_given() -> None:
    batches = RecordBatches(PRODUCER, EPOCH)
    batches.append(A, b"key", b"value", [("kind", b"x"), ("empty", None)])
    batches.append(A, None, None, [])

    header, records = read(batches.take(only_full=False)[A])

    assert (header.producer_id, header.producer_epoch, header.base_sequence) == (PRODUCER, EPOCH, 0)
    assert header.is_transactional
    assert [(record.key, record.value, list(record.headers)) for record in records] == [
        (b"key", b"value", [("kind", b"x"), ("empty", None)]),
        (None, None, []),
    ]


def test_batch_is_compressed_where_that_is_a_gain() -> None:
    batches = RecordBatches(PRODUCER, EPOCH)
    batches.append(A, b"k", b"tier" * 500, [])
    batches.append(B, b"k", incompressible(2_000), [])

    taken = batches.take(only_full=False)

    assert {partition: (read(batch)[0].compression_type, len(batch.payload) < 2_000) for partition, batch in taken.items()} == {
        A: (LZ4, True),
        B: (UNCOMPRESSED, False),
    }
    assert values(taken[A]) == [b"tier" * 500]


def test_sequence_goes_on_over_batches_and_by_partition() -> None:
    batches = RecordBatches(PRODUCER, EPOCH)
    sequences = []
    for count in (2, 3, 1):
        for number in range(count):
            batches.append(A, b"k", b"%d" % number, [])
        sequences.append(read(batches.take(only_full=False)[A])[0].base_sequence)
    batches.append(B, b"k", b"v", [])

    assert sequences == [0, 2, 5]
    assert read(batches.take(only_full=False)[B])[0].base_sequence == 0


def test_sequence_of_what_was_dropped_is_given_to_what_comes_next() -> None:
    batches = RecordBatches(PRODUCER, EPOCH)
    batches.append(A, b"k", b"dropped", [])
    batches.drop()
    batches.append(A, b"k", b"kept", [])

    taken = batches.take(only_full=False)

    assert (values(taken[A]), read(taken[A])[0].base_sequence) == ([b"kept"], 0)


def test_sequence_begins_again_after_the_largest() -> None:
    batches = RecordBatches(PRODUCER, EPOCH)
    batches._next_sequence[A] = MAX_SEQUENCE
    batches.append(A, b"k", b"last", [])
    last = read(batches.take(only_full=False)[A])[0].base_sequence
    batches.append(A, b"k", b"first", [])

    assert (last, read(batches.take(only_full=False)[A])[0].base_sequence) == (MAX_SEQUENCE, 0)


def test_full_batch_may_be_taken_before_the_others_and_stays_the_first() -> None:
    batches = RecordBatches(PRODUCER, EPOCH)
    large = [incompressible(BATCH_BYTES * 2 // 3) for _ in range(3)]
    batches.append(B, b"k", b"small", [])
    for value in large:
        batches.append(A, b"k", value, [])
    assert batches.has_full

    first, second, rest = (batches.take(only_full=True) for _ in range(3))

    assert [values(taken[A]) for taken in (first, second)] == [[large[0]], [large[1]]]
    assert (rest, batches.has_full) == ({}, False)
    assert {partition: values(batch) for partition, batch in batches.take(only_full=False).items()} == {B: [b"small"], A: [large[2]]}


def test_record_larger_than_a_batch_has_one_of_its_own() -> None:
    batches = RecordBatches(PRODUCER, EPOCH)
    large = incompressible(BATCH_BYTES * 2)
    for value in (b"before", large, b"after"):
        batches.append(A, b"k", value, [])

    assert [values(batches.take(only_full=False)[A]) for _ in range(3)] == [[b"before"], [large], [b"after"]]


def test_request_ends_with_the_batch_that_makes_it_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_batches, "REQUEST_BYTES", 1_000)
    batches = RecordBatches(PRODUCER, EPOCH)
    for partition in (A, B):
        batches.append(partition, b"k", incompressible(2_000), [])

    assert [list(batches.take(only_full=False)) for _ in range(3)] == [[A], [B], []]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.integers(0, 2), st.binary(max_size=300)),
            st.sampled_from(["take", "take full"]),
        ),
        max_size=60,
    )
)
def test_every_record_is_taken_once_in_order_and_sequences_have_no_gap(steps: list[tuple[int, bytes] | str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record_batches, "BATCH_BYTES", 500)
        batches = RecordBatches(PRODUCER, EPOCH)
        given_values: defaultdict[Partition, list[bytes]] = defaultdict(list)
        taken: defaultdict[Partition, list[bytes | None]] = defaultdict(list)

        def take(*, only_full: bool) -> bool:
            some = batches.take(only_full=only_full)
            for partition, batch in some.items():
                header, records = read(batch)
                assert header.base_sequence == len(taken[partition])
                assert len(records) == batch.records
                taken[partition] += [record.value for record in records]
            return bool(some)

        for step in steps:
            if isinstance(step, str):
                take(only_full=step == "take full")
            else:
                partition = ("topic", step[0])
                batches.append(partition, b"key", step[1], [])
                given_values[partition].append(step[1])
        while take(only_full=False):
            pass
    assert {partition: found for partition, found in taken.items() if found} == given_values
