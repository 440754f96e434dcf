"""The topology: what has to hold for every topic, whatever is added to it."""

import re
from collections import Counter

import pytest

from agents.registry import stage_factory
from streams import topics
from streams.settings import Settings, load_settings
from streams.topics import DAY_MS, TOPICS, Topic, group_id

STAGES = ("normalise", "classify", "audit", "forward", "feedback")

every_topic = pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)


def settings(**given: object) -> Settings:
    return load_settings(**given)


def test_topology_has_the_topics_that_other_teams_rely_on() -> None:
    assert {topic.name for topic in TOPICS if not topic.name.endswith("-changelog")} == {
        "razorpay.webhooks",
        "loops.webhooks",
        "subscription.links",
        "team.events",
        "audit.events",
        "forward.retry.30s",
        "forward.retry.5m",
        "forward.retry.1h",
        "tier.current",
        "dead.letters",
    }


def test_topology_names_are_unique_also_where_kafka_takes_dots_for_underscores() -> None:
    metric_names = Counter(topic.name.replace(".", "_") for topic in TOPICS)

    assert set(metric_names.values()) == {1}


@every_topic
def test_topic_name_is_one_that_kafka_takes(topic: Topic) -> None:
    assert re.fullmatch(r"[a-zA-Z0-9._-]{1,200}", topic.name)


@every_topic
def test_topic_has_somebody_who_writes_it_and_somebody_who_reads_it(topic: Topic) -> None:
    assert topic.producers
    assert topic.consumers


@every_topic
def test_topic_is_either_compacted_or_kept_for_a_time_that_a_setting_says(topic: Topic) -> None:
    properties = topic.config(settings())

    assert properties["cleanup.policy"] == topic.cleanup
    if topic.cleanup == "compact":
        assert topic.retention is None
        assert "retention.ms" not in properties, "a table must not lose a row by age"
    else:
        assert topic.retention is not None
        assert int(properties["retention.ms"]) == getattr(settings(), topic.retention) * DAY_MS


@pytest.mark.parametrize(
    ("topic", "days"),
    [
        (topics.RAZORPAY_WEBHOOKS, 30),
        (topics.LOOPS_WEBHOOKS, 30),
        (topics.TEAM_EVENTS, 400),
        (topics.AUDIT_EVENTS, 30),
        (topics.DEAD_LETTERS, 90),
    ],
    ids=lambda value: value.name if isinstance(value, Topic) else "",
)
def test_topic_is_kept_for_so_many_days_by_default(topic: Topic, days: int) -> None:
    assert topic.config(settings())["retention.ms"] == str(days * 86_400_000)


@every_topic
def test_topic_whose_timestamps_are_receipts_has_them_from_the_broker(topic: Topic) -> None:
    decided_on = {topics.RAZORPAY_WEBHOOKS, topics.SUBSCRIPTION_LINKS, topics.TEAM_EVENTS}

    assert topic.config(settings()).get("message.timestamp.type") == ("LogAppendTime" if topic in decided_on else None)


def test_topic_retention_follows_its_setting() -> None:
    assert topics.AUDIT_EVENTS.config(settings(retention_audit_events_days=2))["retention.ms"] == "172800000"


@pytest.mark.parametrize(
    ("given", "in_sync"),
    [
        ({"replication_factor": 1}, "1"),
        ({"replication_factor": 2}, "2"),
        ({"replication_factor": 3}, "2"),
        ({"replication_factor": 3, "min_insync_replicas": 1}, "1"),
        ({"replication_factor": 3, "min_insync_replicas": 3}, "3"),
    ],
)
@every_topic
def test_topic_in_sync_replicas_are_two_or_what_is_set_or_all_there_are(topic: Topic, given: dict[str, object], in_sync: str) -> None:
    assert topic.config(settings(**given))["min.insync.replicas"] == in_sync


@every_topic
def test_topic_takes_a_record_with_room_for_what_a_stage_adds_to_the_largest_request(topic: Topic) -> None:
    largest_request = 1_048_576

    assert int(topic.config(settings())["max.message.bytes"]) >= 2 * largest_request


@pytest.mark.parametrize("topic", [topic for topic in TOPICS if topic.name.endswith("-changelog")], ids=lambda topic: topic.name)
def test_changelog_is_compacted_and_belongs_to_the_one_stage_that_its_name_says(topic: Topic) -> None:
    assert topic.cleanup == "compact"
    assert topic.producers == topic.consumers
    (stage,) = topic.producers
    assert topic.name.startswith(f"{group_id(settings(), stage)}-")


@every_topic
def test_topic_prefix_stands_before_its_name_on_the_broker(topic: Topic) -> None:
    assert topic.full_name(settings(topic_prefix="staging.")) == f"staging.{topic.name}"


def test_on_broker_lists_every_topic_once() -> None:
    names = [name for name, _ in topics.on_broker(settings(topic_prefix="p."))]

    assert names == [f"p.{topic.name}" for topic in TOPICS]


def test_group_of_each_stage_is_its_own_and_has_the_prefix() -> None:
    groups = [group_id(settings(topic_prefix="staging."), stage) for stage in STAGES]

    assert groups == [
        "staging.tierstream.normalise",
        "staging.tierstream.classify",
        "staging.tierstream.audit",
        "staging.tierstream.forward",
        "staging.tierstream.feedback",
    ]


@pytest.mark.parametrize("stage", STAGES)
async def test_stage_reads_the_topics_that_the_topology_gives_it(stage: str) -> None:
    given = settings(
        kafka_bootstrap_servers="127.0.0.1:1",
        postgres_dsn="postgresql://127.0.0.1:1/none",
        plans="examples/plans.toml",
        loops_api_key="key",
        topic_prefix="p.",
    )
    changelogs = {topics.NORMALISE_CHANGELOG, topics.CLASSIFY_CHANGELOG}

    async with stage_factory(given, stage)() as built:
        read = set(built.sources)

    assert read == {topic.full_name(given) for topic in TOPICS if stage in topic.consumers and topic not in changelogs}
    assert built.app.conf.id == group_id(given, stage)
