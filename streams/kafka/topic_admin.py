"""The topics on the broker: created, and compared with the topology of ``streams.topics``."""

import logging
import time

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic

from streams.errors import KafkaUnavailable, TopologyError
from streams.kafka.client import client_config
from streams.settings import Settings
from streams.topics import on_broker

_SHOWN_SECONDS = 30.0


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
