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


Handling = asyncio.Task[Mapping[Reason, int]]


async def begun(
    handler: BatchHandler, records: Sequence[Record], on_start: Callable[[Handling], object] = lambda handling: None
) -> Handling:
    """Have a batch handled, and return its task once it has ended or lets go. ``on_start`` gets the task at once. Cancelled, it cancels the task."""
    let_go = asyncio.Event()
    handling = asyncio.create_task(handler.handle(records, let_go.set))
    on_start(handling)
    waiting = asyncio.create_task(let_go.wait())
    try:
        await asyncio.wait({handling, waiting}, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        handling.cancel()
        raise
    finally:
        waiting.cancel()
    return handling


class HandlerWorker:
    """Gives one partition's batches to a BatchHandler."""

    def __init__(self, stage: str, handler: BatchHandler) -> None:
        self._stage = stage
        self._handler = handler
        self._handling: set[Handling] = set()

    async def prepare(self) -> None:
        """Nothing to get ready."""

    async def process(self, batch: Batch) -> Rest | None:
        """Handle the batch, or so much of it as must be done before the next, and count its outcomes when all of it is."""
        handling = await begun(self._handler, batch.records, self._note)
        if not handling.done():
            return handling
        handling.result()
        return None

    def _note(self, handling: Handling) -> None:
        self._handling.add(handling)
        handling.add_done_callback(self._ended)

    def _ended(self, handling: Handling) -> None:
        self._handling.discard(handling)
        if not handling.cancelled() and handling.exception() is None:
            count_outcomes(self._stage, handling.result())

    async def close(self) -> None:
        """End what is still at work."""
        for handling in self._handling:
            handling.cancel()
        if self._handling:
            await asyncio.wait(self._handling)
