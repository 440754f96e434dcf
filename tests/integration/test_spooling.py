"""The gateway with a spool and a real Kafka that is away: everything is accepted, quickly, and arrives once, in order."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx

from streams.embedded.process import free_port
from streams.gateway.signatures import sign_razorpay
from streams.settings import Settings
from streams.topics import RAZORPAY_WEBHOOKS
from tests.topic_io import read_all
from tests.waiting import until

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
        "PARTITIONS": str(settings.partitions),
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
