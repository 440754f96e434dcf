"""What each role may do on the brokers, written down by hand beside what is derived from the topology."""

from typing import get_args

import pytest

from streams.kafka.acls import ROLES, STAGES, Acl, Operation, Resource, acls, commands
from streams.settings import Settings, load_settings
from streams.settings.roles import KafkaRole, Role
from streams.topics import TOPICS
from tests.acl_matrix import MAY_READ, MAY_WRITE

each_role = pytest.mark.parametrize("role", ROLES)


def settings(prefix: str = "") -> Settings:
    return load_settings(topic_prefix=prefix)


def names(role: KafkaRole, resource: Resource, operation: Operation) -> set[str]:
    return {acl.name for acl in acls(settings(), role) if acl.resource is resource and operation in acl.operations}


def test_every_process_and_command_that_talks_to_kafka_is_a_role() -> None:
    assert set(ROLES) == set(get_args(Role)) - {"migrate"}


@each_role
def test_role_reads_and_writes_these_topics_and_no_others(role: KafkaRole) -> None:
    assert names(role, Resource.TOPIC, Operation.READ) == MAY_READ[role]
    assert names(role, Resource.TOPIC, Operation.WRITE) == MAY_WRITE[role]


@each_role
def test_only_the_administrator_of_topics_makes_or_alters_them(role: KafkaRole) -> None:
    everything = {topic.name for topic in TOPICS}

    for operation in (Operation.CREATE, Operation.ALTER_CONFIGS):
        assert names(role, Resource.TOPIC, operation) == (everything if role == "topics" else set())


@each_role
def test_role_describes_all_topics_and_the_gateway_only_its_own(role: KafkaRole) -> None:
    described = {acl.name for acl in acls(settings(), role) if acl.resource is Resource.TOPIC}

    assert described == (MAY_WRITE["gateway"] if role == "gateway" else {topic.name for topic in TOPICS})


@each_role
def test_role_joins_its_own_group_alone(role: KafkaRole) -> None:
    assert names(role, Resource.GROUP, Operation.READ) == ({f"tierstream.{role}"} if role in STAGES else set())


def test_transactional_ids_are_those_of_the_stages_with_a_table_and_of_dlq() -> None:
    found = {
        (acl.role, acl.name, acl.is_prefix) for role in ROLES for acl in acls(settings(), role) if acl.resource is Resource.TRANSACTIONAL_ID
    }

    assert found == {
        ("normalise", "tierstream.normalise-", True),
        ("classify", "tierstream.classify-", True),
        ("dlq", "tierstream.dlq", False),
    }


@each_role
def test_every_name_has_the_prefix_of_the_topics_and_nothing_is_named_twice(role: KafkaRole) -> None:
    found = acls(settings("staging."), role)

    assert all(acl.name.startswith("staging.") for acl in found)
    assert len({(acl.resource, acl.name) for acl in found}) == len(found)


def test_no_acl_on_topics_is_one_for_a_prefix() -> None:
    assert not any(acl.is_prefix for role in ROLES for acl in acls(settings(), role) if acl.resource is Resource.TOPIC)


def test_commands_grant_exactly_what_is_listed() -> None:
    granted = [
        Acl("classify", Resource.TOPIC, "team.events", (Operation.READ, Operation.WRITE)),
        Acl("classify", Resource.TOPIC, "tier.current", (Operation.WRITE,)),
        Acl("classify", Resource.TOPIC, "audit.events", (Operation.WRITE,)),
        Acl("classify", Resource.TRANSACTIONAL_ID, "tierstream.classify-", (Operation.WRITE,), is_prefix=True),
    ]

    head = "kafka-acls --bootstrap-server kafka:9093 --command-config admin.properties --add --allow-principal 'User:stage-classify'"
    assert commands(granted, "User:stage-{role}", "kafka:9093") == [
        f"{head} --operation Read --operation Write --topic 'team.events'",
        f"{head} --operation Write --topic 'tier.current' --topic 'audit.events'",
        f"{head} --operation Write --resource-pattern-type prefixed --transactional-id 'tierstream.classify-'",
    ]
