"""How our librdkafka clients reach the brokers and place keys."""

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
