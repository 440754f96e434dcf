"""Two workers with one instance id: one goes on, the other ends and says why; and a worker that only came back late is none of two."""

import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import asyncpg
import pytest
from confluent_kafka.admin import AdminClient

from streams import topics
from streams.errors import InstanceIdTaken
from streams.kafka.client import client_config
from streams.settings import Settings
from tests.accounting import outcomes
from tests.forked import ForkedProcess
from tests.integration.test_exactly_once import assert_emitted_once, expected, load, worker
from tests.topic_io import produce, read_all
from tests.waiting import until
from tests.workers import committed

TAKEN = "Another process was started with this one's TIERSTREAM_INSTANCE_ID, twin, and has taken its place; this one stops. "


def ended(process: ForkedProcess) -> bool:
    return process.poll() is not None


async def until_one_is_left(log: Path, process: ForkedProcess) -> None:
    """Return once the process has ended as the one that was thrown out."""
    await until(partial(ended, process), f"the one that was thrown out ends; {log.read_text()[-3_000:]}", 30)
    assert process.returncode == InstanceIdTaken.exit_code == 3, log.read_text()[-3_000:]
    assert TAKEN in log.read_text()


async def test_of_two_classify_workers_with_one_instance_id_the_first_ends_and_nothing_is_lost_or_doubled(
    kafka_settings: Settings, tmp_path: Path
) -> None:
    settings, log = kafka_settings, [tmp_path / f"{number}.log" for number in range(3)]
    records = load(events=3_000, teams=40, seed=9)
    decided: Callable[[int], bool] = lambda count: outcomes(settings, "classify").total() >= count  # noqa: E731
    produce(settings, "team.events", records[:1_000])
    with worker(settings, "classify", instance="twin", log=log[0]) as first:
        await until(lambda: decided(1_000), "the first works")
        with worker(settings, "classify", instance="twin", log=log[1]) as second:
            produce(settings, "team.events", records[1_000:2_000])
            await until_one_is_left(log[0], first)
            await until(lambda: decided(2_000), f"the second works; {log[1].read_text()[-3_000:]}")
            # A supervisor starts the first again, and then it is the other's turn.
            with worker(settings, "classify", instance="twin", log=log[2]):
                produce(settings, "team.events", records[2_000:])
                await until_one_is_left(log[1], second)
                await until(lambda: decided(3_000), f"the third works; {log[2].read_text()[-3_000:]}")

    assert_emitted_once(settings, records)
    assert outcomes(settings, "classify").total() == len(records)


async def test_of_two_audit_workers_with_one_instance_id_the_first_ends_and_each_row_is_written_once(
    stage_settings: Settings, tmp_path: Path
) -> None:
    settings, log = stage_settings, [tmp_path / f"{number}.log" for number in range(2)]
    records = load(events=600, teams=30, seed=10)
    produce(settings, "team.events", records)
    with worker(settings, "classify", instance="0", log=tmp_path / "classify.log"):
        await until(lambda: outcomes(settings, "classify").total() == len(records), "the load is decided on")
    with worker(settings, "audit", instance="twin", log=log[0]) as first:
        await until(lambda: any(committed(settings, "audit", "audit.events").values()), "the first works")
        with worker(settings, "audit", instance="twin", log=log[1]):
            await until_one_is_left(log[0], first)
            produce(settings, "audit.events", [(message.key(), message.value()) for message in read_all(settings, "audit.events")])
            ends = dict.fromkeys(range(settings.partitions), 0)
            ends |= {message.partition() or 0: (message.offset() or 0) + 1 for message in read_all(settings, "audit.events")}
            await until(lambda: committed(settings, "audit", "audit.events") == ends, f"all is written; {log[1].read_text()[-3_000:]}")

    assert settings.postgres_dsn is not None
    connection = await asyncpg.connect(settings.postgres_dsn.get_secret_value())
    try:
        assert await connection.fetchval("select count(*) from audit_log") == len(expected(records))
    finally:
        await connection.close()


@pytest.mark.parametrize("stage", ["classify", "audit"])
async def test_a_worker_that_was_silent_beyond_its_session_joins_again_under_its_own_instance_id(
    stage_settings: Settings, tmp_path: Path, stage: str
) -> None:
    settings, log = stage_settings.model_copy(update={"session_timeout_seconds": 6.0}), tmp_path / "worker.log"
    with worker(settings, stage, instance="single", log=log) as process:
        await until(lambda: "stage started" in log.read_text(), "it starts")
        await until(lambda: members(settings, stage) == ["single"], "it is in the group")
        process.send_signal(signal.SIGSTOP)
        await until(lambda: members(settings, stage) == [], "its session has expired")
        process.send_signal(signal.SIGCONT)
        await until(lambda: members(settings, stage) == ["single"], f"it has joined again; {log.read_text()[-3_000:]}")
        assert process.poll() is None


def members(settings: Settings, stage: str) -> list[str | None]:
    """The instance ids of those that are in the stage's group."""
    group = topics.group_id(settings, stage)
    admin = AdminClient(client_config(settings))
    return [member.group_instance_id for member in admin.describe_consumer_groups([group])[group].result(30).members or ()]
