"""Kafka and PostgreSQL in containers of the images that ``docker-compose.yml`` names: for ``TIERSTREAM_TEST_STACK=containers``."""

import contextlib
import gc
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from deploy.rehearsal.images import named_images
from streams.embedded.process import free_port

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

KAFKA_PORT = 19092
START_SECONDS = 120
ONE_BROKER = {
    "CLUSTER_ID": "o7nBIPmHQ9-1h0LuXPNv9w",
    "KAFKA_NODE_ID": "1",
    "KAFKA_PROCESS_ROLES": "broker,controller",
    "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
    "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
    # A transaction has the broker call itself, by the address that it advertises: that of the mapped port leads nowhere from inside.
    "KAFKA_LISTENERS": f"INSIDE://:9092,OUTSIDE://:{KAFKA_PORT},CONTROLLER://:9093",
    "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "INSIDE:PLAINTEXT,OUTSIDE:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "KAFKA_INTER_BROKER_LISTENER_NAME": "INSIDE",
    "KAFKA_LOG_DIRS": "/var/lib/kafka/data",
    "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
    # Kafka's own default is three copies of the transaction log: with one broker no transaction would ever begin.
    "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
    "KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS": "8",
    "KAFKA_TRANSACTION_STATE_LOG_NUM_PARTITIONS": "8",
    "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
    "KAFKA_HEAP_OPTS": "-Xmx512m",
}


def containers() -> Iterator[tuple[str, str]]:
    """Yield Kafka's and PostgreSQL's addresses while both run. Skips the test that asks when no Docker engine answers."""
    from testcontainers.community.postgres import PostgresContainer

    if not _docker_answers():
        pytest.skip("TIERSTREAM_TEST_STACK=containers needs a Docker engine, and none answers")
    images = named_images()
    broker, address = kafka_container(images["kafka"])
    with broker, PostgresContainer(images["postgres"], driver=None) as postgres:
        yield address, postgres.get_connection_url()


def kafka_container(image: str) -> "tuple[DockerContainer, str]":
    """Return a container of ``apache/kafka``, not started, and its address. testcontainers' own can only start another vendor's image.

    A broker tells its clients where it is, so the port is chosen here, and not by the engine once it has started.
    """
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy

    port = free_port()
    broker = DockerContainer(image).with_bind_ports(KAFKA_PORT, port)
    address = f"{broker.get_docker_client().host()}:{port}"
    for name, value in (ONE_BROKER | {"KAFKA_ADVERTISED_LISTENERS": f"INSIDE://localhost:9092,OUTSIDE://{address}"}).items():
        broker.with_env(name, value)
    return broker.waiting_for(LogMessageWaitStrategy("Kafka Server started").with_startup_timeout(START_SECONDS)), address


def _docker_answers() -> bool:
    import docker

    with warnings.catch_warnings(action="ignore", category=ResourceWarning):  # docker leaves the socket of a failed call open
        try:
            with contextlib.closing(docker.from_env()) as engine:
                answers = bool(engine.ping())
        except docker.errors.DockerException:
            answers = False
        gc.collect()
    return answers
