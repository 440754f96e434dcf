"""Publishing to a real Kafka that dies, from a real process that dies: every event arrives, in order, and nobody waits for it."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from confluent_kafka import Message

from streams.kafka.partitioner import partition_of
from streams.settings import Settings
from streams.topics import TEAM_EVENTS
from tests.conftest import PARTITIONS
from tests.publishing_service import TEAMS
from tests.topic_io import Json, read_all
from tests.waiting import until

SERVICE = Path(__file__).parents[1] / "publishing_service.py"
NOWHERE = "127.0.0.1:1"


async def events_of(settings: Settings) -> list[Json]:
    """Every event on the topic, in the order of each partition; each is where its key belongs."""

    def event(message: Message) -> Json:
        value: Json = json.loads(message.value() or b"")
        assert message.key() == value["subject"].encode()
        assert message.partition() == partition_of(value["subject"].encode(), PARTITIONS)
        return value

    return [event(message) for message in await asyncio.to_thread(read_all, settings, TEAM_EVENTS.name)]


def used_by_team(events: list[Json]) -> dict[str, list[int]]:
    """What was used, for each team in its order; a repeated id counts once and has the same content."""
    seen: dict[str, Json] = {}
    found: dict[str, list[int]] = {}
    for event in events:
        if event["id"] not in seen:
            found.setdefault(event["subject"], []).append(event["data"]["used"])
        assert seen.setdefault(event["id"], event) == event
    return found


def in_order(count: int) -> dict[str, list[int]]:
    return {team: list(range(number, count, len(TEAMS))) for number, team in enumerate(TEAMS)}


@contextlib.asynccontextmanager
async def service(settings: Settings, spool: Path, servers: str, **arguments: Any) -> AsyncIterator[asyncio.subprocess.Process]:
    given = {"servers": servers, "prefix": settings.topic_prefix, "spool": str(spool), **arguments}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(SERVICE),
        json.dumps(given),
        stdout=asyncio.subprocess.PIPE,
        env={"PYTHONPATH": str(SERVICE.parents[1])},
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(40):
            yield process
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it may have ended, and asyncio not have noticed yet
                os.killpg(process.pid, signal.SIGKILL)  # with its children
        await process.wait()


async def lines_of(process: asyncio.subprocess.Process, last: str | None = None) -> list[str]:
    assert process.stdout is not None
    lines: list[str] = []
    async for line in process.stdout:
        lines.append(line.decode().strip())
        if lines[-1] == last:
            break
    return lines


async def test_service_killed_with_events_in_its_spool_and_again_while_it_drains_every_event_arrives_in_order(
    kafka_settings: Settings, tmp_path: Path
) -> None:
    servers = kafka_settings.kafka_bootstrap_servers

    async with service(kafka_settings, tmp_path, NOWHERE, first=0, count=4_000, then="wait") as process:
        assert len(await lines_of(process, "safe")) == 4_001
    async with service(kafka_settings, tmp_path, servers, first=4_000, count=0, then="sleep"):
        await until(lambda: bool(read_all(kafka_settings, TEAM_EVENTS.name)), "the first of them arrive")
    async with service(kafka_settings, tmp_path, servers, first=4_000, count=100, then="close") as process:
        assert (await lines_of(process))[-1] == "left 0"
        await process.wait()

    assert used_by_team(await events_of(kafka_settings)) == in_order(4_100)
    assert list(tmp_path.glob("*.spool")) == []


async def test_forked_child_publishes_with_a_producer_of_its_own_and_the_parent_goes_on(kafka_settings: Settings, tmp_path: Path) -> None:
    servers = kafka_settings.kafka_bootstrap_servers

    async with service(kafka_settings, tmp_path, servers, first=0, count=5, then="close", fork=True) as process:
        lines = await lines_of(process)
        assert await process.wait() == 0

    assert lines.count("left 0") == 2
    ids = set(lines) - {"left 0"}
    events = await events_of(kafka_settings)
    assert len(events) == len(ids) == 7
    assert {event["id"] for event in events} == ids
