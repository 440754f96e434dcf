"""What differs between a topic on the broker and the topology, what follows from it, and what may be altered."""

import pytest

from streams import topics
from streams.kafka.topic_state import Consequence, Difference, TopicState, differences, remedies
from streams.settings import Settings
from streams.topics import DAY_MS, Topic

SETTINGS = Settings(partitions=4, topic_prefix="t.")
LOG, TABLE = topics.TEAM_EVENTS, topics.CLASSIFY_CHANGELOG


def on_broker(topic: Topic, *, partitions: int = 4, copies: int = 3, **properties: str) -> TopicState:
    return TopicState(
        "id", partitions, copies, {**topic.config(SETTINGS), **{name.replace("_", "."): value for name, value in properties.items()}}
    )


@pytest.mark.parametrize("topic", topics.TOPICS)
def test_topic_as_it_is_created_does_not_differ(topic: Topic) -> None:
    assert differences(topic, on_broker(topic), SETTINGS) == []


@pytest.mark.parametrize(
    ("topic", "changes", "phrase", "consequence", "altered"),
    [
        (LOG, {"partitions": 8}, "t.team.events has 8 partitions instead of 4", Consequence.STOPS, False),
        (LOG, {"partitions": 1}, "t.team.events has 1 partitions instead of 4", Consequence.STOPS, False),
        (LOG, {"cleanup_policy": "compact"}, "t.team.events has cleanup.policy=compact instead of delete", Consequence.STOPS, False),
        (TABLE, {"cleanup_policy": "compact,delete"}, "cleanup.policy=compact,delete instead of compact", Consequence.STOPS, False),
        (LOG, {"min_insync_replicas": "1"}, "has min.insync.replicas=1 instead of 2", Consequence.REFUSES, True),
        (LOG, {"min_insync_replicas": "3"}, "has min.insync.replicas=3 instead of 2", Consequence.NAMED, True),
        (LOG, {"min_insync_replicas": "1", "copies": 2}, "has min.insync.replicas=1 instead of 2", Consequence.REFUSES, True),
        (LOG, {"min_insync_replicas": "1", "copies": 1}, "has min.insync.replicas=1 instead of 2", Consequence.NAMED, False),
        (LOG, {"max_message_bytes": "2000"}, "has max.message.bytes=2000 instead of 4194304", Consequence.NAMED, True),
        (LOG, {"max_message_bytes": "9000000"}, "has max.message.bytes=9000000 instead of 4194304", Consequence.NAMED, True),
        (LOG, {"retention_ms": "3600000"}, f"has retention.ms=3600000 instead of {400 * DAY_MS}", Consequence.NAMED, True),
        (LOG, {"retention_ms": str(500 * DAY_MS)}, f"has retention.ms={500 * DAY_MS} instead of", Consequence.NAMED, False),
        (LOG, {"retention_ms": "-1"}, "has retention.ms=-1 instead of", Consequence.NAMED, False),
        (LOG, {"retention_bytes": "1000"}, "has retention.bytes=1000 instead of -1", Consequence.NAMED, True),
        (LOG, {"copies": 2}, "t.team.events has 2 copies instead of 3", Consequence.NAMED, False),
    ],
)
def test_each_property_that_differs_is_named_and_altered_only_where_that_deletes_nothing(
    topic: Topic, changes: dict[str, object], phrase: str, consequence: Consequence, altered: bool
) -> None:
    found = differences(topic, on_broker(topic, **changes), SETTINGS)  # type: ignore[arg-type]  # of the properties and the two numbers

    assert phrase in str(found[0])
    assert (found[0].consequence, found[0].obstacle is None) == (consequence, altered)


def test_least_number_of_copies_that_somebody_has_set_is_meant_also_where_there_are_fewer_copies() -> None:
    strict = SETTINGS.model_copy(update={"min_insync_replicas": 2})
    (found, _) = differences(LOG, on_broker(LOG, min_insync_replicas="1", copies=1), strict)

    assert found.consequence is Consequence.REFUSES


def test_properties_that_may_not_be_described_are_no_difference() -> None:
    assert differences(LOG, TopicState("id", 4, 3, {}), SETTINGS) == []


def test_retention_of_a_compacted_topic_has_no_effect_and_is_not_compared() -> None:
    assert differences(TABLE, on_broker(TABLE, retention_ms="1"), SETTINGS) == []


def test_remedies_name_what_mends_each_difference_and_no_more() -> None:
    def remedy(**changes: object) -> str:
        return remedies(differences(LOG, on_broker(LOG, **changes), SETTINGS))  # type: ignore[arg-type]

    assert remedy() == ""
    assert remedy(max_message_bytes="1") == "`tierstream topics apply --alter` alters what it can without deleting anything."
    assert remedy(retention_ms="-1").startswith("A shorter retention deletes records: set TIERSTREAM_RETENTION_TEAM_EVENTS_DAYS")
    assert "kafka-reassign-partitions" in remedy(copies=1)
    assert remedy(partitions=8).startswith('Partitions and cleanup are fixed at birth: "When a topic was changed" in docs/deployment.md')
    assert remedies([], missing=True) == "Run `tierstream topics apply` for what is missing."


def test_difference_says_what_is_and_what_should_be() -> None:
    assert str(Difference("t", "copies", "1", "3", Consequence.NAMED)) == "t has 1 copies instead of 3"
