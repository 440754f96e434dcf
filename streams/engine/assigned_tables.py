"""The table partitions that this worker is assigned: what each holds beside its rows, and what they have to wait for from each other.

A partition whose rows were decided with other settings, or with settings that are not known, goes on only once all that are assigned are
restored. So a refusal names all of them at once, and no partition goes on with settings that are then taken back.
"""

import asyncio
from collections.abc import Iterator

from streams.engine.changelog import TablePartition
from streams.engine.due_times import DueTimes
from streams.engine.slices import Slices
from streams.engine.table_stage import SettingsChange, TableStage
from streams.errors import SettingsRefused
from streams.settings import Settings


class PartitionTable:
    """One partition of the table, the coming times of its rows, and what fills slices from it."""

    def __init__(self, settings: Settings, stage: TableStage, changelog: str, number: int) -> None:
        self._stage = stage
        self.rows = TablePartition(number)
        has_times = type(stage).due_at is not TableStage.due_at
        self.due_times = DueTimes(stage.due_at if has_times else None)
        self.slices = Slices(settings, stage, changelog, self.rows, self.due_times)
        self.restored = False
        """Whether it is known to hold what is committed."""
        self.change: SettingsChange | None = None
        """What is to be committed before any input, for the rows were decided with other settings."""

    def forget(self) -> None:
        """Hold nothing: what is in memory may be ahead of the log."""
        self.restored, self.change = False, None
        self.rows.forget()
        self.slices.forget()
        self.due_times.forget()

    def on_restored(self) -> None:
        """Take in that other rows are held now. May take long: called in the restoring thread, while nothing else uses this table."""
        self.slices.forget()
        self.due_times.fill(self.rows.rows)
        former = self.rows.settings
        is_changed = former is not None and former != self._stage.settings
        self.change = self._stage.settings_changed(former, self.rows.rows) if is_changed and former is not None else None

    def committed(self) -> None:
        """Take in that a transaction with something of this partition is committed: the settings are in the log as well."""
        self.rows.settings, self.change = self._stage.settings, None

    @property
    def needs_settings(self) -> bool:
        """Whether the changelog is still to say that the rows are those of the stage's settings."""
        return (self.rows.settings or b"") != self._stage.settings

    def waits(self, now: int) -> bool:
        """Whether there is something to commit that needs no record."""
        return self.restored and (self.change is not None or self.due_times.has_passed(self.rows.rows, now))


class AssignedTables:
    """All table partitions of a worker. Use it from one event loop."""

    def __init__(self, settings: Settings, stage: TableStage, changelog: str, *, accepts_changes: bool) -> None:
        """``accepts_changes``: whether other settings may change what rows say."""
        self._settings = settings
        self._stage = stage
        self._changelog = changelog
        self._accepts_changes = accepts_changes
        self._tables: set[PartitionTable] = set()
        self._moved = asyncio.Event()

    def new(self, number: int) -> PartitionTable:
        """Return an empty table partition, which counts as assigned until it is let go."""
        table = PartitionTable(self._settings, self._stage, self._changelog, number)
        self._tables.add(table)
        return table

    def let_go(self, table: PartitionTable) -> None:
        """Count a partition no more: it is ours no more."""
        self._tables.discard(table)
        self._moved.set()

    def waiting(self, now: int) -> Iterator[int]:
        """Yield the numbers of the partitions with something to commit that needs no record."""
        for table in self._tables:
            if table.waits(now):
                yield table.rows.number

    async def settle(self, table: PartitionTable) -> None:
        """Take in that ``table`` is restored, and return once its partition may go on.

        Raises SettingsRefused where rows of any assigned partition would change that may not.
        """
        table.restored = True
        self._moved.set()
        if not table.needs_settings or self._accepts_changes:
            return
        while not all(each.restored for each in self._tables):
            self._moved.clear()
            await self._moved.wait()
        changes = [each.change for each in self._tables if each.change is not None and each.change.refusal is not None]
        affected = sum(change.affected for change in changes)
        for change in changes:
            if affected and change.refusal is not None:
                raise SettingsRefused(change.refusal(affected, sum(len(each.rows.rows) for each in self._tables)))
