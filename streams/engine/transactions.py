"""The transactional producer of a worker: one for each stage in a process, for all partitions that the worker owns.

A transaction holds records and the input offsets that follow from them (KIP-447). Who may commit is decided twice:

- The ``transactional.id`` names the worker. A second process with the same id fences the first (KIP-98).
- The offsets carry the generation of the consumer group in which their input was read. Once the group has gone on to
  another generation, the coordinator refuses them, and what belongs to them is aborted.

So a commit is refused to a worker that has lost its partitions, unless its offsets were taken before. Whoever takes a
partition over waits for such a transaction to be decided (``streams/engine/takeover.py``).

It is written on aiokafka's connections, and not on one of the two producers at hand: a transaction touches many partitions with few
records each, of which librdkafka makes a request for each partition, and aiokafka's own names no generation (ADR 0009).
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import starmap
from typing import Any

import msgspec
from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.errors import BrokerResponseError, KafkaError, for_code
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    InitProducerIdRequest,
)
from aiokafka.structs import TopicPartition

from streams.engine.changelog import TablePartition
from streams.engine.record_batches import Batch, Partition, RecordBatches
from streams.engine.transaction_requests import TxnOffsetCommitRequest, by_topic
from streams.errors import Fenced, GenerationEnded, KafkaUnavailable, ProducerLost, RecordTooLarge, StageFailed
from streams.kafka.client import aiokafka_config
from streams.kafka.partitioner import partition_for
from streams.settings import Settings
from streams.topics import MAX_RECORD_BYTES

TRANSACTION_TIMEOUT_MS = 10_000
"""The broker aborts a transaction whose holder is silent for this long, so that readers are not held up behind it."""

REQUEST_TIMEOUT_MS = 9_000
"""A connection on which a request is not answered for so long is closed: another is opened for the next try."""

RETRY_SECONDS = 0.005
"""A transaction that follows another at once is refused until the broker has ended the former, which takes it some milliseconds."""

RECONNECT_SECONDS = 0.1

ALL_IN_SYNC = -1

_ACKED = frozenset({0, 46})  # DUPLICATE_SEQUENCE_NUMBER: the broker has that batch from an earlier try
_GENERATION_ENDED = frozenset({22, 25, 27})  # ILLEGAL_GENERATION, UNKNOWN_MEMBER_ID, REBALANCE_IN_PROGRESS
_FENCED = frozenset({47, 82, 90})  # INVALID_PRODUCER_EPOCH, FENCED_INSTANCE_ID, PRODUCER_FENCED
# OUT_OF_ORDER_SEQUENCE_NUMBER, INVALID_TXN_STATE, INVALID_PRODUCER_ID_MAPPING, TRANSACTION_COORDINATOR_FENCED, UNKNOWN_PRODUCER_ID
_LOST = frozenset({45, 48, 49, 52, 59})
_DENIED = frozenset({29, 30, 31, 53})  # authorization failed: TOPIC, GROUP, CLUSTER, TRANSACTIONAL_ID
_TOO_LARGE = frozenset({10, 18})  # MESSAGE_TOO_LARGE, RECORD_LIST_TOO_LARGE
_CONCURRENT_TRANSACTIONS = 51
_NOT_ATTEMPTED = 55  # OPERATION_NOT_ATTEMPTED: of a partition that was named together with one that was refused
_STALE_LEADER = frozenset({74, 75})  # FENCED_LEADER_EPOCH, UNKNOWN_LEADER_EPOCH: retriable, and not known to aiokafka

Headers = Sequence[tuple[str, bytes | None]]
Offsets = Mapping[Partition, int]
"""(topic, partition) → next offset."""

NO_HEADERS: list[tuple[str, bytes | None]] = []
ANY_PARTITION = -1
"""The partition is left to the key."""


class Output(msgspec.Struct, frozen=True, gc=False):
    """One record to produce. ``partition`` is left to the key unless it is given."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int = ANY_PARTITION


class Membership(msgspec.Struct, frozen=True):
    """A worker as the consumer group's coordinator knows it in one generation."""

    group: str
    generation: int
    member_id: str
    instance_id: str | None = None


