"""Waiting for Kafka at the start, while containers start together."""

import logging

import pytest

from streams.errors import KafkaUnavailable, TopologyError
from streams.kafka import topic_admin
from streams.settings import Settings


class Kafka:
    """Is away for so many calls."""

    def __init__(self, away: int) -> None:
        self.away, self.calls = away, 0
        self.slept: list[float] = []

    def call(self, settings: Settings) -> str:
        self.calls += 1
        if self.calls <= self.away:
            raise KafkaUnavailable("Kafka does not answer at kafka:9092.")
        return "done"


def test_kafka_that_comes_in_time_is_waited_for_and_that_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    kafka = Kafka(away=3)

    with caplog.at_level(logging.WARNING):
        assert topic_admin.once_reachable(Settings(kafka_wait_seconds=60), kafka.call, kafka.slept.append) == "done"

    assert kafka.slept == [topic_admin.RETRY_SECONDS] * 3
    assert [record.getMessage() for record in caplog.records] == ["Waiting up to 60 s for Kafka. Kafka does not answer at kafka:9092."]


def test_kafka_that_is_away_is_an_error_at_once_unless_waiting_is_asked_for() -> None:
    kafka = Kafka(away=1)

    with pytest.raises(KafkaUnavailable):
        topic_admin.once_reachable(Settings(), kafka.call, kafka.slept.append)

    assert (kafka.calls, kafka.slept) == (1, [])


def test_kafka_that_does_not_come_is_an_error_in_the_end() -> None:
    kafka = Kafka(away=1_000_000)

    with pytest.raises(KafkaUnavailable):
        topic_admin.once_reachable(Settings(kafka_wait_seconds=0.05), kafka.call, lambda _: None)

    assert kafka.calls > 1


def test_topics_that_are_wrong_are_not_waited_for() -> None:
    slept: list[float] = []

    def wrong(settings: Settings) -> None:
        raise TopologyError("The topics differ.")

    with pytest.raises(TopologyError):
        topic_admin.once_reachable(Settings(kafka_wait_seconds=60), wrong, slept.append)

    assert slept == []
