"""aiokafka asks the broker about topics and has none made, in every version of the request that can say so."""

import aiokafka.client
import pytest
from aiokafka.protocol.metadata import MetadataRequest_v4, MetadataRequest_v5

from streams.engine.metadata_requests import AskingRequest, create_no_topics


@pytest.mark.parametrize("version", [MetadataRequest_v4, MetadataRequest_v5])
def test_request_asks_for_its_topics_and_has_none_made(version: type) -> None:
    asked = AskingRequest(["team.events"]).build(version)

    assert (asked.topics, asked.allow_auto_topic_creation) == (["team.events"], False)


def test_clients_of_this_process_ask_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiokafka.client, "MetadataRequest", aiokafka.client.MetadataRequest)

    create_no_topics()
    create_no_topics()

    assert aiokafka.client.MetadataRequest is AskingRequest
