"""Faust's transport with record batches in: one Faust event carries all that one fetch brought of one partition.

Agents, assignment, rebalances and offset commits stay Faust's; what changes:

- ``getmany`` yields one message for each partition's fetch; its value is the list of aiokafka records, its offset the last
  record's. Acking it commits the offset after that record, so a batch is acked when all of it is durable, or not at all.
- Records are read with ``read_committed``: an aborted transaction's records are never seen.
- Faust's own producer is replaced by none at all: stages produce through librdkafka, and what they produce is acknowledged
  before they ack, so there is nothing that Faust's commit could flush (and its flush gives up after 0.1 s).
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiokafka
import faust
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from faust.auth import Credentials
from faust.transport import base
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage, EventT

from streams.errors import StageFailed

faust_logger = logging.getLogger("faust.transport")

FETCH_MAX_WAIT_MS = 100
"""How long the broker may hold a fetch back while there is nothing to read; it answers at once when there is."""


class BatchConsumerThread(driver.AIOKafkaConsumerThread):
    """The aiokafka consumer's own thread, with our consumer settings."""

    logger = faust_logger

    def _create_worker_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:
        conf = self.app.conf
        # Range gives the same partition numbers of every input topic to one worker, which a table needs.
        self._assignor = RangePartitionAssignor
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


def _credentials(credentials: Any) -> Credentials | None:
    return credentials if isinstance(credentials, Credentials) else None


class BatchConsumer(driver.Consumer):
    """Yields one message for each partition's fetch."""

    logger = faust_logger

    def _new_consumer_thread(self) -> BatchConsumerThread:
        return BatchConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, ConsumerMessage]]:
        """Fetch, and yield (partition, batch) for each partition that has records; ``timeout`` is in seconds."""
        records, active = await self._wait_next_records(timeout)
        generation = self.app.consumer_generation_id
        if not records or self.should_stop:
            return
        if not self.flow_active:
            await self.perform_seek()  # a rebalance came in between: what was fetched is read again
            return
        for tp, batch in records.items():
            if not self.flow_active or self.app.consumer_generation_id != generation:
                return
            if active is not None and tp not in active and tp not in self._buffered_partitions:
                continue
            last = batch[-1]
            yield (
                tp,
                ConsumerMessage(
                    tp.topic,
                    tp.partition,
                    last.offset,
                    last.timestamp / 1000,
                    last.timestamp_type,
                    None,
                    None,
                    batch,
                    None,
                    0,
                    0,
                    tp,
                    generation_id=generation,
                ),
            )

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Offsets inside a batch, commit markers and compacted records look like gaps to Faust; they are none."""

    def _new_offset(self, tp: TP) -> int | None:
        """Return the offset to commit: after the newest acked batch. Batches of a partition are acked in order."""
        acked = self._acked[tp]
        if not acked:
            return None
        newest: int = max(acked)
        acked.clear()
        self._acked_index[tp].clear()
        return newest + 1


class NoProducer(base.Producer):
    """Stands where Faust expects a producer, and refuses to produce."""

    logger = faust_logger

    async def flush(self) -> None:
        """Do nothing: what a stage produces is acknowledged before its batch is acked."""

    async def send(self, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        """Raise StageFailed."""
        raise StageFailed("A stage tried to produce through Faust; stages produce through streams.transport.")

    async def send_and_wait(self, *args: Any, **kwargs: Any) -> Any:
        """Raise StageFailed."""
        return await self.send()


class BatchTransport(driver.Transport):
    """Faust's transport with batches in, and no producer of Faust's own."""

    Consumer = BatchConsumer
    Producer = NoProducer


class BatchSchema(faust.Schema):
    """Hands the records over as they came: decoding belongs to the stage, inside what it guards."""

    def compile(
        self, app: Any, *, on_key_decode_error: Any = None, on_value_decode_error: Any = None, default_propagate: bool = False
    ) -> Callable[..., Awaitable[EventT[Any]]]:
        """Return the function that makes a Faust event of a batch message."""
        create = app.create_event

        async def decode(message: ConsumerMessage, *, propagate: bool = False) -> EventT[Any]:
            return create(None, message.value, message.headers, message)  # type: ignore[no-any-return]

        return decode
