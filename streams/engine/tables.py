"""Faust's table with a store that owns its partitions: take over, restore, then work; each in the background.

Stock Faust restores tables inside the rebalance, by offsets that transaction markers and compaction upset, and nothing fences
a stalled worker. Here the store takes each assigned partition over by itself (design: ``docs/adr/0009-one-producer.md``), and
Faust's own recovery has nothing to do, so a rebalance never waits for a restore. aiokafka sends no heartbeats while it
calls back for an assignment, so a restore inside the callback would outlast the session.
"""

import logging
from collections.abc import Callable
from typing import Any, cast

import faust
from faust.stores import memory
from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery
from faust.tables.table import Table
from faust.types import TP, CollectionT
from mode import Service

faust_logger = logging.getLogger("faust.tables")

Rebalanced = Callable[[frozenset[int], int], None]
"""Called with the numbers of the partitions that are ours from now on, and the generation in which they are. Must not block."""


class OwnedStore(memory.Store[Any, Any]):
    """Reports to its owner what was assigned; the rows live with the partitions' tasks."""

    logger = faust_logger

    def __init__(self, *args: Any, source: str, on_rebalanced: Rebalanced, **kwargs: Any) -> None:
        self._source = source
        self._on_rebalanced = on_rebalanced
        super().__init__(*args, **kwargs)

    async def on_rebalance(self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], generation_id: int = 0) -> None:
        """Hand the new assignment over. Returns at once."""
        self._on_rebalanced(frozenset(tp.partition for tp in assigned if tp.topic == self._source), generation_id)

    async def on_recovery_completed(self, active_tps: set[TP], standby_tps: set[TP]) -> None:
        """Do nothing: this store restores itself."""


class OwnedTable(Table[Any, Any]):
    """A table whose changelog its store writes and reads, so that Faust neither declares nor restores it."""

    logger = faust_logger

    def __init__(self, app: faust.App, *, source: str, on_rebalanced: Rebalanced, **kwargs: Any) -> None:
        self._source_topic = source
        self._rebalanced = on_rebalanced
        super().__init__(app, **kwargs)

    def _new_store(self) -> OwnedStore:
        return OwnedStore("memory://", self.app, self, table_name=self.name, source=self._source_topic, on_rebalanced=self._rebalanced)

    async def on_start(self) -> None:
        """Start the store; the changelog topic is made by ``tierstream topics apply``."""
        await self.add_runtime_dependency(self.data)


class Resumption(Recovery):
    """What is left of Faust's recovery when nothing is to be recovered: after a rebalance it lets records flow again.

    Faust's own seeks and restores here. It lets records flow both before and after it seeks, each time dropping what is queued,
    so that a batch fetched in between is skipped for good; and when a call to Kafka takes too long, it ends without a word and
    records never flow again. This one waits for nothing: the consumer seeks by itself (``BatchConsumer.getmany``).
    """

    logger = faust_logger

    @Service.task
    async def _restart_recovery(self) -> None:
        while not await self.wait_for_stopped(self.signal_recovery_start.wait()):
            self.signal_recovery_start.clear()
            await self.app.on_rebalance_complete.send()
            if self._generation_id == self.app.consumer_generation_id:
                await self._resume()

    async def _resume(self) -> None:
        app = cast(faust.App, self.app)
        consumer = app.consumer
        consumer.resume_partitions(consumer.assignment())
        self.completed.set()
        app.flow_control.resume()
        consumer.resume_flow()
        await app._fetcher.maybe_start()
        self.tables.on_actives_ready()
        self.tables.on_standbys_ready()
        app.on_rebalance_end()


class OwnedTables(TableManager):
    """Faust's table manager, without a recovery of its own."""

    logger = faust_logger

    @property
    def recovery(self) -> Recovery:
        """The service that lets records flow after a rebalance."""
        if self._recovery is None:
            self._recovery = Resumption(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery

    async def on_start(self) -> None:
        """Start; without Faust's second of grace for tables that agents add late, for ours are there."""
        await self._update_channels()
        await self.recovery.start()

    def add(self, table: CollectionT) -> CollectionT:
        """Register ``table`` for rebalances, and keep its changelog from being subscribed to."""
        self[table.name] = table
        return table

    async def _update_channels(self) -> None:
        self._tables_finalized.set()
        for table in self.values():
            await table.maybe_start()
        self._tables_registered.set()
