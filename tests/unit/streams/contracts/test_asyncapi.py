"""The AsyncAPI document: what it says of the topics, the border and the settings, and that it hangs together. The official parser judges it
in tests/integration/test_asyncapi_parser.py."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft7Validator

from schemas.kinds import RETIRING, SERVICE_KINDS, Kind
from streams.contracts.asyncapi import document
from streams.contracts.messages import messages
from streams.settings import Settings
from streams.topics import TOPICS, Topic

SETTINGS = Settings(topic_prefix="eu.", kafka_bootstrap_servers="kafka-1:9092,kafka-2:9092", partitions=12, replication_factor=2)
DOCUMENT = document(SETTINGS)

shared = pytest.mark.parametrize("topic", [topic for topic in TOPICS if not topic.is_changelog], ids=lambda topic: topic.name)


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for name, value in node.items():
            if name == "$ref":
                yield value
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def resolved(reference: str) -> Any:
    node: Any = DOCUMENT
    for part in reference.removeprefix("#/").split("/"):
        node = node[part]
    return resolved(node["$ref"]) if "$ref" in node else node


@shared
def test_channel_of_each_topic_says_what_the_broker_has(topic: Topic) -> None:
    channel = DOCUMENT["channels"][topic.name]
    kafka, config = channel["bindings"]["kafka"], topic.config(SETTINGS)

    assert channel["address"] == kafka["topic"] == f"eu.{topic.name}"
    assert (kafka["partitions"], kafka["replicas"], kafka["bindingVersion"]) == (12, 2, "0.5.0")
    assert kafka["topicConfiguration"]["cleanup.policy"] == [topic.cleanup]
    assert kafka["topicConfiguration"].get("retention.ms") == (int(config["retention.ms"]) if topic.retention else None)
    assert topic.key in channel["description"]
    assert channel["messages"]


def test_changelogs_are_no_channels() -> None:
    assert set(DOCUMENT["channels"]) == {topic.name for topic in TOPICS if not topic.is_changelog}


def test_operations_are_what_others_receive_and_what_they_may_send() -> None:
    border = {(each["action"], each["channel"]["$ref"]) for each in DOCUMENT["operations"].values()}

    assert border == {
        ("send", "#/channels/audit.events"),
        ("send", "#/channels/tier.current"),
        ("send", "#/channels/dead.letters"),
        ("receive", "#/channels/team.events"),
    }
    assert {name for name, channel in DOCUMENT["channels"].items() if channel["tags"] == [{"name": "public"}]} == {
        reference.rpartition("/")[2] for _, reference in border
    }


def test_services_may_send_their_own_kinds_and_no_fact_of_ours() -> None:
    sent = {resolved(each["$ref"])["name"] for each in DOCUMENT["operations"]["receiveTeamEvents"]["messages"]}

    assert sent == SERVICE_KINDS


def test_others_receive_every_kind_of_audit_event() -> None:
    assert {resolved(each["$ref"])["name"] for each in DOCUMENT["operations"]["sendAuditEvents"]["messages"]} == set(Kind)


def test_every_reference_leads_somewhere() -> None:
    found = list(references(DOCUMENT))

    assert len(found) > 80
    assert all(resolved(each) for each in found)


def test_every_message_stands_in_a_channel_with_its_key_headers_and_a_payload_that_is_a_schema() -> None:
    used = {each["$ref"].rpartition("/")[2] for channel in DOCUMENT["channels"].values() for each in channel["messages"].values()}

    assert used == set(DOCUMENT["components"]["messages"])
    for message in messages():
        described = DOCUMENT["components"]["messages"][message.name]
        Draft7Validator.check_schema(described["payload"])  # what AsyncAPI takes by default
        assert described["payload"] == message.schema
        assert described["headers"]["required"] == ["content-type"]
        assert described["bindings"]["kafka"]["key"]


def test_each_address_is_a_server_and_without_one_there_is_none() -> None:
    assert [server["host"] for server in DOCUMENT["servers"].values()] == ["kafka-1:9092", "kafka-2:9092"]
    assert "servers" not in document(Settings())


def test_a_login_is_named_and_no_secret_of_it() -> None:
    settings = Settings(
        kafka_bootstrap_servers="kafka-1:9093",
        kafka_security_protocol="SASL_SSL",
        kafka_sasl_mechanism="SCRAM-SHA-512",
        kafka_sasl_username="somebody",
        kafka_sasl_password="hidden",
    )
    found = document(settings)

    assert found["servers"]["kafka-1"]["protocol"] == "kafka-secure"
    assert found["components"]["securitySchemes"]["login"]["type"] == "scramSha512"
    assert "hidden" not in json.dumps(found)
    assert "somebody" not in json.dumps(found)


def test_the_same_settings_give_the_same_text() -> None:
    assert json.dumps(document(SETTINGS)) == json.dumps(DOCUMENT)


def test_a_kind_that_retires_is_deprecated_and_says_what_comes_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RETIRING, Kind.EXPERIMENT_CONVERSION, "Ends in June; read experiment.result.")
    messages.cache_clear()
    try:
        found = document(SETTINGS)["components"]["messages"]
    finally:
        monkeypatch.undo()
        messages.cache_clear()

    for name in ("audit.events.experiment.conversion", "team.events.experiment.conversion"):
        assert found[name]["payload"]["deprecated"] is True
        assert "Ends in June" in found[name]["description"]
