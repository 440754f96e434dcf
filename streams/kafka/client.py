"""How our clients reach the brokers and place keys."""

import ssl
from typing import Any

from streams.settings import Settings

PARTITIONER = "murmur2_random"
"""Java's and aiokafka's partitioner, for a record whose partition is not named. librdkafka's own default would send most teams to other
partitions, and a team would have two owners."""


def client_config(settings: Settings) -> dict[str, str | int | float | bool]:
    """Return the connection part of a librdkafka configuration: addresses, TLS, SASL. No client makes a topic by asking for it."""
    config: dict[str, str | int | float | bool] = {
        "bootstrap.servers": settings.kafka_bootstrap_servers,
        "security.protocol": settings.kafka_security_protocol,
        # The default is true for producers and administration clients: a broker with auto.create.topics.enable, which is Kafka's default,
        # would make a topic with its own number of partitions.
        "allow.auto.create.topics": False,
    }
    if settings.kafka_sasl_mechanism:
        config["sasl.mechanism"] = settings.kafka_sasl_mechanism
        config["sasl.username"] = settings.kafka_sasl_username or ""
        password = settings.kafka_sasl_password
        config["sasl.password"] = password.get_secret_value() if password else ""
    if settings.kafka_ssl_cafile:
        config["ssl.ca.location"] = str(settings.kafka_ssl_cafile)
    return config


def producer_config(settings: Settings) -> dict[str, str | int | float | bool]:
    """Return the configuration of a producer that loses, doubles and reorders nothing on its way to the broker."""
    return {
        **client_config(settings),
        "enable.idempotence": True,
        "acks": "all",
        "partitioner": PARTITIONER,
        "compression.type": "lz4",
    }


def ssl_context(settings: Settings) -> ssl.SSLContext | None:
    """Return what verifies the brokers' certificates, or None without TLS."""
    if not settings.kafka_security_protocol.endswith("SSL"):
        return None
    return ssl.create_default_context(cafile=str(settings.kafka_ssl_cafile) if settings.kafka_ssl_cafile else None)


def aiokafka_config(settings: Settings) -> dict[str, Any]:
    """Return the same as the arguments of an aiokafka client."""
    config: dict[str, Any] = {
        "bootstrap_servers": settings.kafka_bootstrap_servers,
        "security_protocol": settings.kafka_security_protocol,
        "ssl_context": ssl_context(settings),
    }
    if settings.kafka_sasl_mechanism:
        password = settings.kafka_sasl_password
        config["sasl_mechanism"] = settings.kafka_sasl_mechanism
        config["sasl_plain_username"] = settings.kafka_sasl_username or ""
        config["sasl_plain_password"] = password.get_secret_value() if password else ""
    return config