class TransactionalWriter:
    """Produces in transactions as the one holder of ``transactional_id``. Use it from one event loop, one call at a time.

    A call that raises KafkaUnavailable may be made again; what it has done by then is not done twice. After any other error the
    transaction can only be aborted, or given up with ``open``.
    """

    def __init__(self, settings: Settings, transactional_id: str) -> None:
        self.transactional_id = transactional_id
        self._partitions = settings.partitions
        self._client = AIOKafkaClient(**aiokafka_config(settings), request_timeout_ms=REQUEST_TIMEOUT_MS)
        self._is_connected = False
        self._coordinators: dict[tuple[int, str], int] = {}
        self._unanswered = 0
        self._sending: asyncio.Task[None] | None = None
        self._reset(-1, -1)
        self.is_open = False

    def _reset(self, producer_id: int, epoch: int) -> None:
        self._producer = (self.transactional_id, producer_id, epoch)
        self._batches = RecordBatches(producer_id, epoch)
        self._taken: dict[Partition, Batch] = {}
        self._added: set[Partition] = set()
        self._unanswered = 0

    @property
    def needs_open(self) -> bool:
        """Whether ``open`` has to come before the next transaction: a request of the last one was never answered, and a broker that takes it
        late must not count it as part of the next."""
        return not self.is_open or self._unanswered > 0

    async def open(self, timeout_seconds: float) -> None:
        """Fence a former process of this id and abort what it left open, or what this one did. Raises KafkaUnavailable (try again), StageFailed."""
        async with self._answering("begin", timeout_seconds):
            await self._stop_sending()
            self.is_open = False
            request = InitProducerIdRequest(self.transactional_id, TRANSACTION_TIMEOUT_MS)
            answer = await self._ask_transactions("begin", request)
            self._reset(answer.producer_id, answer.producer_epoch)
            self.is_open = True

    def begin(self) -> None:
        """Open a transaction."""
        self._added.clear()

    def produce(self, outputs: Iterable[Output], home: TablePartition | None = None) -> None:
        """Add records to the open transaction; they count only once ``commit`` returns. Full batches are sent meanwhile.

        A key that has a row in ``home`` belongs to that partition, and its hash, which costs some microseconds, need not be taken.
        """
        append = self._batches.append
        for output in outputs:
            key, headers, number = output.key, output.headers, output.partition
            if number == ANY_PARTITION:
                number = home.number if home is not None and key in home.rows else partition_for(key, self._partitions)
            append((output.topic, number), key, output.value, headers if type(headers) is list else list(headers))
        if self._batches.has_full and (self._sending is None or (self._sending.done() and self._sending.exception() is None)):
            self._sending = asyncio.create_task(self._send(only_full=True))

    async def flush(self, timeout_seconds: float) -> None:
        """Return once the brokers have every record of the transaction. Raises KafkaUnavailable (try again), RecordTooLarge when a topic takes
        less than it was made for, ProducerLost, Fenced, StageFailed."""
        async with self._answering("produce", timeout_seconds):
            if self._sending is not None:
                sending, self._sending = self._sending, None
                await sending
            await self._send(only_full=False)

    async def send_offsets(self, offsets: Offsets, membership: Membership, timeout_seconds: float) -> None:
        """Add the next offsets of the input to the open transaction, for the generation in which it was read.

        Raises GenerationEnded when the group has gone on to another, KafkaUnavailable (try again), ProducerLost, Fenced, StageFailed.
        """
        action, group = "add its offsets", membership.group
        async with self._answering(action, timeout_seconds):
            await self._ask_transactions(action, AddOffsetsToTxnRequest(*self._producer, group))
            member = (group, membership.generation, membership.member_id, membership.instance_id)
            request = TxnOffsetCommitRequest(self._producer, member, offsets)
            await self._ask(action, (CoordinationType.GROUP, group), request, _worst_of_topics)

    async def commit(self, timeout_seconds: float) -> None:
        """Commit. Afterwards all of the transaction is in the log; when this raises, none of it may be counted on.

        Raises KafkaUnavailable when the broker did not answer (the same commit may be tried again), ProducerLost, Fenced, StageFailed.
        """
        async with self._answering("commit", timeout_seconds):
            await self._ask_transactions("commit", EndTxnRequest(*self._producer, True))

    async def abort(self, timeout_seconds: float) -> None:
        """Abort the open transaction. Raises KafkaUnavailable (try again), ProducerLost, Fenced, StageFailed."""
        async with self._answering("abort", timeout_seconds):
            await self._stop_sending()
            if self._taken:
                raise ProducerLost(f"Some records of an aborted transaction were not acknowledged ({self.transactional_id}).")
            await self._ask_transactions("abort", EndTxnRequest(*self._producer, False))

    async def close(self) -> None:
        """Let go of the connections; an open transaction, if any, is aborted by the next ``open`` of this id, or by the broker in time."""
        await self._stop_sending()
        await self._client.close()

    async def _stop_sending(self) -> None:
        """End what is sent in the background, and forget what was not sent."""
        self._batches.drop()
        if self._sending is not None:
            sending, self._sending = self._sending, None
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _send(self, *, only_full: bool) -> None:
        """Send batches, one of each partition at a time, until there is none."""
        while self._taken or (taken := self._batches.take(only_full=only_full)):
            if not self._taken:
                self._taken = taken
            if new := self._taken.keys() - self._added:
                await self._ask_transactions("produce", AddPartitionsToTxnRequest(*self._producer, by_topic(sorted(new))), _worst_of_topics)
                self._added |= new
            by_leader: dict[int, list[Partition]] = {}
            for topic, number in self._taken:
                leader = self._client.cluster.leader_for_partition(TopicPartition(topic, number))
                by_leader.setdefault(-1 if leader is None else leader, []).append((topic, number))
            lacking = by_leader.pop(-1, None)
            for failure in await asyncio.gather(*starmap(self._produce, by_leader.items()), return_exceptions=True):
                if failure is not None:
                    raise failure
            if lacking:
                await self._look_again()

    async def _produce(self, leader: int, partitions: list[Partition]) -> None:
        payloads: dict[str, list[tuple[int, bytes]]] = {}
        for topic, number in partitions:
            payloads.setdefault(topic, []).append((number, self._taken[topic, number].payload))
        request = ProduceRequest(self.transactional_id, ALL_IN_SYNC, REQUEST_TIMEOUT_MS, list(payloads.items()))
        answer = await self._answer_of(leader, request)
        if answer is None:
            return
        moved = False
        for topic, results in answer.topics:
            for number, code, *_ in results:
                if code in _ACKED:
                    del self._taken[topic, number]
                else:
                    moved |= self._is_moved(f"produce to {topic}", code)
        if moved:
            await self._look_again()

    async def _look_again(self) -> None:
        """Learn anew which broker leads which partition, after a moment."""
        await asyncio.sleep(RECONNECT_SECONDS)
        await self._client.force_metadata_update()

    async def _ask_transactions(self, action: str, request: Any, code_of: "CodeOf | None" = None) -> Any:
        return await self._ask(action, (CoordinationType.TRANSACTION, self.transactional_id), request, code_of or _code)

    async def _ask(self, action: str, coordinator: tuple[int, str], request: Any, code_of: "CodeOf") -> Any:
        """Return the answer of a coordinator, asked until it gives one."""
        while True:
            node = await self._coordinator(coordinator)
            answer = None if node is None else await self._answer_of(node, request)
            if answer is None:
                self._coordinators.pop(coordinator, None)
                continue
            code = code_of(answer)
            if code == 0:
                return answer
            if code == _CONCURRENT_TRANSACTIONS:
                await asyncio.sleep(RETRY_SECONDS)
            elif self._is_moved(action, code):
                self._coordinators.pop(coordinator, None)
                await asyncio.sleep(RECONNECT_SECONDS)

    async def _coordinator(self, coordinator: tuple[int, str]) -> int | None:
        """Return the node of a coordinator, or None, after a moment, when nobody knows it now."""
        if coordinator not in self._coordinators:
            try:
                if not self._is_connected:
                    await self._client.bootstrap()
                    self._is_connected = True
                self._coordinators[coordinator] = await self._client.coordinator_lookup(*coordinator)
            except (KafkaError, OSError) as error:
                if isinstance(error, BrokerResponseError) and error.errno in _DENIED:
                    self._is_moved("find the coordinator", error.errno)
                await asyncio.sleep(RECONNECT_SECONDS)
                return None
        return self._coordinators[coordinator]

    async def _answer_of(self, node: int, request: Any) -> Any | None:
        """Return the answer of a node; None, after a moment, when there was none."""
        self._unanswered += 1
        try:
            answer = await self._client.send(node, request)
        except (KafkaError, OSError):
            await self._look_again()
            return None
        self._unanswered -= 1
        return answer

    @asynccontextmanager
    async def _answering(self, action: str, timeout_seconds: float) -> AsyncIterator[None]:
        """Raise KafkaUnavailable when the block takes longer."""
        try:
            async with asyncio.timeout(timeout_seconds):
                yield
        except TimeoutError as error:
            raise KafkaUnavailable(f"Kafka does not answer (could not {self._named(action)}).") from error

    def _is_moved(self, action: str, code: int) -> bool:
        """Return True where a broker has to be asked again, for its answer was ``code``. Raises what the code means otherwise."""
        error = for_code(code)
        if code in _STALE_LEADER or error.retriable:
            return True
        said = f"could not {self._named(action)}: error {code}, {error.__name__}"
        if code in _LOST:
            raise ProducerLost(f"Kafka has forgotten this producer ({said}).")
        if code in _FENCED:
            raise Fenced(
                f"Kafka has ended this worker's transaction, for nothing came for too long, or another process has its name ({said}); "
                "it stops and starts again."
            )
        if code in _GENERATION_ENDED:
            raise GenerationEnded(f"The group has gone on to another generation ({said}).")
        if code in _TOO_LARGE:
            raise RecordTooLarge(
                f"A topic takes less than what follows from the input ({said}): its max.message.bytes is not the {MAX_RECORD_BYTES} that "
                "`tierstream topics apply --alter` sets; this worker stops, and goes on from there once it is started again."
            )
        if code in _DENIED:
            raise StageFailed(f"Kafka does not allow that to this worker ({said}); grant what `tierstream topics acls` lists for its role.")
        raise StageFailed(f"Kafka: {said}; this worker stops and starts again from what is committed.")

    def _named(self, action: str) -> str:
        return f"{action} in a transaction of {self.transactional_id}"


CodeOf = Callable[[Any], int]
"""Returns an answer's error code."""


def _code(answer: Any) -> int:
    return int(answer.error_code)


def _worst_of_topics(answer: Any) -> int:
    """Return the code of a partition that was refused; one that is no retry counts most."""
    topics = answer.topics if hasattr(answer, "topics") else answer.errors
    codes = {int(partition[1]) for topic in topics for partition in topic[1]} - {0, _NOT_ATTEMPTED}
    return min(codes, key=lambda code: (bool(for_code(code).retriable), code), default=0)
