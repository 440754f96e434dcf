"""aiokafka's questions about topics, asked so that the broker answers and makes none.

aiokafka has no setting for it: as it asks, a broker with auto.create.topics.enable, which is Kafka's default, makes a topic that was
deleted under a running stage anew, with its own number of partitions.
"""

import aiokafka.client
from aiokafka.protocol.metadata import MetadataRequest


class AskingRequest(MetadataRequest):  # type: ignore[misc]  # aiokafka is untyped
    """A metadata request that makes no topic. Before Kafka 0.11 a request could not say so."""

    def __init__(self, topics: list[str] | None = None) -> None:
        super().__init__(topics, allow_auto_topic_creation=False)


def create_no_topics() -> None:
    """Have the aiokafka clients of this process ask without making topics. To be called before one starts; twice does no harm."""
    aiokafka.client.MetadataRequest = AskingRequest
