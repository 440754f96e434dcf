"""The topology: every topic with its key, value, partitions, retention, producers and consumers. The only such place.

``tierstream topics apply|check``, the stages, the documents and a test all read ``TOPICS``.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic

from streams.errors import KafkaUnavailable, TopologyError
from streams.settings import Settings
from streams.transport.client import client_config

Cleanup = Literal["delete", "compact"]

DAY_MS = 86_400_000

_SHOWN_SECONDS = 30.0

MAX_RECORD_BYTES = 4_194_304
"""``max.message.bytes`` of our topics. A request body is at most 1 MiB and what a stage derives from a record is little larger
than the record, so every derived record, and every dead letter with its added headers, fits with room to spare."""


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic. ``retention`` names the setting with its days; None keeps records for ever (compacted topics)."""

    name: str
    key: str
    value: str
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    cleanup: Cleanup = "delete"
    retention: str | None = None

    def full_name(self, settings: Settings) -> str:
        """The name on the broker."""
        return settings.topic_prefix + self.name

    def config(self, settings: Settings) -> dict[str, str]:
        """The topic's configuration on the broker, as Kafka's topic properties."""
        in_sync = settings.min_insync_replicas or min(2, settings.replication_factor)
        properties = {"cleanup.policy": self.cleanup, "min.insync.replicas": str(in_sync), "max.message.bytes": str(MAX_RECORD_BYTES)}
        if self.retention is not None:
            properties["retention.ms"] = str(getattr(settings, self.retention) * DAY_MS)
        return properties


RAZORPAY_WEBHOOKS = Topic(
    "razorpay.webhooks",
    "subscription id, else event id",
    "Razorpay's raw bytes",
    ("gateway",),
    ("normalise",),
    retention="retention_razorpay_webhooks_days",
)
LOOPS_WEBHOOKS = Topic(
    "loops.webhooks", "webhook id", "Loops' raw bytes", ("gateway",), ("feedback",), retention="retention_loops_webhooks_days"
)
SUBSCRIPTION_LINKS = Topic(
    "subscription.links", "subscription id", "Envelope[SubscriptionLink]", ("import-tiers",), ("normalise",), cleanup="compact"
)
TEAM_EVENTS = Topic(
    "team.events",
    "team id",
    "Envelope[SubscriptionFact | service kinds]",
    ("gateway", "normalise", "services"),
    ("classify",),
    retention="retention_team_events_days",
)
AUDIT_EVENTS = Topic(
    "audit.events",
    "team id",
    "Envelope[AuditData]",
    ("classify", "normalise"),
    ("audit", "forward", "other teams"),
    retention="retention_audit_events_days",
)
TIER_CURRENT = Topic("tier.current", "team id", "Envelope[TierCurrent]", ("classify",), ("other teams",), cleanup="compact")
DEAD_LETTERS = Topic("dead.letters", "as it was", "as it was", ("every stage",), ("operators",), retention="retention_dead_letters_days")
NORMALISE_CHANGELOG = Topic(
    "tierstream.normalise-links-changelog", "subscription id", "team id", ("normalise",), ("normalise",), cleanup="compact"
)
CLASSIFY_CHANGELOG = Topic(
    "tierstream.classify-teams-changelog", "team id", "packed registers", ("classify",), ("classify",), cleanup="compact"
)

TOPICS: tuple[Topic, ...] = (
    RAZORPAY_WEBHOOKS,
    SUBSCRIPTION_LINKS,
    TEAM_EVENTS,
    AUDIT_EVENTS,
    TIER_CURRENT,
    DEAD_LETTERS,
    LOOPS_WEBHOOKS,
    NORMALISE_CHANGELOG,
    CLASSIFY_CHANGELOG,
)


def group_id(settings: Settings, stage: str) -> str:
    """The consumer group of a stage, which is also its Faust app's id."""
    return f"{settings.topic_prefix}tierstream.{stage}"


def on_broker(settings: Settings) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield name and configuration of every topic as it should be on the broker."""
    for topic in TOPICS:
        yield topic.full_name(settings), topic.config(settings)


def apply(settings: Settings) -> list[str]:
    """Create the topics that are missing and return their names once the broker shows them. Idempotent; two at once do no harm.

    Raises TopologyError when a topic that exists has another number of partitions or another cleanup policy (keys and state
    depend on both, so neither is changed), KafkaUnavailable.
    """
    admin = _admin(settings)
    missing, differences = _compare(admin, settings)
    if differences:
        raise TopologyError(_sentence(differences))
    wanted = dict(on_broker(settings))
    new = [NewTopic(name, settings.partitions, settings.replication_factor, config=wanted[name]) for name in missing]
    for name, future in (admin.create_topics(new, operation_timeout=30) if new else {}).items():
        try:
            future.result(30)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise TopologyError(f"The topic {name} can not be created: {error.args[0].str()}.") from error
    _wait_until_shown(admin, settings)
    return missing


def _wait_until_shown(admin: AdminClient, settings: Settings) -> None:
    """Return once the broker shows every topic, which it does a moment after it made one: a stage that starts must find it."""
    deadline = time.monotonic() + _SHOWN_SECONDS
    while missing := _compare(admin, settings)[0]:
        if time.monotonic() > deadline:
            raise KafkaUnavailable(f"Kafka made {', '.join(missing)} but does not show them; run `tierstream topics check` later.")
        time.sleep(0.05)


def check(settings: Settings) -> None:
    """Raise TopologyError when the broker's topics are not those of ``TOPICS``, KafkaUnavailable when it does not answer."""
    missing, differences = _compare(_admin(settings), settings)
    if missing:
        differences = [*differences, f"missing: {', '.join(missing)}"]
    if differences:
        raise TopologyError(_sentence(differences))


def _sentence(differences: list[str]) -> str:
    return f"The topics differ from the topology: {'; '.join(differences)}. Run `tierstream topics apply` for what is missing; partitions and cleanup are fixed at birth."


def _admin(settings: Settings) -> AdminClient:
    return AdminClient({**client_config(settings), "socket.connection.setup.timeout.ms": 5_000}, logger=logging.getLogger("librdkafka"))


def _compare(admin: AdminClient, settings: Settings) -> tuple[list[str], list[str]]:
    """Return the names of missing topics, and a phrase for each difference."""
    try:
        present = admin.list_topics(timeout=5).topics
        wanted = dict(on_broker(settings))
        names = [name for name in wanted if name in present]
        described = (
            admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, name) for name in names], request_timeout=10) if names else {}
        )
        configs = {resource.name: future.result(10) for resource, future in described.items()}
    except KafkaException as error:
        raise KafkaUnavailable(
            f"Kafka does not answer at {settings.kafka_bootstrap_servers}: {error.args[0].str()}. Check TIERSTREAM_KAFKA_BOOTSTRAP_SERVERS."
        ) from error
    differences: list[str] = []
    for name in names:
        partitions = len(present[name].partitions)
        if partitions != settings.partitions:
            differences.append(f"{name} has {partitions} partitions instead of {settings.partitions}")
        cleanup = configs[name]["cleanup.policy"].value
        if cleanup != wanted[name]["cleanup.policy"]:
            differences.append(f"{name} has cleanup.policy={cleanup} instead of {wanted[name]['cleanup.policy']}")
    return [name for name in wanted if name not in present], differences
