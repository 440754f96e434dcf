"""What a restart finds: rows from a compacted changelog, and positions that do not fit and stop the worker with one sentence."""

import asyncio
import os
import time
from collections import Counter

import orjson
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from agents.classify.stage import ClassifyStage
from streams import topics
from streams.embedded.stack import environment_of
from streams.engine.changelog import Position, TablePartition, encode_position, position_key, restore
from streams.engine.takeover import Broker
from streams.errors import KafkaUnavailable, PositionError
from streams.kafka import topic_admin
from streams.kafka.client import client_config, producer_config
from streams.settings import Settings
from tests.accounting import outcomes, positions
from tests.faults.mutations import MUTATIONS
from tests.forked import tierstream
from tests.integration.test_exactly_once import load
from tests.topic_io import alter_topic, produce, read_all
from tests.waiting import until
from tests.workers import committed, land, running, table

CHANGELOG = "tierstream.classify-teams-changelog"
INPUT = "team.events"


async def work_in(settings: Settings, *batches: list[tuple[bytes, bytes]]) -> None:
    """Run classify, and produce each batch of events when the one before it has been decided on."""
    done = sum(outcomes(settings, "classify").values())
    async with running(settings, table(settings, ClassifyStage(settings))) as run:
        for batch in batches:
            produce(settings, INPUT, batch)
            done += len(batch)
            await run.decided(settings, "classify", done)


def restored(settings: Settings) -> list[TablePartition]:
    """The table as a restart restores it."""
    table_partitions = [TablePartition(number) for number in range(settings.partitions)]
    restore(settings, settings.topic_prefix + CHANGELOG, table_partitions, changelog_ends(settings))
    return table_partitions


def changelog_ends(settings: Settings) -> dict[int, int]:
    """Where the changelog's partitions end, whatever is committed of them; a broker shows a topic a moment before it answers for it."""
    broker = Broker(settings, "any", settings.topic_prefix + CHANGELOG, [])
    deadline = time.monotonic() + 30
    while True:
        try:
            return broker.changelog_ends(range(settings.partitions))
        except KafkaUnavailable:
            assert time.monotonic() < deadline, "the broker does not answer for its new topics"
            time.sleep(0.05)


# Compaction


async def test_restart_from_a_compacted_changelog_finds_the_same_rows_and_goes_on(kafka_settings: Settings) -> None:
    clean_at_once(kafka_settings)
    records = load(events=900, teams=6, seed=11)
    await work_in(kafka_settings, *(records[start : start + 100] for start in range(0, 800, 100)))
    before = restored(kafka_settings)
    assert sum(len(partition.rows) for partition in before) == 6

    await until(lambda: most_copies_of_a_row(kafka_settings) <= 3, "compaction")
    assert restored(kafka_settings) == before

    await work_in(kafka_settings, records[800:])
    assert sum(outcomes(kafka_settings, "classify").values()) == len(read_all(kafka_settings, INPUT)) == 900


def most_copies_of_a_row(settings: Settings) -> int:
    return max(Counter((message.partition(), message.key()) for message in read_all(settings, CHANGELOG)).values())


def clean_at_once(settings: Settings) -> None:
    """Let the broker compact the changelog as soon as it can."""
    properties = {"segment.ms": "50", "min.cleanable.dirty.ratio": "0.0001", "delete.retention.ms": "1", "max.compaction.lag.ms": "50"}
    alter_topic(settings, CHANGELOG, properties)


# Transactions that are not decided


async def test_a_restore_waits_for_an_open_transaction_and_has_what_was_committed_behind_it(kafka_settings: Settings) -> None:
    """KAFKA-10167: the last stable offset lies before both, so an end by what is committed would miss the row."""
    changelog = kafka_settings.topic_prefix + CHANGELOG
    open_one = transaction(kafka_settings, "open")
    open_one.produce(changelog, value=b"never", key=b"a", partition=0)
    assert open_one.flush(30) == 0
    land(kafka_settings, CHANGELOG, [(b"b", b"row", (), 0)], transactional_id=f"{kafka_settings.topic_prefix}committed")
    table, ends = TablePartition(0), changelog_ends(kafka_settings)
    polls = 0

    def on_read(_: int) -> None:
        nonlocal polls
        polls += 1
        if polls == 20:
            assert table.rows == {}
            open_one.abort_transaction(30)

    await asyncio.to_thread(restore, kafka_settings, changelog, [table], ends, 30.0, on_read)

    assert polls > 20
    assert table.rows == {b"b": b"row"}


async def test_with_the_end_by_what_is_committed_the_same_restore_misses_that_row(
    kafka_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Broker, "changelog_ends", Broker.changelog_ends)  # what the mutation replaces comes back after the test
    MUTATIONS["end_by_committed_offset"]()
    changelog = kafka_settings.topic_prefix + CHANGELOG
    open_one = transaction(kafka_settings, "open")
    open_one.produce(changelog, value=b"never", key=b"a", partition=0)
    assert open_one.flush(30) == 0
    land(kafka_settings, CHANGELOG, [(b"b", b"row", (), 0)], transactional_id=f"{kafka_settings.topic_prefix}committed")
    table = TablePartition(0)

    await asyncio.to_thread(restore, kafka_settings, changelog, [table], changelog_ends(kafka_settings))

    assert table.rows == {}
    open_one.abort_transaction(30)


