"""``topics apply`` and ``topics check`` on a real broker."""

import secrets

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from streams import topics
from streams.errors import TopologyError
from streams.kafka import topic_admin
from streams.kafka.client import client_config
from streams.settings import Settings, load_settings
from streams.topics import TOPICS
from tests.waiting import until

REMEDY = "Run `tierstream topics apply` for what is missing; partitions and cleanup are fixed at birth."


@pytest.fixture
def empty(servers: tuple[str, str]) -> Settings:
    """Settings whose topics do not exist."""
    prefix = f"t{secrets.token_hex(4)}."
    return load_settings(kafka_bootstrap_servers=servers[0], topic_prefix=prefix, partitions=2, replication_factor=1)


async def create(settings: Settings, topic: topics.Topic, partitions: int, **config: str) -> str:
    """Create one topic by other means; return its name once the broker shows it, which is a moment after it is created."""
    admin, name = AdminClient(client_config(settings)), topic.full_name(settings)
    admin.create_topics([NewTopic(name, partitions, 1, config=config)])[name].result(30)
    await until(lambda: name in on_broker(settings), f"{name} on the broker")
    return name


def on_broker(settings: Settings) -> list[str]:
    return [name for name in AdminClient(client_config(settings)).list_topics(timeout=10).topics if name.startswith(settings.topic_prefix)]


def differences(settings: Settings, command: str) -> str:
    with pytest.raises(TopologyError) as refused:
        getattr(topic_admin, command)(settings)
    return str(refused.value)


def test_apply_creates_every_topic_once_and_check_is_then_content(empty: Settings) -> None:
    assert topic_admin.apply(empty) == [topic.full_name(empty) for topic in TOPICS]
    assert topic_admin.apply(empty) == []
    topic_admin.check(empty)


async def test_apply_creates_what_is_missing_beside_what_is_there(empty: Settings) -> None:
    await create(empty, topics.TEAM_EVENTS, partitions=2)

    assert topic_admin.apply(empty) == [topic.full_name(empty) for topic in TOPICS if topic is not topics.TEAM_EVENTS]
    topic_admin.check(empty)


def test_check_of_nothing_names_every_topic_and_what_to_run(empty: Settings) -> None:
    names = ", ".join(topic.full_name(empty) for topic in TOPICS)

    assert differences(empty, "check") == f"The topics differ from the topology: missing: {names}. {REMEDY}"


@pytest.mark.parametrize("command", ["apply", "check"])
async def test_another_number_of_partitions_is_refused_and_nothing_is_created(empty: Settings, command: str) -> None:
    name = await create(empty, topics.TEAM_EVENTS, partitions=3)

    sentence = differences(empty, command)

    assert sentence.startswith(f"The topics differ from the topology: {name} has 3 partitions instead of 2")
    assert sentence.endswith(REMEDY)
    assert on_broker(empty) == [name]


async def test_apply_refuses_a_changelog_that_would_lose_rows_by_age(empty: Settings) -> None:
    name = await create(empty, topics.CLASSIFY_CHANGELOG, partitions=2, **{"cleanup.policy": "delete"})

    sentence = differences(empty, "apply")

    assert f"{name} has cleanup.policy=delete instead of compact" in sentence
