"""Searching a log on a real broker: every codec, transactions that were aborted, a log that lost its beginning."""

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from pydantic import SecretStr

from streams.errors import KafkaUnavailable
from streams.kafka.client import client_config
from streams.kafka.log_search import Span, Wanted, search_logs
from streams.kafka.records import Record
from streams.operate.logs import KafkaLogs, Search
from streams.settings import Settings
from streams.topics import TEAM_EVENTS
from tests.workers import land

TOPIC = TEAM_EVENTS.name


def found(settings: Settings, key: bytes) -> list[tuple[int, int, bytes | None]]:
    with KafkaLogs(settings) as logs:
        search = Search(TEAM_EVENTS, range(settings.partitions), {key}, lambda record: record.key == key)
        records: list[Record] = logs.search(search)[TEAM_EVENTS]
    return [(record.partition, record.offset, record.value) for record in records]


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_records_of_a_key_are_found_whatever_the_compression(kafka_settings: Settings, codec: str) -> None:
    name = TEAM_EVENTS.full_name(kafka_settings)
    producer = Producer({**client_config(kafka_settings), "compression.type": codec, "linger.ms": 50})
    for number in range(3_000):
        producer.produce(name, b"%d " % number + b"x" * 200, b"key-%d" % (number % 100), 2, headers=[("h", b"v")])
    assert producer.flush(30) == 0

    records = found(kafka_settings, b"key-42")

    assert records == [(2, number, b"%d " % number + b"x" * 200) for number in range(42, 3_000, 100)]


def test_what_was_aborted_is_not_found_and_what_was_committed_in_transactions_is(kafka_settings: Settings) -> None:
    for number, commit in enumerate((True, False, True, False)):
        land(kafka_settings, TOPIC, [(b"team", b"%d" % number, (), 1)], transactional_id=f"{kafka_settings.topic_prefix}x", commit=commit)
    land(kafka_settings, TOPIC, [(b"team", b"plain", (), 1)])

    assert [value for _, _, value in found(kafka_settings, b"team")] == [b"0", b"2", b"plain"]


def test_log_that_lost_its_beginning_is_searched_from_where_it_begins_and_one_cut_meanwhile_is_reported(kafka_settings: Settings) -> None:
    land(kafka_settings, TOPIC, [(b"team", b"%d" % number, (), 1) for number in range(5)])
    name = TEAM_EVENTS.full_name(kafka_settings)
    admin = AdminClient(client_config(kafka_settings))
    for future in admin.delete_records([TopicPartition(name, 1, 3)]).values():
        future.result(30)

    assert [value for _, _, value in found(kafka_settings, b"team")] == [b"3", b"4"]
    with pytest.raises(KafkaUnavailable, match="offset 0 was deleted by retention while it was read"):
        search_logs(kafka_settings, [Wanted(Span(name, 1, 0, 5), None, lambda record: True)])


def test_broker_that_is_away_is_one_sentence() -> None:
    settings = Settings(kafka_bootstrap_servers="127.0.0.1:1", loops_api_key=SecretStr("x"))

    with pytest.raises(KafkaUnavailable, match=r"Kafka does not answer at 127\.0\.0\.1:1"):
        search_logs(settings, [Wanted(Span("any", 0, 0, 1), None, lambda record: True)], timeout_seconds=2)
