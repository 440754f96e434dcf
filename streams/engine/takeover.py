"""Taking partitions over: what the former owner has committed is settled first, then the table is restored from it.

1. The group's offsets must be *stable*. A transaction of the former owner that already holds its offsets may still be
   committed, however long ago it lost the partition; any other is refused them by then, for it is of an earlier generation.
2. The changelog is read, committed records only, up to its end as it is after that. Every transaction below that end is waited for,
   also one that can only be aborted: behind it may stand what a later owner has committed (KAFKA-10167).
3. The positions are compared with the input topics and with the group's offsets. Where they differ, the offsets are read once more: a worker
   that was stalled may not know yet that another owns the partition, and has committed between the two. Offsets that are behind are
   reported, and no more: Kafka 4.1 may show those of long ago once a broker that died has loaded them again, though its log has the newest.

A table that is in memory already and agrees with the stable offsets is kept: no transaction has moved them since.
"""

import asyncio
import contextlib
import ctypes
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import structlog
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient

from streams.engine.changelog import InputPartition, TablePartition, checked, restore
from streams.errors import KafkaUnavailable, PositionError, StageFailed
from streams.kafka.client import client_config
from streams.kafka.log_offsets import LogOffsets, look_around
from streams.runtime.waiting import Waiting
from streams.settings import Settings

CALL_SECONDS = 10.0
"""How long one call to Kafka may take before it counts as unanswered (and is tried again)."""

UNSTABLE_SECONDS = 0.1
"""After so long the group's offsets are asked for again, while a transaction that holds some is not decided."""

log = structlog.get_logger(__name__)
_librdkafka = logging.getLogger("librdkafka")

T = TypeVar("T")
Offsets = dict[tuple[str, int], int]
"""(topic, partition) → next offset."""


class Broker:
    """What the brokers know of a stage's group, changelog and input topics. Blocking calls, which raise KafkaUnavailable."""

    def __init__(self, settings: Settings, group: str, changelog: str, topics: Sequence[str]) -> None:
        self._settings = settings
        self._admin: AdminClient | None = None
        self._offsets: LogOffsets | None = None
        self.group = group
        self.changelog = changelog
        self.topics = tuple(topics)

    def stable_offsets(self, numbers: Sequence[int]) -> Offsets | None:
        """Return the group's committed offsets of the partitions, or None while an open transaction holds some (KIP-447)."""
        asked = [TopicPartition(topic, number) for topic in self.topics for number in numbers]
        request = [ConsumerGroupTopicPartitions(self.group, asked)]
        try:
            # While no broker is there, this says so, and the coordinator is not asked: see streams/kafka/log_offsets.py.
            self._client().list_topics(self.topics[0], timeout=CALL_SECONDS)
            answer = self._client().list_consumer_group_offsets(request, require_stable=True, request_timeout=CALL_SECONDS)
            partitions = answer[self.group].result(CALL_SECONDS).topic_partitions or ()
            errors = [partition.error for partition in partitions if partition.error is not None]
        except KafkaException as error:
            partitions, errors = (), [error.args[0]]
        except TimeoutError as error:
            raise KafkaUnavailable(f"Kafka does not answer (offsets of {self.group}).") from error
        if any(error.code() == KafkaError.UNSTABLE_OFFSET_COMMIT for error in errors):
            return None
        if errors:
            raise KafkaUnavailable(f"Kafka does not answer (offsets of {self.group}): {errors[0].str()}.")
        return {(tp.topic, tp.partition): tp.offset for tp in partitions if tp.offset >= 0}

    def changelog_ends(self, numbers: Sequence[int]) -> dict[int, int]:
        """Return the offset behind the last record of each changelog partition, committed or not."""
        found = self._log_offsets(self._logs().ends, [(self.changelog, number) for number in numbers])
        return {number: offset for (_, number), offset in found.items()}

    def inputs(self, numbers: Sequence[int], committed: Offsets) -> list[InputPartition]:
        """Return the input topics' partitions as they are now, each with its offset in ``committed``. Raises PositionError, too."""
        ids = self.topic_ids()
        asked = [(topic, number) for topic in self.topics for number in numbers]
        first = self._log_offsets(self._logs().begins, asked)
        end = self._log_offsets(self._logs().ends, asked)
        changelog = (self.changelog, ids[self.changelog])
        return [InputPartition(*tp, ids[tp[0]], first[tp], end[tp], committed.get(tp, 0), *changelog) for tp in asked]

    def topic_ids(self) -> dict[str, str]:
        """Return the id of each input topic and of the changelog: another id is another topic of the same name. Raises PositionError for
        one that is gone."""
        ids: dict[str, str] = {}
        try:
            look_around(self._client(), self.topics[:1], CALL_SECONDS)
        except KafkaException as error:
            raise KafkaUnavailable(f"Kafka does not answer (describe {self.topics[0]}): {error.args[0].str()}.") from error
        described = self._client().describe_topics(TopicCollection([*self.topics, self.changelog]), request_timeout=CALL_SECONDS)
        for name, future in described.items():
            try:
                ids[name] = str(future.result(CALL_SECONDS).topic_id)
            except KafkaException as error:
                if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise PositionError(f"The topic {name} does not exist; run `tierstream topics apply`.") from error
                raise KafkaUnavailable(f"Kafka does not answer (describe {name}): {error.args[0].str()}.") from error
            except TimeoutError as error:
                raise KafkaUnavailable(f"Kafka does not answer (describe {name}).") from error
        return ids

    def close(self) -> None:
        """Let go of the connections; the next call makes others."""
        self._admin = None
        if self._offsets is not None:
            self._offsets.close()
            self._offsets = None

    def _log_offsets(self, find: "Callable[[Sequence[tuple[str, int]], float], Offsets]", asked: Sequence[tuple[str, int]]) -> Offsets:
        try:
            return find(asked, CALL_SECONDS)
        except KafkaException as error:
            raise KafkaUnavailable(f"Kafka does not answer (offsets of {asked[0][0]}): {error.args[0].str()}.") from error

    def _logs(self) -> LogOffsets:
        if self._offsets is None:
            self._offsets = LogOffsets(self._settings, self.group, committed=False)
        return self._offsets

    def _client(self) -> AdminClient:
        if self._admin is None:
            self._admin = AdminClient(client_config(self._settings), logger=_librdkafka)
        return self._admin


