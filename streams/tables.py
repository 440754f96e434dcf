"""Faust's table with a store that owns its partitions: fence, restore, then work; each in the background.

Stock Faust restores tables inside the rebalance, by offsets that transaction markers and compaction upset, and nothing fences
a stalled worker. Here the store takes each assigned partition over by itself (design: ``docs/adr/0002-transactions.md``), and
Faust's own recovery has nothing to do, so a rebalance never waits for a restore. aiokafka sends no heartbeats while it
calls back for an assignment, so a restore inside the callback would outlast the session.
"""

import logging
from collections.abc import Callable
from typing import Any

import faust
from faust.stores import memory
from faust.tables.manager import TableManager
from faust.tables.table import Table
from faust.types import TP, CollectionT

faust_logger = logging.getLogger("faust.tables")

Rebalanced = Callable[[frozenset[int]], None]
"""Called with the numbers of the partitions that are ours from now on. Must not block."""


class OwnedStore(memory.Store):
    """Tells its owner what was assigned; the rows live with the partitions' tasks."""

    logger = faust_logger

    def __init__(self, *args: Any, source: str, on_rebalanced: Rebalanced, **kwargs: Any) -> None:
        self._source = source
        self._on_rebalanced = on_rebalanced
        super().__init__(*args, **kwargs)

    async def on_rebalance(self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], generation_id: int = 0) -> None:
        """Hand the new assignment over. Returns at once."""
        self._on_rebalanced(frozenset(tp.partition for tp in assigned if tp.topic == self._source))

    async def on_recovery_completed(self, active_tps: set[TP], standby_tps: set[TP]) -> None:
        """Do nothing: this store restores itself."""


class OwnedTable(Table):
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


class OwnedTables(TableManager):
    """Faust's table manager, without a recovery of its own."""

    logger = faust_logger

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
