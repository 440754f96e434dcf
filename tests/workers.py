"""Stages run inside a test's own loop, and waiting for what they do."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from streams import topics
from streams.engine.app import Stage, table_stage
from streams.engine.table_stage import TableStage
from streams.engine.worker import StageFactory, run_stages
from streams.kafka.client import client_config, producer_config
from streams.settings import Settings
from streams.topics import Topic
from tests.accounting import TableStage as TableStageName
from tests.accounting import outcomes
from tests.waiting import until

Landing = tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes | None]], int]
"""Key, value, headers and partition (-1: the key's own) of a record that a test produces."""

INPUTS: dict[str, tuple[tuple[Topic, ...], str, Topic]] = {
    "normalise": ((topics.RAZORPAY_WEBHOOKS, topics.SUBSCRIPTION_LINKS), "links", topics.NORMALISE_CHANGELOG),
    "classify": ((topics.TEAM_EVENTS,), "teams", topics.CLASSIFY_CHANGELOG),
}


def table(settings: Settings, stage: TableStage, *, accepts_changes: bool = False, clock: Callable[[], float] = time.time) -> StageFactory:
    """Return what runs ``stage`` in the place of the one of its name."""
    sources, name, changelog = INPUTS[stage.name]

    @contextlib.asynccontextmanager
    async def build() -> AsyncIterator[Stage]:
        yield table_stage(settings, stage, name, sources, changelog, accepts_changes=accepts_changes, clock=clock)

    return build


class Run:
    """Stages at work."""

    def __init__(self, task: "asyncio.Task[None]", stages: list[Stage]) -> None:
        self._task = task
        self._stages = stages

    @property
    def partitions(self) -> frozenset[int]:
        """What is assigned to these stages, and restored."""
        return frozenset[int]().union(*(stage.processing.partitions - stage.processing.preparing for stage in self._stages))

    def ready(self, stages: int) -> bool:
        """Whether so many stages have been assigned partitions, and have restored them."""
        return sum(stage.processing.assigned and not stage.processing.preparing for stage in self._stages) == stages

    async def until(self, condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
        """Return once ``condition`` holds; fail at once when the stages stop before it does."""
        await until(lambda: self._task.done() or condition(), what, seconds)
        if self._task.done():
            self._task.result()
            raise AssertionError(f"the stages stopped before {what}")

    async def decided(self, settings: Settings, stage: TableStageName, count: int, seconds: float = 60.0) -> None:
        """Return once ``stage`` has decided on ``count`` records in all."""
        await self.until(lambda: sum(outcomes(settings, stage).values()) >= count, f"{count} outcomes of {stage}", seconds)

    def check(self) -> None:
        """Fail at once when the stages have stopped."""
        if self._task.done():
            self._task.result()
            raise AssertionError("the stages stopped")

    async def failure(self, seconds: float = 60.0) -> BaseException | None:
        """Return what the stages stop with."""
        async with asyncio.timeout(seconds):
            await asyncio.wait({self._task})
        return self._task.exception()


@contextlib.asynccontextmanager
async def running(settings: Settings, *factories: StageFactory) -> AsyncIterator[Run]:
    """Run stages until the end of the block."""
    stop, stages = asyncio.Event(), list[Stage]()
    task = asyncio.create_task(run_stages(settings, [_noting(factory, stages) for factory in factories], stop))
    try:
        yield Run(task, stages)
    finally:
        stop.set()
        await asyncio.wait({task})


def _noting(factory: StageFactory, stages: list[Stage]) -> StageFactory:
    @contextlib.asynccontextmanager
    async def build() -> AsyncIterator[Stage]:
        async with factory() as stage:
            stages.append(stage)
            yield stage

    return build


def land(settings: Settings, topic: str, records: Iterable[Landing], *, transactional_id: str | None = None, commit: bool = True) -> None:
    """Produce records of any size, in their order; with a ``transactional_id`` as one transaction, which is aborted unless ``commit``."""
    config = {**producer_config(settings), "message.max.bytes": 100_000_000}
    producer = Producer({**config, "transactional.id": transactional_id} if transactional_id else config)
    if transactional_id:
        producer.init_transactions(30)
        producer.begin_transaction()
    for key, value, headers, partition in records:
        producer.produce(settings.topic_prefix + topic, value=value, key=key, headers=list(headers), partition=partition)
    assert producer.flush(30) == 0
    if transactional_id and commit:
        producer.commit_transaction(30)
    elif transactional_id:
        producer.abort_transaction(30)


def committed(settings: Settings, stage: str, topic: str) -> dict[int, int]:
    """Return the stage's committed offset on each partition of ``topic``; 0 where there is none."""
    consumer = Consumer({**client_config(settings), "group.id": topics.group_id(settings, stage)})
    wanted = [TopicPartition(settings.topic_prefix + topic, number) for number in range(settings.partitions)]
    deadline = time.monotonic() + 30
    try:
        while True:
            try:
                found = consumer.committed(wanted, timeout=30)
            except KafkaException as error:
                if not error.args[0].retriable() or time.monotonic() > deadline:
                    raise  # a new group's coordinator is not there at once
            else:
                return {partition.partition: max(partition.offset, 0) for partition in found}
    finally:
        consumer.close()
