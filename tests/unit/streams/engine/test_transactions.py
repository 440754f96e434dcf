"""The worker's producer beside brokers that answer as a test says: what is asked, what an answer leads to, what is asked again."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    GroupCoordinatorNotAvailableError,
    KafkaConnectionError,
    NodeNotReadyError,
)

from streams.engine import transactions
from streams.engine.record_batches import BATCH_BYTES
from streams.engine.transactions import Membership, Output, TransactionalWriter
from streams.errors import Fenced, GenerationEnded, KafkaUnavailable, ProducerLost, RecordTooLarge, StageFailed
from streams.kafka.partitioner import partition_of
from streams.settings import Settings
from tests.unit.streams.engine.test_record_batches import incompressible
from tests.waiting import until

PARTITIONS = 8
MEMBER = Membership("group", 7, "member", "worker-3")
OFFSETS = {("in", 0): 5, ("in", 3): 6}

CONCURRENT_TRANSACTIONS, NOT_COORDINATOR, NOT_LEADER, DUPLICATE, NOT_ATTEMPTED = 51, 16, 6, 46, 55
SECONDS = 5.0


class Brokers:
    """Stands for aiokafka's client. Partitions with an even number are led by node 1, the others by node 2."""

    def __init__(self) -> None:
        self.cluster = self
        self.asked: list[Any] = []
        self.lookups: Counter[tuple[int, str]] = Counter()
        self.lost_lookups: list[Exception] = []
        """What the next questions for a coordinator end with."""
        self.metadata_updates = 0
        self.hangs = False
        """Whether batches are taken and not answered."""
        self.codes: dict[str, list[int | Exception]] = {}
        """By the request's name: what the next ones are answered with."""

    async def bootstrap(self) -> None: ...

    async def close(self) -> None: ...

    async def coordinator_lookup(self, kind: int, key: str) -> int:
        self.lookups[kind, key] += 1
        if self.lost_lookups:
            raise self.lost_lookups.pop()
        return 1

    async def force_metadata_update(self) -> bool:
        self.metadata_updates += 1
        return True

    def leader_for_partition(self, partition: Any) -> int:
        return 1 if partition.partition % 2 == 0 else 2

    async def send(self, node: int, request: Any) -> Any:
        await asyncio.sleep(0)
        name = type(request).__name__.removesuffix("Request")
        scripted = self.codes.get(name)
        code = scripted.pop(0) if scripted else 0
        self.asked.append((name, node, request))
        if self.hangs and name == "Produce":
            await asyncio.Event().wait()
        if isinstance(code, Exception):
            raise code
        match name:
            case "InitProducerId":
                return SimpleNamespace(error_code=code, producer_id=4_711, producer_epoch=3)
            case "AddPartitionsToTxn":
                codes = itertools.chain([code], itertools.repeat(NOT_ATTEMPTED if code else 0))
                return SimpleNamespace(
                    errors=[(topic, [(number, next(codes)) for number in numbers]) for topic, numbers in request._topics]
                )
            case "Produce":
                return SimpleNamespace(topics=[(topic, [(number, code, 0) for number, _ in batches]) for topic, batches in request._topics])
            case "TxnOffsetCommit":
                return SimpleNamespace(topics=[(topic, [(number, code, {})], {}) for topic, number in request._offsets])
            case _:
                return SimpleNamespace(error_code=code)

    @property
    def names(self) -> list[str]:
        return [name for name, _, _ in self.asked]


