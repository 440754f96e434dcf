"""Reading topics as they stand: all of them, committed records only, and nobody's group is touched."""

import contextlib
import secrets

import pytest
from confluent_kafka import Producer

from streams.errors import KafkaUnavailable
from streams.kafka.client import producer_config
from streams.kafka.log_reader import LogReader, committed_offsets
from streams.kafka.partitioner import partition_of
from streams.settings import Settings
from streams.topics import AUDIT_EVENTS, TEAM_EVENTS, TIER_CURRENT
from tests.topic_io import produce


def test_log_reader_reads_every_topic_to_its_end_in_the_order_of_each_partition(kafka_settings: Settings) -> None:
    team, tier = TEAM_EVENTS.full_name(kafka_settings), TIER_CURRENT.full_name(kafka_settings)
    produce(kafka_settings, TEAM_EVENTS.name, [(b"a", b"%d" % number) for number in range(1_500)])
    produce(kafka_settings, TIER_CURRENT.name, [(b"b", b"pro"), (b"b", None)])

    with contextlib.closing(LogReader(kafka_settings, [team, tier])) as reader:
        records = reader.read_to_end()

    assert [record.value for record in records if record.topic == team] == [b"%d" % number for number in range(1_500)]
    assert [(record.key, record.value, record.offset) for record in records if record.topic == tier] == [(b"b", b"pro", 0), (b"b", None, 1)]
    assert {record.partition for record in records if record.topic == team} == {partition_of(b"a", kafka_settings.partitions)}


def test_log_reader_reads_on_behind_the_end(kafka_settings: Settings) -> None:
    with contextlib.closing(LogReader(kafka_settings, [TEAM_EVENTS.full_name(kafka_settings)])) as reader:
        assert reader.read_to_end() == []
        produce(kafka_settings, TEAM_EVENTS.name, [(b"a", b"1")])

        records = reader.read(10)
        while not records:  # the partitions' ends are reported first
            records = reader.read(10)

    assert [record.value for record in records] == [b"1"]


def test_log_reader_leaves_out_what_was_not_committed(kafka_settings: Settings) -> None:
    topic = TEAM_EVENTS.full_name(kafka_settings)
    producer = Producer({**producer_config(kafka_settings), "transactional.id": secrets.token_hex(8)})
    producer.init_transactions(30)
    for value, finish in ((b"committed", producer.commit_transaction), (b"aborted", producer.abort_transaction)):
        producer.begin_transaction()
        producer.produce(topic, key=b"a", value=value, headers=[("content-type", b"text/plain")])
        finish(30)

    with contextlib.closing(LogReader(kafka_settings, [topic])) as reader:
        (record,) = reader.read_to_end()

    assert (record.value, list(record.headers)) == (b"committed", [("content-type", b"text/plain")])
    assert record.timestamp > 0


def test_log_reader_of_a_topic_that_is_not_there_says_so(kafka_settings: Settings) -> None:
    with pytest.raises(KafkaUnavailable, match="Unknown topic"):
        LogReader(kafka_settings, [kafka_settings.topic_prefix + "nowhere"])


def test_committed_offsets_of_a_group_that_has_read_nothing_are_absent(kafka_settings: Settings) -> None:
    assert committed_offsets(kafka_settings, f"{kafka_settings.topic_prefix}nobody", AUDIT_EVENTS.full_name(kafka_settings)) == {}
