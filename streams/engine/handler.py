"""A stage without a table, whose effects are idempotent: its handler, and what gives it the batches. A record may wait for hours in it while
others go on."""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Protocol

from schemas.reasons import Reason
from streams.engine.partitions import Batch
from streams.engine.unfinished import Rest
from streams.kafka.records import Record
from streams.metrics import count_outcomes


class BatchHandler(Protocol):
    """Works batches in. A record may wait for something of its own, for hours, while others go on."""

    @property
    def progress(self) -> int:
        """Counts what has got done, inside of batches too."""

    @property
    def full(self) -> Collection[tuple[str, int]]:
        """The (topic, partition)s of which as much waits as may: they do not move until some of it goes on."""

    def describe(self) -> str:
        """Say in some words what waits and why, without addresses; nothing when nothing does."""

    def handle(self, records: Sequence[Record], let_go: Callable[[], object]) -> Coroutine[object, object, Mapping[Reason, int]]:
        """Work in the records of one topic's partition; return their outcomes when all effects are durable. Calls ``let_go`` once the
        partition's next records may be begun beside what is left; is given them only then."""


class HandlerWorker:
    """Gives one partition's batches to a BatchHandler."""

    def __init__(self, stage: str, handler: BatchHandler) -> None:
        self._stage = stage
        self._handler = handler
        self._handling: set[asyncio.Task[Mapping[Reason, int]]] = set()

    async def prepare(self) -> None:
        """Nothing to get ready."""

    async def process(self, batch: Batch) -> Rest | None:
        """Handle the batch, or so much of it as must be done before the next, and count its outcomes when all of it is."""
        let_go = asyncio.Event()
        handling = asyncio.create_task(self._handler.handle(batch.records, let_go.set))
        self._handling.add(handling)
        handling.add_done_callback(self._ended)
        waiting = asyncio.create_task(let_go.wait())
        try:
            await asyncio.wait({handling, waiting}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            handling.cancel()
            raise
        finally:
            waiting.cancel()
        if not handling.done():
            return handling
        handling.result()
        return None

    def _ended(self, handling: asyncio.Task[Mapping[Reason, int]]) -> None:
        self._handling.discard(handling)
        if not handling.cancelled() and handling.exception() is None:
            count_outcomes(self._stage, handling.result())

    async def close(self) -> None:
        """End what is still at work."""
        for handling in self._handling:
            handling.cancel()
        if self._handling:
            await asyncio.wait(self._handling)
