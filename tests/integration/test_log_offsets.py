"""Where partitions begin and end, and what it costs to ask while a broker is dead."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from streams.embedded.kafka import EmbeddedKafka
from streams.embedded.kafka_cluster import cluster
from streams.engine.takeover import Broker
from streams.errors import KafkaUnavailable
from streams.kafka.log_offsets import LogOffsets
from streams.kafka.topic_watch import TopicWatch
from streams.settings import Settings
from streams.topics import DEAD_LETTERS
from tests.waiting import answered

TOPIC, CHANGELOG, PARTITIONS = "dead.letters", "tierstream.changelog", 4
ALL = [(TOPIC, number) for number in range(PARTITIONS)]
ASKING_SECONDS = 6.0
MOST_OF_A_CORE = 0.2


async def with_topic(brokers: list[EmbeddedKafka]) -> Settings:
    """Start the brokers, and make the topics on all of them."""
    await asyncio.gather(*(broker.start() for broker in brokers))
    settings = Settings(kafka_bootstrap_servers=",".join(broker.bootstrap_servers for broker in brokers), partitions=PARTITIONS)
    admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap_servers})
    for created in admin.create_topics([NewTopic(name, PARTITIONS, len(brokers)) for name in (TOPIC, CHANGELOG)]).values():
        await asyncio.to_thread(created.result, 20)
    return settings


@pytest.fixture
async def brokers(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[list[EmbeddedKafka]]:
    several = cluster(tmp_path, request.param)
    yield several
    await asyncio.gather(*(broker.stop() for broker in several))


def produced(settings: Settings, records: int, *, commit: bool) -> Producer:
    """Produce records to partition 1 in a transaction; return its producer."""
    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap_servers, "transactional.id": f"of {records}"})
    producer.init_transactions(20)
    producer.begin_transaction()
    for _ in range(records):
        producer.produce(TOPIC, b"x", partition=1)
    producer.flush(20)
    if commit:
        producer.commit_transaction(20)
    return producer


@pytest.mark.parametrize("brokers", [1], indirect=True)
async def test_an_end_of_committed_records_is_where_the_first_open_transaction_begins(brokers: list[EmbeddedKafka]) -> None:
    settings = await with_topic(brokers)
    await asyncio.to_thread(produced, settings, 3, commit=True)
    still_open = await asyncio.to_thread(produced, settings, 2, commit=False)

    def look(committed: bool) -> tuple[int, int, int]:
        logs = LogOffsets(settings, "any", committed=committed)
        try:
            ends = logs.ends(ALL, 20)
            return logs.begins(ALL, 20)[TOPIC, 1], ends[TOPIC, 1], ends[TOPIC, 0]
        finally:
            logs.close()

    assert await asyncio.to_thread(look, True) == (0, 4, 0)  # three records and their transaction's marker
    assert await asyncio.to_thread(look, False) == (0, 6, 0)
    await asyncio.to_thread(still_open.abort_transaction, 20)


def asked_all_the_time(ask: Callable[[], object]) -> tuple[float, int]:
    """Ask again and again for a while; return how much of a core it took, and how often there was an answer."""
    began, used, answers = time.monotonic(), time.process_time(), 0
    while time.monotonic() - began < ASKING_SECONDS:
        with suppress(KafkaException, KafkaUnavailable):
            ask()
            answers += 1
        time.sleep(0.2)
    return (time.process_time() - used) / (time.monotonic() - began), answers


@pytest.mark.parametrize("brokers", [1, 3], indirect=True)
async def test_asking_while_a_broker_refuses_connections_takes_no_core(brokers: list[EmbeddedKafka]) -> None:
    settings = await with_topic(brokers)
    logs, watch = LogOffsets(settings, "any", committed=True), TopicWatch(settings, "classify", [DEAD_LETTERS])
    broker = Broker(settings, "any", CHANGELOG, [TOPIC])
    asking: dict[str, Callable[[], object]] = {
        "ends": lambda: logs.ends(ALL, 3),
        "topics": lambda: watch.look(3),
        "topic ids": broker.topic_ids,
    }

    async def answer(ask: Callable[[], object]) -> bool | None:
        with suppress(KafkaException, KafkaUnavailable):
            await asyncio.to_thread(ask)
            return True
        return None

    for ask in asking.values():
        await answered(lambda ask=ask: answer(ask), lambda: "an answer", 30)  # type: ignore[misc]
    brokers[-1].kill()
    await brokers[-1].wait()

    found = {name: await asyncio.to_thread(asked_all_the_time, ask) for name, ask in asking.items()}

    assert {name: share for name, (share, _) in found.items() if share > MOST_OF_A_CORE} == {}
    if len(brokers) == 3:
        assert {name for name, (_, answers) in found.items() if not answers} <= {"ends"}, "leaders need some seconds to move"
    broker.close()
    logs.close()
