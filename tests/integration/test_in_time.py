"""What is promised in seconds while Kafka or the disk is away. What is measured runs alone, to measure us and not what runs beside us.

They are in a file of their own, so that nothing waits for them but what follows.
"""

import asyncio
import resource
import sys
import time
from itertools import count
from pathlib import Path

import httpx
import pytest

from streams.embedded.kafka import EmbeddedKafka
from streams.embedded.process import free_port
from streams.kafka import topic_admin
from streams.runtime.http_server import listen
from streams.settings import Settings
from streams.topics import TEAM_EVENTS
from tests.conftest import PARTITIONS
from tests.integration.test_full_disk import set_largest_file
from tests.integration.test_gateway import BODY, RunningGateway, gateway_settings, running
from tests.integration.test_spooling import NOWHERE as NO_SERVER
from tests.integration.test_spooling import TEAM, TOKEN, gateway_process, in_order, numbers_by_key, posted, webhook
from tests.topic_io import Json, read_all, read_json
from tests.waiting import answered, until


@pytest.mark.alone
async def test_kafka_killed_is_503_within_two_seconds_and_200_again_once_it_is_back(tmp_path: Path, free_admin_port: int) -> None:
    kafka = EmbeddedKafka(tmp_path / "kafka")
    settings = gateway_settings(
        Settings(kafka_bootstrap_servers=kafka.bootstrap_servers, partitions=PARTITIONS, replication_factor=1), admin_port=free_admin_port
    )
    readyz = f"http://127.0.0.1:{free_admin_port}/readyz"
    async with running(settings) as gateway:
        try:
            await expect_503(gateway)  # nothing is there yet
            await kafka.start()
            await asyncio.to_thread(topic_admin.apply, settings)
            await until_answered(gateway, 200)
            await until_ready(gateway, readyz, 200)

            kafka.kill()
            await kafka.wait()
            await asyncio.gather(*(expect_503(gateway, seconds=2.5) for _ in range(20)))
            assert (await gateway.http.get(f"{gateway.url}/healthz")).status_code == 200
            answer = await until_ready(gateway, readyz, 503)
            assert kafka.bootstrap_servers in answer.json()["parts"]["kafka"]["detail"]

            await kafka.start()
            await until_answered(gateway, 200)
        finally:
            await kafka.stop()


@pytest.fixture
def free_admin_port() -> int:
    with listen("127.0.0.1", 0, "TEST") as listener:
        port: int = listener.getsockname()[1]
        return port


async def expect_503(gateway: RunningGateway, seconds: float = 2.0) -> None:
    started = time.monotonic()
    answer = await gateway.webhook(BODY)
    assert (answer.status_code, answer.headers.get("retry-after")) == (503, "5")
    assert time.monotonic() - started < seconds
    assert gateway.settings.kafka_bootstrap_servers in answer.json()["error"]


async def until_answered(gateway: RunningGateway, status: int) -> None:
    async with asyncio.timeout(30):
        while (await gateway.webhook(BODY)).status_code != status:
            pass


async def until_ready(gateway: RunningGateway, readyz: str, status: int) -> httpx.Response:
    said = ""

    async def asked() -> httpx.Response | None:
        nonlocal said
        answer = await gateway.http.get(readyz)
        said = answer.text
        return answer if answer.status_code == status else None

    return await answered(asked, lambda: f"{status} of /readyz, which says {said}", 30)


def service_event(number: int) -> Json:
    return {"kind": "near_quota_wall", "team_id": TEAM, "id": f"e-{number}", "data": {"resource_type": "s", "used": number, "limit": 1}}


@pytest.mark.alone
async def test_kafka_away_is_200_within_the_limit_then_fast_and_all_is_drained_in_order_before_what_is_newer(tmp_path: Path) -> None:
    kafka = EmbeddedKafka(tmp_path / "kafka")
    settings = gateway_settings(
        Settings(
            kafka_bootstrap_servers=kafka.bootstrap_servers, partitions=PARTITIONS, replication_factor=1, gateway_spool=tmp_path / "spool"
        ),
        admin_port=free_port(),
    )
    async with running(settings) as gateway:
        try:
            assert await timed(gateway, range(10)) < 2.5  # the first waits for Kafka, the others do not
            assert await timed(gateway, range(10, 60)) < 5.0
            started = time.monotonic()
            events = [service_event(number) for number in range(100)]
            answer = await gateway.http.post(f"{gateway.url}/v1/events", json=events, headers=TOKEN)
            assert (answer.status_code, len(answer.json()["ids"])) == (202, 100)
            assert time.monotonic() - started < 2.5
            ready = await until_ready(gateway, f"http://127.0.0.1:{settings.admin_port}/readyz", 200)
            assert ready.json()["parts"]["spool"]["detail"] == "160 records wait for Kafka"

            await kafka.start()
            await asyncio.to_thread(topic_admin.apply, settings)
            await timed(gateway, range(60, 100))
            await until(lambda: sum(map(len, numbers_by_key(settings).values())) >= 100, "all webhooks have arrived")
            assert numbers_by_key(settings) == in_order(100)
            await until(lambda: len(read_all(settings, TEAM_EVENTS.name)) >= 100, "all events have arrived")
            assert [event["id"] for event in read_json(settings, TEAM_EVENTS.name)] == [f"e-{number}" for number in range(100)]
        finally:
            await kafka.stop()


async def timed(gateway: RunningGateway, numbers: range) -> float:
    """Post the webhooks one after the other; each must be 200 in time. Returns the seconds for all of them."""
    began = time.monotonic()
    for number in numbers:
        started = time.monotonic()
        answer = await gateway.webhook(webhook(number), f"Rp{number}")
        assert answer.status_code == 200, answer.text
        assert time.monotonic() - started < 2.5
    return time.monotonic() - began


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit is Linux'")
@pytest.mark.alone
async def test_disk_full_under_the_gateway_is_503_in_time_and_200_again_once_there_is_room(
    kafka_settings: Settings, tmp_path: Path
) -> None:
    async with gateway_process(kafka_settings, tmp_path, NO_SERVER) as (url, pid), httpx.AsyncClient(base_url=url, timeout=20) as http:
        assert [(await posted(http, number)).status_code for number in range(10)] == [200] * 10

        set_largest_file(pid, 1)
        for number in range(10, 15):
            answer = await posted(http, number)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
            assert "the spool can not be written (File too large)" in answer.json()["error"]
            assert answer.elapsed.total_seconds() < 2.5

        set_largest_file(pid, resource.RLIM_INFINITY)
        async with asyncio.timeout(30):
            for last in count(15):
                if (await posted(http, last)).status_code == 200:
                    break
        accepted = {*range(10), last}

    async with gateway_process(kafka_settings, tmp_path, kafka_settings.kafka_bootstrap_servers):
        await until(lambda: accepted <= arrived(kafka_settings), "all accepted webhooks have arrived")


def arrived(settings: Settings) -> set[int]:
    return {number for numbers in numbers_by_key(settings).values() for number in numbers}
