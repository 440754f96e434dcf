"""``topics apply`` and ``topics check`` on a real broker."""

import json
import secrets

import pytest
from confluent_kafka.admin import AdminClient, NewTopic
from typer.testing import CliRunner

from streams import topics
from streams.cli import app
from streams.errors import TopologyError
from streams.kafka import topic_admin
from streams.kafka.client import client_config
from streams.settings import Settings, load_settings
from streams.topics import DAY_MS, TOPICS
from tests.topic_io import alter_topic
from tests.waiting import until

REMEDY = "Run `tierstream topics apply` for what is missing."
FIXED = 'Partitions and cleanup are fixed at birth: "When a topic was changed" in docs/deployment.md says what to do.'
ALTER = "`tierstream topics apply --alter` alters what it can without deleting anything."


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
    await create(empty, topics.TEAM_EVENTS, partitions=2, **topics.TEAM_EVENTS.config(empty))

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
    assert sentence.endswith(FIXED)
    assert on_broker(empty) == [name]


async def test_apply_refuses_a_changelog_that_would_lose_rows_by_age(empty: Settings) -> None:
    name = await create(empty, topics.CLASSIFY_CHANGELOG, partitions=2, **{"cleanup.policy": "delete"})

    sentence = differences(empty, "apply")

    assert f"{name} has cleanup.policy=delete instead of compact" in sentence


def test_check_names_each_property_that_differs_and_alter_sets_those_that_delete_nothing(empty: Settings) -> None:
    topic_admin.apply(empty)
    name = topics.TEAM_EVENTS.full_name(empty)
    of_long_retention = topics.AUDIT_EVENTS.full_name(empty)
    alter_topic(empty, "team.events", {"retention.ms": "3600000", "retention.bytes": "5000", "max.message.bytes": "2000"})
    alter_topic(empty, "audit.events", {"retention.ms": str(900 * DAY_MS)})
    stricter = empty.model_copy(update={"min_insync_replicas": 2, "replication_factor": 2})

    sentence = differences(stricter, "check")
    for phrase in (
        f"{name} has retention.ms=3600000 instead of {400 * DAY_MS}",
        f"{name} has retention.bytes=5000 instead of -1",
        f"{name} has max.message.bytes=2000 instead of 4194304",
        f"{name} has min.insync.replicas=1 instead of 2",
        f"{name} has 1 copies instead of 2",
        f"{of_long_retention} has retention.ms={900 * DAY_MS} instead of {30 * DAY_MS}",
        ALTER,
        "set TIERSTREAM_RETENTION_AUDIT_EVENTS_DAYS",
        "kafka-reassign-partitions",
    ):
        assert phrase in sentence

    assert topic_admin.apply(empty) == []
    altered = {(each.topic, each.name) for each in topic_admin.alter(empty)}
    assert altered == {(name, "retention.ms"), (name, "retention.bytes"), (name, "max.message.bytes")}
    left = differences(empty, "check")
    assert left.startswith(
        f"The topics differ from the topology: {of_long_retention} has retention.ms={900 * DAY_MS} instead of {30 * DAY_MS}. A"
    )
    assert topic_admin.alter(empty) == []


def test_alter_never_touches_partitions_nor_the_cleanup_policy(empty: Settings) -> None:
    topic_admin.apply(empty)
    alter_topic(empty, "razorpay.webhooks", {"cleanup.policy": "compact"})

    assert topic_admin.alter(empty.model_copy(update={"partitions": 3})) == []
    assert "razorpay.webhooks has cleanup.policy=compact instead of delete" in differences(empty, "check")


@pytest.mark.parametrize("as_json", [False, True])
def test_commands_say_what_differs_and_exit_1_until_it_is_mended(empty: Settings, as_json: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def tierstream(*arguments: str) -> tuple[int, str, str]:
        done = CliRunner().invoke(app, ["topics", *arguments, *(["--json"] if as_json else [])])
        return done.exit_code, done.stdout, done.stderr + (str(done.exception) if isinstance(done.exception, TopologyError) else "")

    for variable in ("kafka_bootstrap_servers", "topic_prefix", "partitions", "replication_factor"):
        monkeypatch.setenv(f"TIERSTREAM_{variable.upper()}", str(getattr(empty, variable)))
    name = topics.TEAM_EVENTS.full_name(empty)
    assert tierstream("apply")[0] == 0
    assert tierstream("check")[0] == 0

    alter_topic(empty, "team.events", {"max.message.bytes": "2000"})
    code, out, err = tierstream("check")
    assert code == 1
    assert ("2000" in out) is as_json
    assert (f"{name} has max.message.bytes=2000 instead of 4194304" in err) is not as_json

    code, out, err = tierstream("apply")
    assert code == 0
    assert f"Left as they are: {name} has max.message.bytes=2000 instead of 4194304. {ALTER}" in err

    code, out, err = tierstream("apply", "--alter")
    assert (code, err) == (0, "")
    if as_json:
        change = {"topic": name, "property": "max.message.bytes", "is": "2000", "should_be": "4194304"}
        assert json.loads(out) == {"created": [], "altered": [change], "differences": []}
    else:
        assert out == f"set max.message.bytes=4194304 of {name}, which was 2000\n"
    assert tierstream("check")[0] == 0

    alter_topic(empty, "team.events", {"retention.ms": "-1"})
    code, out, err = tierstream("apply", "--alter")
    assert code == 1
    assert "A shorter retention deletes records: set TIERSTREAM_RETENTION_TEAM_EVENTS_DAYS" in err
