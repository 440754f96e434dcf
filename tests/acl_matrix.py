"""Who may read and write which topic, written down by hand: beside what is derived from the topology, and beside what a broker says."""

from streams.operate.dead_letters.plan import SOURCES
from streams.settings.roles import KafkaRole
from streams.topics import TOPICS

NORMALISE_TABLE, CLASSIFY_TABLE = "tierstream.normalise-links-changelog", "tierstream.classify-teams-changelog"
RETRIES = {"forward.retry.30s", "forward.retry.5m", "forward.retry.1h"}

MAY_READ: dict[KafkaRole, set[str]] = {
    "gateway": set(),
    "normalise": {"razorpay.webhooks", "subscription.links", NORMALISE_TABLE},
    "classify": {"team.events", CLASSIFY_TABLE},
    "audit": {"audit.events"},
    "forward": {"audit.events", *RETRIES},
    "feedback": {"loops.webhooks"},
    "topics": set(),
    "dlq": {"dead.letters"},
    "deliveries": {"audit.events", "dead.letters"},
    "replay": {"razorpay.webhooks", NORMALISE_TABLE, CLASSIFY_TABLE},
    "reconcile": {"razorpay.webhooks", "team.events", NORMALISE_TABLE, CLASSIFY_TABLE},
    "import-tiers": {"subscription.links", "team.events", CLASSIFY_TABLE},
    "explain": {"razorpay.webhooks", "subscription.links", "team.events", "audit.events", "tier.current", "dead.letters"},
    "verify": {topic.name for topic in TOPICS} - RETRIES - {"loops.webhooks"},
}
MAY_WRITE: dict[KafkaRole, set[str]] = {
    "gateway": {"razorpay.webhooks", "loops.webhooks", "team.events", "dead.letters"},
    "normalise": {"razorpay.webhooks", "subscription.links", "team.events", "audit.events", "dead.letters", NORMALISE_TABLE},
    "classify": {"team.events", "audit.events", "tier.current", "dead.letters", CLASSIFY_TABLE},
    "audit": {"dead.letters"},
    "forward": {"dead.letters", *RETRIES},
    "feedback": {"dead.letters"},
    "topics": set(),
    "dlq": {"dead.letters", *SOURCES},
    "deliveries": {"audit.events"},
    "replay": {"razorpay.webhooks", "audit.events"},
    "reconcile": {"razorpay.webhooks", "audit.events"},
    "import-tiers": {"subscription.links", "team.events"},
    "explain": set(),
    "verify": set(),
}
