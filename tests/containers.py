"""Kafka and PostgreSQL in containers, by testcontainers: for ``TIERSTREAM_TEST_STACK=containers``."""

import contextlib
import gc
import warnings
from collections.abc import Iterator

import pytest

POSTGRES_IMAGE = "postgres:17-alpine"


def containers() -> Iterator[tuple[str, str]]:
    """Yield Kafka's and PostgreSQL's addresses while both run. Skips the test that asks when no Docker engine answers."""
    from testcontainers.community.kafka import KafkaContainer
    from testcontainers.community.postgres import PostgresContainer

    if not _docker_answers():
        pytest.skip("TIERSTREAM_TEST_STACK=containers needs a Docker engine, and none answers")
    # Kafka's own default is three copies of the transaction log: with one broker no transaction would ever begin.
    one_broker = {
        "TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "AUTO_CREATE_TOPICS_ENABLE": "false",
    }
    broker = KafkaContainer().with_kraft()
    for name, value in one_broker.items():
        broker.with_env(f"KAFKA_{name}", value)
    with broker as kafka, PostgresContainer(POSTGRES_IMAGE, driver=None) as postgres:
        yield kafka.get_bootstrap_server(), postgres.get_connection_url()


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
