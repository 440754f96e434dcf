"""Running stages in one process: start, watch, stop. ``tierstream worker STAGE...``"""

import asyncio
import contextlib
import gc
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import structlog

from streams.engine.app import Stage
from streams.engine.watchdog import Watch
from streams.errors import StageFailed, TierstreamError
from streams.kafka import topic_admin
from streams.kafka.refusals import reader_refusal
from streams.metrics import STALLED
from streams.runtime.admin import Health, serve_admin
from streams.runtime.waiting import describe_waits, services_away
from streams.settings import Settings

STOP_SECONDS = 1.5
"""How long Faust may take to stop, once the batches under way have had their time; together less than a supervisor's grace of 5 s."""

HEALTH_SECONDS = 0.5
"""How often a stage's state of health is looked at."""

WAITS_SECONDS = 5.0
"""A stage that has waited for a service for this long is not ready. Longer than a restart of that service's connections, and than a
supervisor needs to see that a worker which it has started is at work."""

log = structlog.get_logger(__name__)

StageFactory = Callable[[], contextlib.AbstractAsyncContextManager[Stage]]


async def run_stages(settings: Settings, factories: Sequence[StageFactory], stop: asyncio.Event) -> None:
    """Run the stages until ``stop`` is set. Raises the TierstreamError of the first stage that can not go on, KafkaUnavailable
    when Kafka is not there in time at the start, TopologyError when nothing right can be decided from its topics, then or later."""
    if not await _found_topics(settings, stop):
        return
    health = Health()
    async with contextlib.AsyncExitStack() as stack:
        stages = [await stack.enter_async_context(factory()) for factory in factories]
        stack.enter_context(on_hangup(stop, *(stage.read_again for stage in stages)))
        admin_url = await stack.enter_async_context(serve_admin(settings, health))
        stopping = asyncio.create_task(stop.wait())
        stack.callback(stopping.cancel)
        for stage in stages:
            await stack.enter_async_context(_running(stage, stopping))
            log.info("stage started", stage=stage.name, group=stage.app.conf.id, admin=admin_url)
        tune_collector()
        watchers = [asyncio.create_task(_watch(stage, health)) for stage in stages]
        done, pending = await asyncio.wait([stopping, *watchers], return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        for task in done - {stopping}:
            task.result()


async def _found_topics(settings: Settings, stop: asyncio.Event) -> bool:
    """Wait for Kafka and its topics; return False once ``stop`` is set, also while a request to Kafka is under way.

    It waits in a thread of its own: a thread of the loop's pool would have to end before the loop can be closed.
    """
    loop = asyncio.get_running_loop()
    found: asyncio.Future[None] = loop.create_future()

    def settle(error: BaseException | None) -> None:
        if not found.done():
            found.set_result(None) if error is None else found.set_exception(error)

    def wait() -> None:
        error: BaseException | None = None
        try:
            topic_admin.once_reachable(settings, topic_admin.require)
        except BaseException as raised:  # noqa: BLE001  # raised again by whoever awaits it
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, error)

    threading.Thread(target=wait, name="kafka-wait", daemon=True).start()
    stopping = asyncio.create_task(stop.wait())
    either: list[asyncio.Future[Any]] = [found, stopping]
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
    if not found.done():
        found.cancel()
        return False
    found.result()
    return True


def tune_collector() -> None:
    """Spare the cyclic garbage collector objects that are never freed or that reference counting frees: records and rows hold no
    cycles, and scanning them took an eighth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 50, 100)


@contextlib.asynccontextmanager
async def _running(stage: Stage, stopping: "asyncio.Task[bool]") -> AsyncIterator[None]:
    try:
        await start_app(stage, stopping)
        yield
    finally:
        await stage.processing.close()
        with contextlib.suppress(TimeoutError):
            # Everything acked is durable already: what a stop that hangs would still commit is a hint.
            await asyncio.wait_for(stage.app.stop(), STOP_SECONDS)
        await stage.close()


async def start_app(stage: Stage, stopping: "asyncio.Task[bool]") -> None:
    """Return once the app has started, or is told to stop. Raises KafkaUnavailable where Kafka does not let it join its group: Faust would wait."""
    starting = asyncio.create_task(stage.app.start())
    try:
        while not (starting.done() or stopping.done()):
            await asyncio.wait({starting, stopping}, timeout=HEALTH_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            _raise_refusal(stage)
        if starting.done():
            starting.result()
    finally:
        starting.cancel()


def _raise_refusal(stage: Stage) -> None:
    refused = reader_refusal(stage.settings, stage.refusal)
    if refused is not None:
        raise refused


async def _watch(stage: Stage, health: Health) -> None:
    """Return never, or raise when the stage can not go on. Keeps its state of health up to date meanwhile."""
    failure = asyncio.ensure_future(stage.processing.failure)
    watch = Watch(stage)
    while True:
        stage.rouse()
        try:
            stalled = await watch.check()
        except TierstreamError as error:
            health.set(stage.name, False, str(error))
            raise
        if stalled is not None:
            health.set(stage.name, False, stalled)
            STALLED.labels(stage.name).set(1)
            raise StageFailed(stalled)
        works = stage.processing.assigned and not stage.processing.preparing and not failure.done() and not watch.seen.missing
        health.set(stage.name, works and not services_away(stage.name, WAITS_SECONDS), _describe(stage, watch.seen.note()))
        done, _ = await asyncio.wait({failure}, timeout=HEALTH_SECONDS)
        if done:
            raise await stage.explained(failure.result())
        if stage.taken is not None:
            raise stage.taken
        _raise_refusal(stage)
        if stage.app.should_stop:
            reason = stage.app.crash_reason
            if isinstance(reason, TierstreamError):
                raise reason
            raise reader_refusal(stage.settings, reason) or StageFailed(
                f"The Faust app of {stage.name} stopped by itself: {type(reason).__name__ if reason else 'no reason given'}."
            )


def _describe(stage: Stage, topics: str) -> str:
    restoring = stage.processing.preparing
    found = [f"partitions {_numbers(stage.processing.partitions)}" + (f", restoring {_numbers(restoring)}" if restoring else "")]
    found += [text for text in (stage.describe(), *describe_waits(stage.name), topics) if text]
    return "; ".join(found)


def _numbers(numbers: frozenset[int]) -> str:
    return ",".join(map(str, sorted(numbers))) or "none"


def stop_on_signals(stop: asyncio.Event) -> None:
    """Set ``stop`` on SIGINT and SIGTERM."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)


@contextlib.contextmanager
def on_hangup(stop: asyncio.Event, *calls: Callable[[], None]) -> Iterator[None]:
    """Make ``calls`` on SIGHUP until the end of the block; set ``stop`` instead when it comes because the terminal has gone."""
    loop = asyncio.get_running_loop()
    had_terminal = os.isatty(0)

    def hung_up() -> None:
        if had_terminal and not os.isatty(0):
            stop.set()
            return
        for call in calls:
            call()

    loop.add_signal_handler(signal.SIGHUP, hung_up)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
