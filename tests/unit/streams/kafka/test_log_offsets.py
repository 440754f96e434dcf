"""What is asked of which broker, and what is not asked at all. Against real brokers: ``integration/test_log_offsets.py``."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, TopicPartition

from streams.kafka import log_offsets
from streams.kafka.log_offsets import LogOffsets, look_around
from streams.settings import Settings


class Client:
    """A consumer on a cluster of brokers 1 and 2, which lead as ``leaders`` says."""

    def __init__(self, *leaders: int, error: int | None = None) -> None:
        self.leaders, self.error, self.asked = leaders, error, list[tuple[int, int]]()

    def list_topics(self, topic: str, timeout: float) -> Any:
        partitions = {number: SimpleNamespace(leader=leader) for number, leader in enumerate(self.leaders)}
        return SimpleNamespace(brokers={1: None, 2: None}, topics={topic: SimpleNamespace(partitions=partitions)})

    def offsets_for_times(self, wanted: list[TopicPartition], timeout: float) -> list[Any]:
        self.asked += [(partition.partition, partition.offset) for partition in wanted]
        error = None if self.error is None else KafkaError(self.error)
        return [SimpleNamespace(topic=each.topic, partition=each.partition, offset=7 + each.partition, error=error) for each in wanted]


@pytest.mark.parametrize("leaders", [(1, 3), (1, -1)])
def test_partition_without_a_leader_that_is_there_is_named(leaders: tuple[int, ...]) -> None:
    with pytest.raises(KafkaException, match=r"audit\.events, partition 1, has no leader"):
        look_around(cast(Consumer, Client(*leaders)), ["audit.events"], 1)


def offsets_of(client: Client, monkeypatch: pytest.MonkeyPatch) -> LogOffsets:
    monkeypatch.setattr(log_offsets, "Consumer", lambda config: client)
    return LogOffsets(Settings(), "any", committed=True)


def test_ends_are_those_of_the_partitions_that_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(1, 2)

    found = offsets_of(client, monkeypatch).ends([("audit.events", 0), ("audit.events", 1)], 1)

    assert found == {("audit.events", 0): 7, ("audit.events", 1): 8}
    assert client.asked == [(0, OFFSET_END), (1, OFFSET_END)]


def test_nothing_is_asked_of_a_leader_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(1, 3)

    with pytest.raises(KafkaException):
        offsets_of(client, monkeypatch).ends([("audit.events", 0)], 1)

    assert client.asked == []


def test_partition_that_is_not_answered_for_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(1, error=KafkaError.NOT_LEADER_FOR_PARTITION)

    with pytest.raises(KafkaException):
        offsets_of(client, monkeypatch).begins([("audit.events", 0)], 1)