def transaction(settings: Settings, name: str) -> Producer:
    """Return a producer with a transaction begun."""
    producer = Producer({**producer_config(settings), "transactional.id": settings.topic_prefix + name})
    producer.init_transactions(30)
    producer.begin_transaction()
    return producer


# Positions that do not fit


async def test_positions_that_do_not_fit_stop_the_worker_and_the_way_out_that_it_names_leads_out(kafka_settings: Settings) -> None:
    settings = kafka_settings
    await work_in(settings, load(events=120, teams=8, seed=3))
    (topic, number), position = max(positions(settings, "classify").items(), key=lambda item: item[1].next_offset)
    end = position.next_offset
    assert end > 0
    where = f"{topic}, partition {number}"

    commit(settings, TopicPartition(topic, number, end + 1))
    assert f"The table's position {end} for {where}, is behind the {end + 1} that its group has read" in await refusal(settings)
    commit(settings, TopicPartition(topic, number, end))

    commit(settings, TopicPartition(topic, number, end + 1))
    write_position(settings, topic, number, Position(position.topic_id, end + 1))
    assert f"The table's position {end + 1} for {where}, lies beyond the log's end {end}" in await refusal(settings)
    write_position(settings, topic, number, position)
    commit(settings, TopicPartition(topic, number, end))

    of_the_former_changelog = positions(settings, "classify")
    delete_topic(settings, CHANGELOG)
    assert "The table has no position for" in await refusal(settings)
    for (topic, number), position in of_the_former_changelog.items():  # as a worker would that has not noticed yet
        write_position(settings, topic, number, position)
    assert f"{settings.topic_prefix}{CHANGELOG} was deleted and made anew: it does not hold the table's rows" in await refusal(settings)
    delete_topic(settings, CHANGELOG)
    delete_group(settings)
    async with running(settings, table(settings, ClassifyStage(settings))) as run:
        await run.decided(settings, "classify", 120)

    delete_topic(settings, INPUT)
    code, output = await worker_process(settings)
    assert code == 1
    assert output.count("\n") == 1, "one sentence, no traceback"
    assert output.startswith(f"tierstream: {topic}, partition ")
    assert "was deleted and made anew" in output


async def test_offsets_that_went_back_are_reported_and_mended_and_nothing_is_decided_again(
    kafka_settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Kafka shows them when a broker that died has loaded them again, or as somebody sets them."""
    settings, events = kafka_settings, load(events=240, teams=8, seed=3)
    await work_in(settings, events[:120])
    (topic, number), position = max(positions(settings, "classify").items(), key=lambda item: item[1].next_offset)
    commit(settings, TopicPartition(topic, number, 1))

    await work_in(settings, events[120:])

    said = capsys.readouterr().out
    assert "the group's offset is behind the table's position" in said
    assert f"offset=1 partition={number} position={position.next_offset}" in said
    assert sum(outcomes(settings, "classify").values()) == len(events)
    ids = [orjson.loads(message.value() or b"")["id"] for message in read_all(settings, "audit.events")]
    assert len(ids) == len(set(ids)), "no audit event twice"
    assert committed(settings, "classify", INPUT)[number] == positions(settings, "classify")[topic, number].next_offset


async def refusal(settings: Settings) -> str:
    """What classify stops with when it is started now."""
    async with running(settings, table(settings, ClassifyStage(settings))) as run:
        failure = await run.failure()
    assert isinstance(failure, PositionError)
    return str(failure)


async def worker_process(settings: Settings) -> tuple[int, str]:
    """Run classify as a process until it stops by itself; return its exit code and what it says on stderr, but for its log."""
    environment = {**os.environ, **environment_of(settings), "TIERSTREAM_LOG_LEVEL": "error"}
    ended = await asyncio.to_thread(tierstream, "worker", "classify", env=environment)
    return ended.returncode, ended.stderr


def commit(settings: Settings, offset: TopicPartition) -> None:
    """Move an offset of classify's group."""
    consumer = Consumer({**client_config(settings), "group.id": topics.group_id(settings, "classify"), "enable.auto.commit": False})
    try:
        consumer.commit(offsets=[offset], asynchronous=False)
    finally:
        consumer.close()


def write_position(settings: Settings, topic: str, partition: int, position: Position) -> None:
    land(settings, CHANGELOG, [(position_key(topic), encode_position(position), (), partition)])


def delete_topic(settings: Settings, topic: str) -> None:
    """Delete a topic and make it anew."""
    admin, name = AdminClient(client_config(settings)), settings.topic_prefix + topic
    admin.delete_topics([name])[name].result(30)
    deadline = time.monotonic() + 30
    while name not in topic_admin.apply(settings):
        assert time.monotonic() < deadline, f"{name} is still there"


def delete_group(settings: Settings) -> None:
    admin, group = AdminClient(client_config(settings)), topics.group_id(settings, "classify")
    admin.delete_consumer_groups([group])[group].result(30)
