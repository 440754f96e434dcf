"""The gateway with a spool and a real Kafka that is away: everything is accepted, quickly, and arrives once, in order."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from streams.embedded.kafka import EmbeddedKafka
from streams.embedded.process import free_port
from streams.gateway.signatures import sign_razorpay
from streams.kafka import topic_admin
from streams.settings import Settings
from streams.topics import RAZORPAY_WEBHOOKS, TEAM_EVENTS
from tests.conftest import PARTITIONS
from tests.integration.test_gateway import RunningGateway, gateway_settings, running, until_ready
from tests.topic_io import Json, read_all, read_json, until

TEAM = "3f1c1f0e-6a55-4c5c-9a39-0a4d3c1f7b01"
NOWHERE = "127.0.0.1:1"
TOKEN = {"Authorization": "Bearer demo-ingest"}


def webhook(number: int) -> bytes:
    subscription = {"entity": {"id": f"sub_{number % 5}"}}
    return json.dumps({"event": "subscription.charged", "n": number, "payload": {"subscription": subscription}}).encode()


def numbers_by_key(settings: Settings) -> dict[object, list[int]]:
    found: dict[object, list[int]] = {}
    for message in read_all(settings, RAZORPAY_WEBHOOKS.name):
        found.setdefault(message.key(), []).append(json.loads(message.value() or b"")["n"])
    return found


def in_order(count: int) -> dict[object, list[int]]:
    return {f"sub_{number}".encode(): list(range(number, count, 5)) for number in range(5)}


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


async def test_gateway_killed_with_webhooks_in_its_spool_sends_all_of_them_after_its_restart(
    kafka_settings: Settings, tmp_path: Path
) -> None:
    async with gateway_process(kafka_settings, tmp_path, NOWHERE) as (url, _), httpx.AsyncClient(base_url=url, timeout=20) as http:
        assert [(await posted(http, number)).status_code for number in range(40)] == [200] * 40

    async with gateway_process(kafka_settings, tmp_path, kafka_settings.kafka_bootstrap_servers):
        await until(lambda: sum(map(len, numbers_by_key(kafka_settings).values())) >= 40, "all webhooks have arrived", seconds=30)

    assert numbers_by_key(kafka_settings) == in_order(40)


async def posted(http: httpx.AsyncClient, number: int) -> httpx.Response:
    headers = {"X-Razorpay-Signature": sign_razorpay(webhook(number), b"demo-secret"), "X-Razorpay-Event-Id": f"Rp{number}"}
    return await http.post("/webhooks/razorpay", content=webhook(number), headers=headers)


@contextlib.asynccontextmanager
async def gateway_process(settings: Settings, spool: Path, servers: str) -> AsyncIterator[tuple[str, int]]:
    """A gateway in a process of its own, which ends by SIGKILL; gives its URL and its number."""
    port = free_port()
    environment = {
        "KAFKA_BOOTSTRAP_SERVERS": servers,
        "TOPIC_PREFIX": settings.topic_prefix,
        "RAZORPAY_WEBHOOK_SECRETS": "demo-secret",
        "GATEWAY_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "GATEWAY_SPOOL": str(spool),
        "ADMIN_PORT": "0",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "streams.cli", "gateway"), env={f"TIERSTREAM_{name}": value for name, value in environment.items()}
    )
    url = f"http://127.0.0.1:{port}"
    try:
        await until(lambda: answers(url), "the gateway listens", seconds=30)
        yield url, process.pid
    finally:
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz").status_code == 200
    except httpx.TransportError:
        return False