class Takeover:
    """Takes partitions over that ask at about the same time, together."""

    def __init__(self, settings: Settings, stage: str, broker: Broker, pool: ThreadPoolExecutor) -> None:
        self._settings = settings
        self._stage = stage
        self._broker = broker
        self._pool = pool
        self._waiting: list[_Request] = []
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self.kafka = Waiting(stage, "kafka")
        self.records = 0
        """Records read by all restores so far."""

    async def take_over(self, table: TablePartition, on_restored: Callable[[], None] = lambda: None) -> None:
        """Have ``table`` hold what is committed of its partition, with a position for each input topic.

        ``on_restored`` is called in the restoring thread when its content is another one; what it raises is raised here. Ask for it in the generation that assigned the partition, or in a later one. Waits while Kafka is away, and until transactions
        of a former owner are decided. Raises PositionError when a position can not be right.
        """
        done = asyncio.get_running_loop().create_future()
        self._waiting.append(_Request(table, on_restored, done))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        await done

    def close(self) -> None:
        """End a restore that is under way."""
        self._closed = True

    async def _run(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            wanted = [request for request in group if not request.done.done()]
            try:
                await self._settle(wanted)
            except Exception as error:  # noqa: BLE001  # the caller gets it
                _answer(group, error)
            else:
                _answer(group, None)
        self._broker.close()

    async def _settle(self, requests: "list[_Request]") -> None:
        while requests:
            numbers, began = [request.table.number for request in requests], time.monotonic()
            committed = await self._stable_offsets(numbers)
            stale = [request for request in requests if not agrees(request.table, self._broker.topics, committed)]
            wrong: PositionError | None = None
            try:
                if stale:
                    await self._until_answered(self._restore, stale, committed, began)
            except PositionError as error:
                wrong = error
            behind = [] if wrong else [each for request in stale for each in offsets_behind(request.table, committed)]
            if not wrong and not behind:
                return
            ours = [request for request in requests if not request.done.done()]
            if len(ours) == len(requests) and await self._stable_offsets(numbers) == committed:
                if wrong:
                    raise wrong
                self._report(behind)
                return
            # Offsets are read first, then positions. Where the offsets are others by now, somebody has committed in between: this worker owns
            # the partition no more, and is about to hear of it. And what it has given up says nothing of the rest.
            log.info(
                "the group's offsets moved while positions were read; both are read again", stage=self._stage, partitions=sorted(numbers)
            )
            for request in stale:
                request.table.forget()
            requests = ours
            await asyncio.sleep(UNSTABLE_SECONDS)

    def _report(self, behind: "list[Behind]") -> None:
        """Say which offsets of the group went back. The positions count: nothing is decided again, and the next commit mends the offset."""
        for each in behind:
            log.error(
                "the group's offset is behind the table's position, though both are committed together; it goes on from the position",
                stage=self._stage,
                topic=each.topic,
                partition=each.number,
                position=each.position,
                offset=each.offset,
            )

    async def _stable_offsets(self, numbers: list[int]) -> Offsets:
        """Return the group's offsets once no transaction holds some of them."""
        committed = await self._until_answered(self._broker.stable_offsets, numbers)
        if committed is None:
            log.info("waiting for a transaction of a former owner to be decided", stage=self._stage, partitions=sorted(numbers))
        while committed is None:
            await asyncio.sleep(UNSTABLE_SECONDS)
            committed = await self._until_answered(self._broker.stable_offsets, numbers)
        return committed

    async def _until_answered(self, call: Callable[..., T], *arguments: object) -> T:
        loop = asyncio.get_running_loop()
        return await self.kafka.until_available(lambda: loop.run_in_executor(self._pool, call, *arguments))

    def _restore(self, requests: "list[_Request]", committed: Offsets, began: float) -> None:
        tables = [request.table for request in requests]
        numbers = [table.number for table in tables]
        for table in tables:
            table.forget()
        records = restore(self._settings, self._broker.changelog, tables, self._broker.changelog_ends(numbers), on_read=self._count)
        _give_back_memory()
        by_number = {table.number: table for table in tables}
        for found in self._broker.inputs(numbers, committed):
            positions = by_number[found.number].positions
            positions[found.topic] = checked(positions.get(found.topic), found, self._broker.group)
        for request in requests:
            request.on_restored()
        log.info(
            "restored",
            stage=self._stage,
            partitions=sorted(numbers),
            records=records,
            rows=sum(len(table.rows) for table in tables),
            seconds=round(time.monotonic() - began, 2),
        )

    def _count(self, records: int) -> None:
        if self._closed:
            raise StageFailed(f"{self._stage} stopped while it restored its table.")
        self.records += records


class _Request(NamedTuple):
    """A partition that waits to be taken over."""

    table: TablePartition
    on_restored: Callable[[], None]
    done: "asyncio.Future[None]"


def agrees(table: TablePartition, topics: Sequence[str], committed: Mapping[tuple[str, int], int]) -> bool:
    """Return whether ``table`` is what is committed: each of its positions is the group's offset, so no transaction came in between.

    An input that nothing was ever read of has no offset, and a position without outcomes.
    """
    for topic in topics:
        position, offset = table.positions.get(topic), committed.get((topic, table.number))
        if position is None or (position.outcomes if offset is None else position.next_offset != offset):
            return False
    return True


class Behind(NamedTuple):
    """An input partition whose offset in the group is behind the position of the table."""

    topic: str
    number: int
    position: int
    offset: int


def offsets_behind(table: TablePartition, committed: Mapping[tuple[str, int], int]) -> list[Behind]:
    """Return the inputs of ``table`` whose offsets in ``committed`` are behind its positions. One without an offset has none that is wrong: it
    has expired."""
    return [
        Behind(topic, table.number, position.next_offset, offset)
        for topic, position in table.positions.items()
        if 0 < (offset := committed.get((topic, table.number), 0)) < position.next_offset
    ]


def _give_back_memory() -> None:
    """Give back to the system what a restore took beside the rows, a tenth of it all: glibc keeps it, for it lies between them."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # another C library than glibc
            ctypes.CDLL(None).malloc_trim(0)


def _answer(group: list[_Request], error: Exception | None) -> None:
    for request in group:
        if not request.done.done():
            if error is None:
                request.done.set_result(None)
            else:
                request.done.set_exception(error)
