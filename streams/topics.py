"""The topology: every topic with its key, value, partitions, retention, producers and consumers. The only such place.

``tierstream topics apply|check``, the stages, the documents and a test all read ``TOPICS``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from streams.settings import Settings

Cleanup = Literal["delete", "compact"]

DAY_MS = 86_400_000


MAX_RECORD_BYTES = 4_194_304
"""``max.message.bytes`` of our topics. A request body is at most 1 MiB and what a stage derives from a record is little larger
than the record, so every derived record, and every dead letter with its added headers, fits with room to spare."""


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic. ``retention`` names the setting with its days; None keeps records for ever (compacted topics).

    ``received`` says that a record's timestamp counts as its receipt. Then the broker sets it: producers that are not ours set it to anything.
    """

    name: str
    key: str
    value: str
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    cleanup: Cleanup = "delete"
    retention: str | None = None
    received: bool = False

    @property
    def is_changelog(self) -> bool:
        """Whether it holds a stage's table: that stage alone writes and reads it."""
        return self.cleanup == "compact" and self.producers == self.consumers

    def full_name(self, settings: Settings) -> str:
        """The name on the broker."""
        return settings.topic_prefix + self.name

    def config(self, settings: Settings) -> dict[str, str]:
        """The topic's configuration on the broker, as Kafka's topic properties."""
        in_sync = settings.min_insync_replicas or min(2, settings.replication_factor)
        properties = {"cleanup.policy": self.cleanup, "min.insync.replicas": str(in_sync), "max.message.bytes": str(MAX_RECORD_BYTES)}
        if self.retention is not None:
            properties["retention.ms"] = str(getattr(settings, self.retention) * DAY_MS)
            properties["retention.bytes"] = "-1"  # by age alone: a broker's default size would delete what nobody has read yet
        if self.received:
            properties["message.timestamp.type"] = "LogAppendTime"
        return properties


RAZORPAY_WEBHOOKS = Topic(
    "razorpay.webhooks",
    "subscription id, else event id",
    "Razorpay's raw bytes",
    ("gateway",),
    ("normalise",),
    retention="retention_razorpay_webhooks_days",
    received=True,
)
LOOPS_WEBHOOKS = Topic(
    "loops.webhooks", "webhook id", "Loops' raw bytes", ("gateway",), ("feedback",), retention="retention_loops_webhooks_days"
)
SUBSCRIPTION_LINKS = Topic(
    "subscription.links",
    "subscription id",
    "Envelope[SubscriptionLink]",
    ("import-tiers",),
    ("normalise",),
    cleanup="compact",
    received=True,
)
TEAM_EVENTS = Topic(
    "team.events",
    "team id",
    "Envelope[SubscriptionFact | service kinds]",
    ("gateway", "normalise", "classify", "services", "import-tiers"),
    ("classify",),
    retention="retention_team_events_days",
    received=True,
)
AUDIT_EVENTS = Topic(
    "audit.events",
    "team id",
    "Envelope[AuditData]",
    ("classify", "normalise"),
    ("audit", "forward", "other teams"),
    retention="retention_audit_events_days",
)
_RETRY_READERS = ("forward",)
FORWARD_RETRY_30S = Topic(
    "forward.retry.30s", "team id", "as on audit.events", _RETRY_READERS, _RETRY_READERS, retention="retention_forward_retry_days"
)
FORWARD_RETRY_5M = Topic(
    "forward.retry.5m", "team id", "as on audit.events", _RETRY_READERS, _RETRY_READERS, retention="retention_forward_retry_days"
)
FORWARD_RETRY_1H = Topic(
    "forward.retry.1h", "team id", "as on audit.events", _RETRY_READERS, _RETRY_READERS, retention="retention_forward_retry_days"
)
TIER_CURRENT = Topic("tier.current", "team id", "Envelope[TierCurrent]", ("classify",), ("other teams",), cleanup="compact")
DEAD_LETTERS = Topic("dead.letters", "as it was", "as it was", ("every stage",), ("operators",), retention="retention_dead_letters_days")
NORMALISE_CHANGELOG = Topic(
    "tierstream.normalise-links-changelog", "subscription id", "packed row", ("normalise",), ("normalise",), cleanup="compact"
)
CLASSIFY_CHANGELOG = Topic("tierstream.classify-teams-changelog", "team id", "packed row", ("classify",), ("classify",), cleanup="compact")

TOPICS: tuple[Topic, ...] = (
    RAZORPAY_WEBHOOKS,
    SUBSCRIPTION_LINKS,
    TEAM_EVENTS,
    AUDIT_EVENTS,
    FORWARD_RETRY_30S,
    FORWARD_RETRY_5M,
    FORWARD_RETRY_1H,
    TIER_CURRENT,
    DEAD_LETTERS,
    LOOPS_WEBHOOKS,
    NORMALISE_CHANGELOG,
    CLASSIFY_CHANGELOG,
)


OPERATORS_TRANSACTIONAL_ID = "tierstream.dlq"
"""One for all operators (behind the topics' prefix): whoever comes later takes over, and the one before writes nothing more."""


def group_id(settings: Settings, stage: str) -> str:
    """The consumer group of a stage, which is also its Faust app's id."""
    return f"{settings.topic_prefix}tierstream.{stage}"


def reader_group(settings: Settings) -> str:
    """The group id under which commands read topics. librdkafka asks for one; nothing joins or commits, so no such group ever exists."""
    return f"{settings.topic_prefix}tierstream.reader"


def restore_group(changelog: str) -> str:
    """The same for a stage that restores its table from ``changelog`` (full name)."""
    return f"{changelog}-restore"


def changelog_of(role: str) -> Topic | None:
    """The changelog of a stage's table; None for a role without one."""
    return next((topic for topic in TOPICS if topic.is_changelog and topic.producers == (role,)), None)


def topics_of(role: str) -> tuple[Topic, ...]:
    """The topics that a stage, or the gateway, reads or writes. Every stage and the gateway may write dead letters."""
    return tuple(topic for topic in TOPICS if role in (*topic.producers, *topic.consumers) or topic is DEAD_LETTERS)


def on_broker(settings: Settings) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield name and configuration of every topic as it should be on the broker."""
    for topic in TOPICS:
        yield topic.full_name(settings), topic.config(settings)
