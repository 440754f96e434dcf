"""The gateway on a real port and a real Kafka: what it answers 200 is on the topic, byte for byte."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from confluent_kafka import Message
from pydantic import SecretStr

from schemas.razorpay import landing_key
from streams import topics
from streams.errors import ConfigurationError
from streams.gateway.http import MAX_BODY_BYTES
from streams.gateway.server import run
from streams.gateway.signatures import sign_razorpay, sign_standard
from streams.kafka.partitioner import partition_of
from streams.runtime.http_server import listen
from streams.settings import Settings
from streams.topics import DEAD_LETTERS, LOOPS_WEBHOOKS, RAZORPAY_WEBHOOKS, TEAM_EVENTS
from tests.conftest import PARTITIONS
from tests.topic_io import read_all

SAMPLES = Path(__file__).parents[2].parent / "shared" / "samples" / "razorpay"
TEAM = "3f1c1f0e-6a55-4c5c-9a39-0a4d3c1f7b01"
KEY = b"0123456789abcdef01234567"
BODY = '{"event": "subscription.charged",  "payload": {"subscription": {"entity": {"id": "sub_1", "note": "Earl Grey…"}}}}'.encode()


@dataclass
class RunningGateway:
    """A gateway in this loop. ``stop`` ends it; ``task`` is done when it has stopped."""

    settings: Settings
    url: str
    http: httpx.AsyncClient
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    async def webhook(self, body: bytes, event_id: str = "Rp71ZiqdEWusLa", secret: bytes = b"demo-secret") -> httpx.Response:
        headers = {"X-Razorpay-Signature": sign_razorpay(body, secret), "X-Razorpay-Event-Id": event_id, "Content-Type": "application/json"}
        return await self.http.post(f"{self.url}/webhooks/razorpay", content=body, headers=headers)

    async def records(self, topic: topics.Topic) -> list[Message]:
        return await asyncio.to_thread(read_all, self.settings, topic.name)


def gateway_settings(settings: Settings, **changes: Any) -> Settings:
    secrets = {
        "razorpay_webhook_secrets": SecretStr("demo-secret"),
        "ingest_tokens": SecretStr("billing:demo-ingest"),
        "loops_webhook_secret": SecretStr("whsec_" + base64.b64encode(KEY).decode()),
    }
    return settings.model_copy(update={"gateway_host": "127.0.0.1", "gateway_port": 0, "admin_port": 0, **secrets, **changes})


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[RunningGateway]:
    ready, stop = asyncio.get_running_loop().create_future(), asyncio.Event()
    task = asyncio.create_task(run(settings, stop, on_ready=ready.set_result))
    await asyncio.wait((task, ready), return_when=asyncio.FIRST_COMPLETED, timeout=20)
    if task.done():
        await task
    async with httpx.AsyncClient(timeout=20, limits=httpx.Limits(max_connections=64)) as http:
        try:
            yield RunningGateway(settings, await ready, http, stop, task)
        finally:
            stop.set()
            await task


@pytest.fixture
async def gateway(kafka_settings: Settings) -> AsyncIterator[RunningGateway]:
    async with running(gateway_settings(kafka_settings)) as gateway:
        yield gateway


async def test_webhook_is_on_its_topic_byte_for_byte_on_the_partition_of_its_subscription(gateway: RunningGateway) -> None:
    before = time.time()

    answer = await gateway.webhook(BODY)

    assert (answer.status_code, answer.json()) == (200, {"status": "accepted"})
    (message,) = await gateway.records(RAZORPAY_WEBHOOKS)
    headers = headers_of(message)
    assert (message.value(), message.key(), message.partition()) == (BODY, b"sub_1", partition_of(b"sub_1", PARTITIONS))
    assert (headers["razorpay-event-id"], headers["content-type"]) == (b"Rp71ZiqdEWusLa", b"application/json")
    assert before - 1 <= int(headers["received-at"]) / 1000 <= time.time() + 1


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="Razorpay's sample bodies are not beside this checkout")
async def test_every_sample_body_is_200_and_kept_byte_for_byte(gateway: RunningGateway) -> None:
    bodies = [path.read_bytes() for path in sorted(SAMPLES.glob("*.*.json"))]

    answers = [await gateway.webhook(body, f"Rp{number}") for number, body in enumerate(bodies)]

    assert [answer.status_code for answer in answers] == [200] * len(bodies)
    kept = {message.value(): message.key() for message in await gateway.records(RAZORPAY_WEBHOOKS)}
    for number, body in enumerate(bodies):
        subscription_id = landing_key(body).subscription_id
        assert kept[body] == (subscription_id.encode() if subscription_id else b"Rp%d" % number)


async def test_body_of_exactly_1_mib_is_200_and_fits_its_topic_as_a_dead_letter_too(gateway: RunningGateway) -> None:
    whole = b'{"a": "' + bytes(range(97, 123)) * 40_329 + b"x" * 13 + b'"}'
    broken = whole[:-1] + b"]"
    assert len(whole) == len(broken) == MAX_BODY_BYTES

    assert ((await gateway.webhook(whole)).status_code, (await gateway.webhook(broken)).status_code) == (200, 400)

    assert [message.value() for message in await gateway.records(RAZORPAY_WEBHOOKS)] == [whole]
    assert [message.value() for message in await gateway.records(DEAD_LETTERS)] == [broken]


async def test_signed_body_that_is_no_json_object_is_400_and_a_dead_letter_with_all_of_it(gateway: RunningGateway) -> None:
    bodies = [b"[1,2,3]", b"42", BODY[:-1]]

    answers = [await gateway.webhook(body) for body in bodies]

    assert [answer.status_code for answer in answers] == [400, 400, 400]
    dead_letters = await gateway.records(DEAD_LETTERS)
    assert sorted(message.value() or b"" for message in dead_letters) == sorted(bodies)
    assert all(headers_of(message)["dlq-reason"] == b"malformed" for message in dead_letters)
    assert await gateway.records(RAZORPAY_WEBHOOKS) == []


async def test_what_is_not_200_is_nowhere(gateway: RunningGateway) -> None:
    url, http = gateway.url, gateway.http
    event = {"kind": "onboarding.claimed", "team_id": TEAM, "data": {"email": "jane@example.com"}}
    token = {"Authorization": "Bearer demo-ingest"}

    answers = [
        await gateway.webhook(BODY, secret=b"unknown"),
        await http.post(f"{url}/webhooks/razorpay", content=BODY),
        await http.post(f"{url}/webhooks/loops", content=b"{}"),
        await http.post(f"{url}/v1/events", json=event),
        await http.post(f"{url}/v1/events", json=event, headers={"Authorization": "Bearer demo-ingest2"}),
        await http.post(f"{url}/v1/events", json=[event, {**event, "kind": "subscription.upgraded"}], headers=token),
        await http.post(f"{url}/v1/events", json=[event] * 1_001, headers=token),
        await http.post(f"{url}/v1/events", content=b"{", headers=token),
        await http.get(f"{url}/v1/events"),
        await http.get(f"{url}/readyz"),
    ]

    assert [answer.status_code for answer in answers] == [401, 401, 401, 401, 401, 422, 422, 422, 405, 404]
    assert all(answer.json()["error"] for answer in answers)
    for topic in (RAZORPAY_WEBHOOKS, LOOPS_WEBHOOKS, TEAM_EVENTS, DEAD_LETTERS):
        assert await gateway.records(topic) == []


async def test_loops_webhook_is_on_its_topic_byte_for_byte_keyed_by_its_id(gateway: RunningGateway) -> None:
    body, now = b'{"eventName":  "email.delivered"}', int(time.time())
    headers = {"webhook-id": "msg_1", "webhook-timestamp": str(now), "webhook-signature": sign_standard(body, b"msg_1", now, KEY)}

    answer = await gateway.http.post(f"{gateway.url}/webhooks/loops", content=body, headers=headers)

    assert answer.status_code == 200
    (message,) = await gateway.records(LOOPS_WEBHOOKS)
    assert (message.value(), message.key()) == (body, b"msg_1")


async def test_list_of_a_thousand_events_is_202_with_their_ids_and_all_are_there(gateway: RunningGateway) -> None:
    teams = [f"3f1c1f0e-6a55-4c5c-9a39-0a4d3c1f{number:04x}" for number in range(10)]
    events = [
        {
            "kind": "near_quota_wall",
            "team_id": teams[number % 10],
            "id": f"e-{number}",
            "data": {"resource_type": "seats", "used": number, "limit": 5},
        }
        for number in range(1_000)
    ]

    answer = await gateway.http.post(f"{gateway.url}/v1/events", json=events, headers={"Authorization": "Bearer demo-ingest"})

    assert (answer.status_code, answer.json()) == (202, {"ids": [f"e-{number}" for number in range(1_000)]})
    used: dict[bytes, list[int]] = {}
    for message in await gateway.records(TEAM_EVENTS):
        key, envelope = message.key() or b"", json.loads(message.value() or b"")
        assert envelope["subject"].encode() == key
        assert message.partition() == partition_of(key, PARTITIONS)
        used.setdefault(key, []).append(envelope["data"]["used"])
    assert used == {team.encode(): list(range(number, 1_000, 10)) for number, team in enumerate(teams)}


async def test_hundreds_of_webhooks_from_many_connections_are_each_there_once(gateway: RunningGateway) -> None:
    bodies = [
        json.dumps({"n": number, "payload": {"subscription": {"entity": {"id": f"sub_{number % 40}"}}}}).encode() for number in range(400)
    ]
    waiting = list(enumerate(bodies))

    async def post() -> set[int]:
        return {
            (await gateway.webhook(body, f"Rp{number}")).status_code
            for number, body in iter(lambda: waiting.pop() if waiting else None, None)
        }

    assert set().union(*await asyncio.gather(*(post() for _ in range(32)))) == {200}
    assert sorted(message.value() or b"" for message in await gateway.records(RAZORPAY_WEBHOOKS)) == sorted(bodies)


async def test_body_announced_over_1_mib_is_413_though_all_of_it_is_sent(gateway: RunningGateway) -> None:
    answer = await gateway.http.post(f"{gateway.url}/webhooks/razorpay", content=b"x" * (MAX_BODY_BYTES + 1))

    assert answer.status_code == 413
    assert (await gateway.webhook(BODY)).status_code == 200


async def test_slow_body_in_chunks_over_1_mib_is_413_before_it_ends(gateway: RunningGateway) -> None:
    reader, writer = await connect(gateway)
    writer.write(b"POST /webhooks/razorpay HTTP/1.1\r\nHost: gateway\r\nTransfer-Encoding: chunked\r\n\r\n")
    answer = asyncio.create_task(reader.readuntil(b"\r\n"))

    for _ in range(17):
        writer.write(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
        await writer.drain()
        await asyncio.wait({answer}, timeout=0.02)

    async with asyncio.timeout(5):
        assert (await answer).startswith(b"HTTP/1.1 413")
    writer.close()
    await writer.wait_closed()


async def test_stop_lets_a_request_in_flight_finish_and_closes_the_port(gateway: RunningGateway) -> None:
    reader, writer = await connect(gateway)
    head = f"POST /webhooks/razorpay HTTP/1.1\r\nHost: gateway\r\nX-Razorpay-Signature: {sign_razorpay(BODY, b'demo-secret')}\r\nContent-Length: {len(BODY)}\r\n\r\n"
    writer.write(head.encode() + BODY[:10])
    await writer.drain()
    assert (await gateway.http.get(f"{gateway.url}/healthz")).status_code == 200  # the half request is there by now
    started = time.monotonic()

    gateway.stop.set()
    await until_refused(gateway)
    writer.write(BODY[10:])

    async with asyncio.timeout(10):
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        assert gateway.task is not None
        await gateway.task
    assert time.monotonic() - started < 10
    assert [message.value() for message in await gateway.records(RAZORPAY_WEBHOOKS)] == [BODY]
    writer.close()
    await writer.wait_closed()


async def test_stop_does_not_wait_for_a_client_that_sends_nothing(gateway: RunningGateway) -> None:
    _, writer = await connect(gateway)
    writer.write(b"POST /webhooks/razorpay HTTP/1.1\r\nHost: gateway\r\nContent-Length: 10\r\n\r\n")
    await writer.drain()
    assert (await gateway.http.get(f"{gateway.url}/healthz")).status_code == 200

    gateway.stop.set()

    async with asyncio.timeout(10):
        assert gateway.task is not None
        await gateway.task
    writer.close()


async def test_missing_secret_or_taken_port_stops_the_start_naming_the_setting(kafka_settings: Settings) -> None:
    settings = gateway_settings(kafka_settings)
    with pytest.raises(ConfigurationError, match="TIERSTREAM_RAZORPAY_WEBHOOK_SECRETS"):
        await run(settings.model_copy(update={"razorpay_webhook_secrets": None}), asyncio.Event())
    with listen("127.0.0.1", 0, "TEST") as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"TIERSTREAM_GATEWAY_PORT: port {port}"):
            await run(settings.model_copy(update={"gateway_port": port}), asyncio.Event())


async def test_spaces_and_tabs_around_a_header_are_no_part_of_it(gateway: RunningGateway) -> None:
    reader, writer = await connect(gateway)
    given = {"X-Razorpay-Signature": sign_razorpay(BODY, b"demo-secret"), "X-Razorpay-Event-Id": "Rp1", "Content-Length": str(len(BODY))}
    lines = ["POST /webhooks/razorpay HTTP/1.1", "Host: gateway", *(f"{name}:\t {value} \t" for name, value in given.items()), "", ""]

    writer.write("\r\n".join(lines).encode() + BODY)
    answer = await reader.readline()
    writer.close()

    assert answer == b"HTTP/1.1 200 OK\r\n"
    (record,) = await gateway.records(RAZORPAY_WEBHOOKS)
    assert headers_of(record)["razorpay-event-id"] == b"Rp1"


def headers_of(message: Message) -> dict[str, bytes]:
    headers = message.headers() or []
    assert isinstance(headers, list)
    return {name: value for name, value in headers if isinstance(value, bytes)}


async def connect(gateway: RunningGateway) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", int(gateway.url.rpartition(":")[2]))


async def until_refused(gateway: RunningGateway) -> None:
    async with asyncio.timeout(5):
        while True:
            try:
                _, writer = await connect(gateway)
            except ConnectionRefusedError:
                return
            except ConnectionResetError:
                continue  # the port was closed while this connection waited for it
            writer.close()
            await asyncio.sleep(0.02)
