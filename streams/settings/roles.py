"""Who needs which settings: a process or command, and what it does not start without."""

from typing import Literal

KafkaRole = Literal[
    "gateway",
    "normalise",
    "classify",
    "audit",
    "forward",
    "feedback",
    "topics",
    "verify",
    "explain",
    "dlq",
    "deliveries",
    "replay",
    "reconcile",
    "import-tiers",
]
"""Who talks to Kafka: the processes, then the commands."""

Role = Literal[KafkaRole, "migrate"]

REQUIRED: dict[Role, tuple[str, ...]] = {
    "gateway": ("kafka_bootstrap_servers", "razorpay_webhook_secrets"),
    "normalise": ("kafka_bootstrap_servers", "plans"),
    "classify": ("kafka_bootstrap_servers",),
    "audit": ("kafka_bootstrap_servers", "postgres_dsn"),
    "forward": ("kafka_bootstrap_servers", "postgres_dsn", "loops_api_key"),
    "feedback": ("kafka_bootstrap_servers", "postgres_dsn"),
    "topics": ("kafka_bootstrap_servers",),
    "migrate": ("postgres_dsn",),
    "verify": ("kafka_bootstrap_servers", "postgres_dsn", "plans"),
    "dlq": ("kafka_bootstrap_servers",),
    "explain": ("kafka_bootstrap_servers", "postgres_dsn", "plans"),
    "import-tiers": ("kafka_bootstrap_servers",),
    "replay": ("kafka_bootstrap_servers", "postgres_dsn", "plans"),
    "deliveries": ("kafka_bootstrap_servers", "postgres_dsn"),
    "reconcile": ("kafka_bootstrap_servers", "plans", "razorpay_key_id", "razorpay_key_secret"),
}
"""The settings that a role does not start without."""
