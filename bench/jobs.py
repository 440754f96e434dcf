"""The jobs: what each is, how its process is started, and how its progress is read."""

import os
import secrets
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.broker import OUTPUTS, BenchKafka, Input
from bench.clock import CommittedOffsets, Gauge, OutputRecords, WorkerMetric
from bench.installs import environment_missing, environment_python, java_command, java_job_missing
from streams.embedded.process import free_port
from streams.settings import PREFIX
from streams.topics import group_id

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Start:
    """One start of a job: where everything is, and what is its own."""

    kafka: BenchKafka
    input: Input
    state_directory: Path
    name: str = field(default_factory=lambda: secrets.token_hex(4))
    """Never used before: a group of the same name might hold offsets, or a member that has not timed out yet."""
    admin_port: int = field(default_factory=free_port)

    @property
    def servers(self) -> str:
        """Kafka's address."""
        return self.kafka.settings.kafka_bootstrap_servers

    @property
    def partitions(self) -> int:
        """Partitions of the input."""
        return self.kafka.settings.partitions


@dataclass(frozen=True, slots=True)
class Job:
    """An engine that does the work. ``missing`` says why it can not run here, or None; ``small`` gives it the small input."""

    name: str
    title: str
    command: Callable[[Start], list[str]]
    gauge: Callable[[Start], Gauge]
    environment: Callable[[Start], Mapping[str, str]]
    missing: Callable[[], str | None] = lambda: None
    small: bool = False


def _own_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("TIERSTREAM_")} | {"PYTHONPATH": str(ROOT)}


def _group(start: Start, job: str) -> str:
    return f"bench-{job}-{start.name}"


def _peer_environment(start: Start, name: str) -> Mapping[str, str]:
    return _own_environment() | {
        "BENCH_BOOTSTRAP_SERVERS": start.servers,
        "BENCH_INPUT": start.input.topic,
        "BENCH_AUDIT_EVENTS": OUTPUTS[0],
        "BENCH_TIER_CURRENT": OUTPUTS[1],
        "BENCH_GROUP": _group(start, name),
        "BENCH_EVENTS": str(start.input.spec.events),
        "BENCH_PARTITIONS": str(start.partitions),
        "BENCH_STATE_DIRECTORY": str(start.state_directory),
    }


def _committed(start: Start, group: str) -> CommittedOffsets:
    return CommittedOffsets(start.servers, group, start.input.topic, start.partitions, start.input.spec.events)


def _outputs(start: Start) -> Gauge:
    return OutputRecords(start.servers, OUTPUTS, start.partitions, start.input.expected.records)


def _peer(
    name: str,
    title: str,
    command: list[str],
    *,
    missing: Callable[[], str | None] = lambda: None,
    small: bool = False,
    gauge: Callable[[Start], Gauge] | None = None,
) -> Job:
    return Job(
        name,
        title,
        lambda _: command,
        gauge or (lambda start: _committed(start, _group(start, name))),
        lambda start: _peer_environment(start, name),
        missing,
        small,
    )


def _python_peer(name: str, title: str, *arguments: str, small: bool = False) -> Job:
    return _peer(name, title, [sys.executable, "-m", f"bench.peers.{name}_job", *arguments], small=small)


def worker_command(stage: str) -> list[str]:
    """The command line of one worker, as its users type it."""
    return [sys.executable, "-m", "streams.cli", "worker", stage]


def worker_environment(kafka: BenchKafka, admin_port: int, **settings: object) -> Mapping[str, str]:
    """The environment of a worker; ``settings`` by field name."""
    settings = {
        "kafka_bootstrap_servers": kafka.settings.kafka_bootstrap_servers,
        "partitions": kafka.settings.partitions,
        "replication_factor": 1,
        "admin_port": admin_port,
        **settings,
    }
    return _own_environment() | {PREFIX + name.upper(): str(value) for name, value in settings.items()}


def positions(kafka: BenchKafka, stage: str, topic: str, goal: int, ports: Sequence[int]) -> WorkerMetric:
    """How far the position rows of a stage with a table have come on ``topic``."""
    committed = CommittedOffsets(
        kafka.settings.kafka_bootstrap_servers, group_id(kafka.settings, stage), topic, kafka.settings.partitions, goal
    )
    return WorkerMetric(ports, "tierstream_position", f'topic="{topic}"', goal, committed)


TIERSTREAM = Job(
    "tierstream",
    "tierstream",
    lambda _: worker_command("classify"),
    lambda start: positions(start.kafka, "classify", start.input.topic, start.input.spec.events, [start.admin_port]),
    lambda start: worker_environment(start.kafka, start.admin_port),
)

JOBS: dict[str, Job] = {
    job.name: job
    for job in (
        TIERSTREAM,
        _python_peer("faust", "Faust, idiomatic", "--loop", "uvloop", "worker", "-l", "error", small=True),
        _peer(
            "quix",
            "Quix Streams",
            [environment_python("quix"), "-m", "bench.peers.quix_job"],
            missing=lambda: environment_missing("quix"),
        ),
        _peer(
            "bytewax",
            "Bytewax",
            [environment_python("bytewax"), "-m", "bench.peers.bytewax_job"],
            missing=lambda: environment_missing("bytewax"),
            gauge=_outputs,
        ),
        _python_peer("aiokafka", "aiokafka loop"),
        _python_peer("confluent", "confluent-kafka loop"),
        _peer("kafka-streams", "Kafka Streams, at least once", java_command(), missing=java_job_missing),
        _peer("kafka-streams-eos", "Kafka Streams, exactly once", java_command("eos"), missing=java_job_missing),
    )
}
"""In the order in which they run."""


def fresh_directory(path: Path) -> Path:
    """Return ``path``, empty."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path
