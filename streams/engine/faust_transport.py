"""Faust's transport with record batches in: one Faust event carries all that one fetch brought of one topic.

Agents, assignment, rebalances and offset commits stay Faust's; what changes:

- ``getmany`` yields one message for each topic of a fetch; its value has the aiokafka records of each partition. ``done`` lets the
  offset after a partition's last record be committed: when all of its batch is durable, or not at all.
- Records are read with ``read_committed``: an aborted transaction's records are never seen.
- Faust's own producer is replaced by none at all: stages produce through our own, and what they produce is acknowledged
  before they ack, so there is nothing that Faust's commit could flush (and its flush gives up after 0.1 s).
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import aiokafka
import faust
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from faust.auth import Credentials
from faust.transport import base
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage, EventT, Message

from streams.engine.fetch_pace import SENT_ONE_BY_ONE, FetchDelays
from streams.engine.fetch_sessions import SessionClient
from streams.engine.instance_id import Holder, InstanceIdGuard
from streams.engine.metadata_requests import create_no_topics
from streams.engine.transactions import Membership
from streams.errors import InstanceIdTaken, KafkaUnavailable, StageFailed
from streams.kafka.records import Record

faust_logger = logging.getLogger("faust.transport")

Fetched = Mapping[TP, Sequence[Record]]
"""What one fetch brought of one topic: the records of each partition that had some, in offset order."""

FETCH_MAX_WAIT_MS = 100
"""How long the broker may hold a fetch back while there is nothing to read; it answers at once when there is. Short: a partition that is
resumed has to wait for the fetch that is under way without it."""

IDLE_FETCH_MAX_WAIT_MS = 2_000
"""The same while nothing comes and nothing is paused. Other requests on the connection wait for it, such as those after a rebalance."""

FETCH_SECONDS = 1.0
"""How long one poll may wait for records."""

FETCH_SECONDS_WHILE_PAUSED = 0.05
"""The same while a partition is paused: one that is resumed is noticed only by the next poll."""


class BatchConsumerThread(driver.AIOKafkaConsumerThread):
    """The aiokafka consumer's own thread, with our consumer settings."""

    logger = faust_logger
    membership: Membership | None = None
    """This member in the present generation."""
    guard: InstanceIdGuard | None = None
    """Watches over a static member's joins; None before the start, and without an instance id."""

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Note the generation, and the member id in it, before anybody is told of it."""
        coordinator, conf = self._ensure_consumer()._coordinator, self.app.conf
        self.membership = Membership(conf.id, generation_id, coordinator.member_id, conf.consumer_group_instance_id)
        await super().on_partitions_assigned(assigned, generation_id)

    async def on_start(self) -> None:
        """Start the consumer."""
        await super().on_start()
        consumer, instance_id = self._ensure_consumer(), self.app.conf.consumer_group_instance_id
        if instance_id is not None:
            self.guard = InstanceIdGuard(consumer._coordinator, instance_id, cast(BatchTransport, self.consumer.transport).holder)
        fetcher = consumer._fetcher
        fetcher._client = SessionClient(fetcher._client)
        self._delays = FetchDelays(cast(BatchTransport, self.consumer.transport).pace)
        fetcher._proc_fetch_request = partial(self._gather, fetcher, fetcher._proc_fetch_request)

    async def _gather(self, fetcher: Any, fetch: Callable[..., Awaitable[bool]], *request: Any) -> bool:
        """Fetch, hand the records over, and let the broker gather others before this node is asked again."""
        has_records = await fetch(*request)
        is_idle = not has_records and not self.consumer._buffered_partitions
        fetcher._fetch_max_wait_ms = IDLE_FETCH_MAX_WAIT_MS if is_idle else FETCH_MAX_WAIT_MS
        if has_records:
            for waiter in fetcher._fetch_waiters:
                fetcher._notify(waiter)
            await asyncio.sleep(self._delays.after(time.monotonic()))
        return has_records

    async def find_taken(self) -> InstanceIdTaken | None:
        """Return the error when another process has this one's instance id, as far as Kafka says so soon."""
        return None if self.guard is None else cast(InstanceIdTaken | None, await self.call_thread(self.guard.find))

    async def positions(self, wanted: Iterable[TP]) -> dict[TP, int]:
        """Return the next offset that would be fetched, for each partition that has one; of none once this thread has ended."""
        try:
            return cast(dict[TP, int], await self.call_thread(self._positions, list(wanted)))
        except RuntimeError:
            if not self.thread_loop.is_closed():
                raise
            return {}  # why it has ended is the app's to say

    @property
    def refusal(self) -> BaseException | None:
        """Why Kafka does not let this member join its group; aiokafka waits with it for a read, and before the first assignment nobody reads."""
        coordinator = None if self._consumer is None else self._consumer._coordinator
        return cast(BaseException | None, getattr(coordinator, "_pending_exception", None))

    async def _positions(self, wanted: list[TP]) -> dict[TP, int]:
        consumer = self._ensure_consumer()
        return {tp: position for tp in wanted if (position := await consumer.position(tp)) is not None}

    def _create_worker_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:
        conf = self.app.conf
        # Range gives the same partition numbers of every input topic to one worker, which a table needs.
        self._assignor = RangePartitionAssignor
        create_no_topics()
        return aiokafka.AIOKafkaConsumer(
            client_id=conf.broker_client_id,
            group_id=conf.id,
            group_instance_id=conf.consumer_group_instance_id,
            bootstrap_servers=driver.server_list(transport.url, transport.default_port),
            partition_assignment_strategy=[self._assignor],
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            max_poll_interval_ms=int(conf.broker_max_poll_interval * 1000),
            max_poll_records=conf.broker_max_poll_records,
            max_partition_fetch_bytes=conf.consumer_max_fetch_size,
            fetch_max_wait_ms=FETCH_MAX_WAIT_MS,
            request_timeout_ms=int(conf.broker_request_timeout * 1000),
            session_timeout_ms=int(conf.broker_session_timeout * 1000),
            rebalance_timeout_ms=int(conf.broker_rebalance_timeout * 1000),
            heartbeat_interval_ms=int(conf.broker_heartbeat_interval * 1000),
            metadata_max_age_ms=conf.consumer_metadata_max_age_ms,
            check_crcs=conf.broker_check_crcs,
            **driver.credentials_to_aiokafka_auth(_credentials(conf.broker_credentials), conf.ssl_context),
        )

    async def on_thread_stop(self) -> None:
        """Stop the consumer."""
        # While a broker is away, aiokafka's fetcher lets the cancellation of a task of its own out of ``close``.
        with contextlib.suppress(asyncio.CancelledError):
            await super().on_thread_stop()

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Seek every assigned partition to its committed offset, or to its beginning; return the committed offsets there are."""
        offsets: Mapping[TP, int] = await self.call_thread(self._seek_to_committed)
        return offsets

    async def _seek_to_committed(self) -> Mapping[TP, int]:
        consumer = self._ensure_consumer()
        if not consumer.assignment():
            return {}
        committed: Mapping[TP, int] = await consumer.seek_to_committed()
        # aiokafka leaves a partition without a committed offset where it is, which may be beyond what was dropped.
        unread = [tp for tp, offset in committed.items() if not offset]
        if unread and not await consumer.seek_to_beginning(*unread):
            raise KafkaUnavailable(f"Kafka does not report where {unread[0].topic}, partition {unread[0].partition}, begins.")
        return committed


def _credentials(credentials: Any) -> Credentials | None:
    return credentials if isinstance(credentials, Credentials) else None


class BatchConsumer(driver.Consumer):
    """Yields one message for each topic of a fetch, and commits only what ``done`` was called with.

    After an assignment, and after anything that was fetched had to be dropped, every partition is read again from its committed
    offset, by the task that fetches and before its next fetch. So what one generation reads of a partition has no holes.
    """

    logger = faust_logger

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._at_committed = False
        self._fetchable = asyncio.Event()

    @property
    def membership(self) -> Membership | None:
        """This member in the present generation; None before the first."""
        return cast(BatchConsumerThread, self._thread).membership

    @property
    def taken(self) -> InstanceIdTaken | None:
        """Why this member does not join the group any more; None while it does."""
        guard = cast(BatchConsumerThread, self._thread).guard
        return None if guard is None else guard.taken

    @property
    def refusal(self) -> BaseException | None:
        """Why Kafka does not let this member join its group; None where it does, or has not said yet."""
        return cast(BatchConsumerThread, self._thread).refusal

    async def find_taken(self) -> InstanceIdTaken | None:
        """Return the error when another process has this one's instance id, as far as Kafka says so soon."""
        return await cast(BatchConsumerThread, self._thread).find_taken()

    def _new_consumer_thread(self) -> BatchConsumerThread:
        # Not on uvloop, which takes an eighth less CPU here: its ``close`` may wait for ever for the thread that waits for this one.
        return BatchConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Begin a generation: each of its partitions is to be read from its committed offset."""
        self._at_committed = False
        await super().on_partitions_assigned(assigned, generation_id)

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, ConsumerMessage]]:
        """Fetch, and yield one message for each topic that has records: its value is ``Fetched``; ``timeout`` is in seconds.

        Faust takes a message through four of its objects, which costs more than a record's decision: so one for all partitions of a
        topic, under the name of the first of them.
        """
        if not self.flow_active:
            await self.wait(self.can_resume_flow.wait())
        generation = self.app.consumer_generation_id
        if self.should_stop or not await self._go_to_committed(generation):
            return
        active = self._get_active_partitions()
        if not active:
            self._fetchable.clear()
            await self.wait(self._fetchable.wait(), timeout=timeout)
            return
        records = await self._getmany(active, min(timeout, FETCH_SECONDS_WHILE_PAUSED if self._buffered_partitions else FETCH_SECONDS))
        by_topic: dict[str, dict[TP, Sequence[Record]]] = {}
        for tp, of_partition in records.items():
            by_topic.setdefault(tp.topic, {})[tp] = of_partition
        for topic, fetched in by_topic.items():
            if not self._goes_on(generation):
                self._at_committed = False
                return
            tp, first = next(iter(fetched.items()))
            last = first[-1]
            yield (
                tp,
                ConsumerMessage(
                    topic,
                    tp.partition,
                    last.offset,
                    last.timestamp / 1000,
                    last.timestamp_type,
                    None,
                    None,
                    cast(bytes, fetched),  # Faust hands a value on as it is
                    None,
                    0,
                    0,
                    tp,
                    generation_id=generation,
                ),
            )

    def _goes_on(self, generation: int) -> bool:
        """Whether no rebalance has begun since ``generation`` was looked up."""
        return self.flow_active and self.app.consumer_generation_id == generation

    async def _go_to_committed(self, generation: int) -> bool:
        """Seek unless that is done already. Returns False when a rebalance came in between, which makes it moot."""
        if self._at_committed:
            return True
        self._at_committed = True  # an assignment in the meantime sets it back
        try:
            await self.perform_seek()
        except Exception:
            self._at_committed = False
            if self._goes_on(generation):
                raise
        return self._at_committed and self._goes_on(generation)

    async def verify_all_partitions_active(self) -> None:
        """Do nothing: ``streams.engine.watchdog`` checks whether a partition makes progress. Faust's own check only logs, and fails where a partition
        that was just assigned has no position yet, which ends the app."""

    async def positions(self, wanted: Iterable[TP]) -> dict[TP, int]:
        """Return the next offset that would be fetched, for each partition that has one."""
        return await cast(BatchConsumerThread, self._thread).positions(wanted)

    def pause(self, topic: str, partition: int) -> None:
        """Fetch no more of this partition until ``resume``."""
        self.on_buffer_full(TP(topic, partition))

    def resume(self, topic: str, partition: int) -> None:
        """Fetch of it again."""
        self.on_buffer_drop(TP(topic, partition))

    def on_buffer_drop(self, tp: TP) -> None:
        """Fetch of ``tp`` again, at once."""
        super().on_buffer_drop(tp)
        self._fetchable.set()

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        """Fetch of ``tps`` again, at once."""
        super().resume_partitions(tps)
        self._fetchable.set()

    def ack(self, message: Message) -> bool:
        """Do nothing: Faust's streams ack what they skip as well, so their ack does not say that anything was done."""
        return False

    def done(self, tp: TP, offset: int) -> None:
        """Let the offset after ``offset``, a batch's last, be committed: all of it is durable, and so are the partition's batches before it."""
        committed = self._committed_offset[tp]
        if committed is None or offset >= committed:
            self._acked[tp].append(offset)

    async def _commit_offsets(self, offsets: Mapping[TP, int], start_new_transaction: bool = True) -> bool:
        """Commit the offsets of partitions that are ours. As Faust's own, which formats a table of them for a log that nobody reads."""
        assignment = self.assignment()
        ours = {tp: offset for tp, offset in offsets.items() if tp in assignment}
        did_commit = bool(ours) and await self._commit(ours)
        self._committed_offset.update(ours)
        return did_commit

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Offsets inside a batch, commit markers and compacted records look like gaps to Faust; they are none."""

    def _new_offset(self, tp: TP) -> int | None:
        """Return the offset to commit: after the newest batch that is done. Batches of a partition are done in order."""
        acked = self._acked[tp]
        if not acked:
            return None
        newest: int = max(acked)
        acked.clear()
        return newest + 1


class NoProducer(base.Producer):
    """Stands where Faust expects a producer, and refuses to produce."""

    logger = faust_logger

    async def flush(self) -> None:
        """Do nothing: what a stage produces is acknowledged before its batch is acked."""

    async def send(self, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        """Raise StageFailed."""
        raise StageFailed("A stage tried to produce through Faust; stages produce through streams.engine.")

    async def send_and_wait(self, *args: Any, **kwargs: Any) -> Any:
        """Raise StageFailed."""
        return await self.send()


class BatchTransport(driver.Transport):
    """Faust's transport with batches in, and no producer of Faust's own. ``holder`` says who has the instance id, ``pace`` how often is fetched."""

    Consumer = BatchConsumer
    Producer = NoProducer
    holder: Holder
    pace = SENT_ONE_BY_ONE


class BatchSchema(faust.Schema[Any, Any]):
    """Hands the records over as they came: decoding belongs to the stage, inside what it guards."""

    def compile(
        self, app: Any, *, on_key_decode_error: Any = None, on_value_decode_error: Any = None, default_propagate: bool = False
    ) -> Callable[..., Awaitable[EventT[Any]]]:
        """Return the function that makes a Faust event of a batch message."""
        create = app.create_event

        async def decode(message: ConsumerMessage, *, propagate: bool = False) -> EventT[Any]:
            return create(None, message.value, message.headers, message)  # type: ignore[no-any-return]

        return decode