@pytest.fixture
def brokers(monkeypatch: pytest.MonkeyPatch) -> Brokers:
    made = Brokers()
    monkeypatch.setattr(transactions, "AIOKafkaClient", lambda **_: made)
    monkeypatch.setattr(transactions, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(transactions, "RECONNECT_SECONDS", 0.0)
    return made


@pytest.fixture
async def writer(brokers: Brokers) -> AsyncIterator[TransactionalWriter]:
    writer = TransactionalWriter(Settings(partitions=PARTITIONS), "id")
    await writer.open(SECONDS)
    brokers.asked.clear()
    yield writer
    await writer.close()


async def produced(writer: TransactionalWriter, *outputs: Output) -> None:
    writer.begin()
    writer.produce(outputs)
    await writer.flush(SECONDS)


async def transaction(writer: TransactionalWriter) -> None:
    await produced(writer, *(Output("out", b"k", b"v", partition=number) for number in (0, 2)))
    await writer.send_offsets(OFFSETS, MEMBER, SECONDS)
    await writer.commit(SECONDS)


async def test_transaction_is_one_request_to_each_leader_whatever_the_partitions(brokers: Brokers, writer: TransactionalWriter) -> None:
    await produced(writer, *(Output("out", b"k", b"v", partition=number) for number in range(PARTITIONS)), Output("log", b"k", b"v"))
    await writer.send_offsets(OFFSETS, MEMBER, SECONDS)
    await writer.commit(SECONDS)

    assert brokers.names == ["AddPartitionsToTxn", "Produce", "Produce", "AddOffsetsToTxn", "TxnOffsetCommit", "EndTxn"]
    assert {node for name, node, _ in brokers.asked if name == "Produce"} == {1, 2}
    assert not writer.needs_open


async def test_record_without_a_partition_goes_where_its_key_belongs(brokers: Brokers, writer: TransactionalWriter) -> None:
    keys = [b"team-%d" % number for number in range(20)]
    for _ in range(2):
        await produced(writer, *(Output("out", key, b"v") for key in keys))

    sent = [number for name, _, request in brokers.asked if name == "Produce" for _, batches in request._topics for number, _ in batches]
    assert set(sent) == {partition_of(key, PARTITIONS) for key in keys}


async def test_partition_is_added_once_a_transaction(brokers: Brokers, writer: TransactionalWriter) -> None:
    writer.begin()
    for _ in range(2):
        writer.produce([Output("out", b"k", b"v", partition=0)])
        await writer.flush(SECONDS)
    await writer.commit(SECONDS)
    await produced(writer, Output("out", b"k", b"v", partition=0))

    assert brokers.names == ["AddPartitionsToTxn", "Produce", "Produce", "EndTxn", "AddPartitionsToTxn", "Produce"]


async def test_full_batch_is_sent_before_the_flush(brokers: Brokers, writer: TransactionalWriter) -> None:
    writer.begin()
    for _ in range(3):
        writer.produce([Output("out", b"k", incompressible(BATCH_BYTES * 2 // 3), partition=0)])
    await until(lambda: brokers.names.count("Produce") == 2, "the full ones are sent")
    await writer.flush(SECONDS)

    assert brokers.names == ["AddPartitionsToTxn", *["Produce"] * 3]


@pytest.mark.parametrize("request_name", ["AddPartitionsToTxn", "AddOffsetsToTxn", "TxnOffsetCommit", "EndTxn"])
@pytest.mark.parametrize("code", [CONCURRENT_TRANSACTIONS, NOT_COORDINATOR])
async def test_coordinator_that_can_not_say_yet_is_asked_again(
    brokers: Brokers, writer: TransactionalWriter, request_name: str, code: int
) -> None:
    brokers.codes[request_name] = [code, code]
    looked_up = brokers.lookups.total()

    await transaction(writer)

    assert brokers.names.count(request_name) == 3
    another = 0 if code == CONCURRENT_TRANSACTIONS else 2
    assert brokers.lookups.total() - looked_up == another + 1, "the group's coordinator is looked up once in any case"
    assert not writer.needs_open


async def test_coordinator_that_nobody_can_name_now_is_looked_up_again(brokers: Brokers, writer: TransactionalWriter) -> None:
    brokers.lost_lookups = [NodeNotReadyError(), KafkaConnectionError(), GroupCoordinatorNotAvailableError(), OSError()]

    await transaction(writer)

    assert brokers.names.count("TxnOffsetCommit") == 1


async def test_coordinator_that_may_not_be_looked_up_ends_the_worker_with_the_way_out(
    brokers: Brokers, writer: TransactionalWriter
) -> None:
    brokers.lost_lookups = [GroupAuthorizationFailedError()]

    with pytest.raises(StageFailed, match="grant what `tierstream topics acls` lists"):
        await transaction(writer)


async def test_batch_that_its_leader_did_not_take_is_sent_again_as_it_was(brokers: Brokers, writer: TransactionalWriter) -> None:
    brokers.codes["Produce"] = [NOT_LEADER, KafkaConnectionError(), DUPLICATE]

    await produced(writer, Output("out", b"k", b"v", partition=0))

    payloads = {request._topics[0][1][0][1] for name, _, request in brokers.asked if name == "Produce"}
    assert (brokers.names.count("Produce"), len(payloads), brokers.metadata_updates) == (3, 1, 2)
    assert writer.needs_open, "the broker may have the request that it did not answer yet to come"


async def test_what_was_not_acknowledged_in_time_is_sent_by_the_next_flush(brokers: Brokers, writer: TransactionalWriter) -> None:
    brokers.hangs = True
    with pytest.raises(KafkaUnavailable, match=r"could not produce in a transaction of id\)"):
        await writer_flushed_in(0.01, writer, Output("out", b"k", b"v", partition=0))
    brokers.hangs = False

    await writer.flush(SECONDS)

    first, last = (request._topics for name, _, request in brokers.asked if name == "Produce")
    assert first == last
    assert writer.needs_open


async def test_abort_is_asked_for_when_all_is_acknowledged(brokers: Brokers, writer: TransactionalWriter) -> None:
    await produced(writer, Output("out", b"k", b"v"))
    writer.produce([Output("out", b"k", b"dropped")])

    await writer.abort(SECONDS)

    assert brokers.names[-1] == "EndTxn"
    await produced(writer, Output("out", b"k", b"next", partition=0))
    assert brokers.names.count("Produce") == 2


async def test_abort_of_what_was_not_acknowledged_gives_the_producer_up(brokers: Brokers, writer: TransactionalWriter) -> None:
    brokers.hangs = True
    with pytest.raises(KafkaUnavailable):
        await writer_flushed_in(0.01, writer, Output("out", b"k", b"v", partition=0))
    brokers.hangs = False

    with pytest.raises(ProducerLost):
        await writer.abort(SECONDS)
    assert "EndTxn" not in brokers.names


async def test_open_forgets_the_transaction_and_begins_sequences_anew(brokers: Brokers, writer: TransactionalWriter) -> None:
    await produced(writer, Output("out", b"k", b"v", partition=0))
    writer.produce([Output("out", b"k", b"dropped", partition=0)])

    await writer.open(SECONDS)
    await produced(writer, Output("out", b"k", b"v", partition=0))

    first, second = (request._topics[0][1][0][1] for name, _, request in brokers.asked if name == "Produce")
    assert sequence(first) == sequence(second) == 0


def sequence(payload: bytes) -> int:
    return int.from_bytes(payload[53:57], "big")  # where a record batch has it


@pytest.mark.parametrize(
    ("request_name", "code", "error"),
    [
        ("TxnOffsetCommit", 22, GenerationEnded),
        ("TxnOffsetCommit", 25, GenerationEnded),
        ("TxnOffsetCommit", 27, GenerationEnded),
        ("TxnOffsetCommit", 82, Fenced),
        ("Produce", 47, Fenced),
        ("EndTxn", 90, Fenced),
        ("AddPartitionsToTxn", 49, ProducerLost),
        ("Produce", 45, ProducerLost),
        ("Produce", 59, ProducerLost),
        ("EndTxn", 48, ProducerLost),
        ("Produce", 10, RecordTooLarge),
        ("AddPartitionsToTxn", 29, StageFailed),
    ],
)
async def test_answer_that_no_retry_can_change_is_raised_as_what_it_means(
    brokers: Brokers, writer: TransactionalWriter, request_name: str, code: int, error: type[Exception]
) -> None:
    brokers.codes[request_name] = [code]

    with pytest.raises(error, match=f"of id: error {code}"):
        await transaction(writer)


async def test_failure_in_the_background_is_raised_by_the_flush(brokers: Brokers, writer: TransactionalWriter) -> None:
    brokers.codes["Produce"] = [47]
    writer.begin()
    for _ in range(6):
        writer.produce([Output("out", b"k", incompressible(BATCH_BYTES * 2 // 3), partition=0)])
        for _ in range(20):
            await asyncio.sleep(0)

    with pytest.raises(Fenced):
        await writer.flush(SECONDS)
    assert brokers.names.count("Produce") == 1


async def writer_flushed_in(seconds: float, writer: TransactionalWriter, *outputs: Output) -> None:
    writer.begin()
    writer.produce(outputs)
    await writer.flush(seconds)
