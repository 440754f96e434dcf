"""The OpenAPI document, compared with the routes and with what they answer."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import jsonschema
import pytest

from schemas.kinds import SERVICE_KINDS
from streams.errors import KafkaUnavailable, RecordTooLarge
from streams.gateway import app as gateway_app
from streams.gateway import peers
from streams.gateway.app import Gateway, create_app
from streams.gateway.http import MAX_BODY_BYTES
from streams.gateway.ingest import MAX_EVENTS
from streams.gateway.openapi import document, statuses
from streams.gateway.signatures import sign_razorpay, sign_standard
from streams.settings import Settings
from tests.gateway_doubles import RememberingProducer, ask

NOW = 1_760_000_000.25
KEY = b"0123456789abcdef01234567"
SECRETS: dict[str, Any] = {
    "razorpay_webhook_secrets": "secret",
    "loops_webhook_secret": "whsec_" + base64.b64encode(KEY).decode(),
    "ingest_tokens": "service:token",
}
TEAM = "3f1c1f0e-6a55-4c5c-9a39-0a4d3c1f7b01"
EVENT: dict[str, Any] = {"kind": "onboarding.claimed", "team_id": TEAM, "data": {"email": "asha@example.com"}}
RAZORPAY, LOOPS, EVENTS = "/webhooks/razorpay", "/webhooks/loops", "/v1/events"
OF_THE_CONNECTION = {400, 408, 431, 503}
"""What any request may be answered before there is a route; tests/unit/streams/runtime/test_http_limits.py has it."""


@pytest.fixture
def producer() -> RememberingProducer:
    return RememberingProducer()


def app_with(producer: RememberingProducer, **settings: Any) -> Gateway:
    return create_app(Settings(**SECRETS, **settings), producer, lambda: NOW, body_seconds=0.01)


@pytest.fixture
async def http(producer: RememberingProducer) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app_with(producer)), base_url="http://gateway") as client:
        yield client


@pytest.fixture
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_app, "DELAY_SECONDS", 0.0)
    monkeypatch.setattr(peers, "MAX_UNPROVEN", 1)


def proven(path: str, body: bytes) -> dict[bytes, bytes]:
    """The headers that prove where a body comes from."""
    if path == RAZORPAY:
        return {b"x-razorpay-signature": sign_razorpay(body, b"secret").encode()}
    if path == LOOPS:
        signature = sign_standard(body, b"msg_1", int(NOW), KEY).encode()
        return {b"webhook-id": b"msg_1", b"webhook-timestamp": b"%d" % NOW, b"webhook-signature": signature}
    return {b"authorization": b"Bearer token"}


async def answers(path: str, producer: RememberingProducer) -> set[int]:
    """Return every status that a route gives, each brought about."""
    app, good = app_with(producer), json.dumps(EVENT).encode()
    seen = set()

    async def note(*parts: bytes | asyncio.Event, headers: dict[bytes, bytes], to: Gateway = app) -> None:
        seen.add((await ask(to, path, parts, headers))[0])

    await note(good, headers=proven(path, good))
    for bad in (b"[7", b"{"):
        await note(bad, headers=proven(path, bad))
    await note(asyncio.Event(), headers=proven(path, good))
    await note(b" " * (MAX_BODY_BYTES + 1), headers=proven(path, good))
    await note(good, headers=proven(path, good), to=app_with(producer, webhook_networks="203.0.113.0/24"))
    for _ in range(2):
        await note(good, headers={})
    for failure in (RecordTooLarge("too large"), KafkaUnavailable("away"), RuntimeError("ours")):
        producer.failure = failure
        await note(good, headers=proven(path, good))
    return seen


@pytest.mark.parametrize("path", [RAZORPAY, LOOPS, EVENTS])
@pytest.mark.usefixtures("no_delay")
async def test_document_names_each_status_that_a_route_answers_and_no_other(path: str, producer: RememberingProducer) -> None:
    assert await answers(path, producer) | OF_THE_CONNECTION == statuses(path)


@pytest.mark.parametrize("path", ["/healthz", "/openapi.json"])
async def test_routes_without_a_body_answer_200_or_what_the_connection_does(path: str, http: httpx.AsyncClient) -> None:
    assert (await http.get(path)).status_code == 200
    assert statuses(path, "get") == {200} | OF_THE_CONNECTION


async def test_document_has_each_route_with_its_methods_and_no_other(http: httpx.AsyncClient) -> None:
    documented = {(path, method) for path, methods in document()["paths"].items() for method in methods}

    taken = set()
    for path in document()["paths"]:
        refusal = await http.request("TRACE", path)
        assert refusal.status_code == 405
        taken |= {(path, method.lower()) for method in refusal.headers["allow"].split(", ")}

    assert documented == taken
    routes = (await http.get("/nothing")).json()["error"]
    assert all(path in routes for path in document()["paths"])


async def test_document_is_served_as_it_is(http: httpx.AsyncClient) -> None:
    for _ in range(2):
        answer = await http.get("/openapi.json")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        assert answer.json() == document()


def body_schema() -> dict[str, Any]:
    """The schema of what ``/v1/events`` takes, with what it refers to."""
    whole = document()
    schema: dict[str, Any] = whole["paths"][EVENTS]["post"]["requestBody"]["content"]["application/json"]["schema"]
    return {**schema, "components": whole["components"]}


def test_document_has_an_event_of_each_kind_that_services_send() -> None:
    schemas = document()["components"]["schemas"].values()
    kinds = [schema["properties"]["kind"]["enum"][0] for schema in schemas if "kind" in schema.get("properties", {})]

    assert sorted(kinds) == sorted(SERVICE_KINDS)


@pytest.mark.parametrize("body", [EVENT, [], [EVENT], [EVENT] * MAX_EVENTS, {**EVENT, "occurred_at": 1}, {**EVENT, "id": None}])
def test_body_that_the_schema_takes_is_one_that_the_gateway_takes(body: Any) -> None:
    jsonschema.validate(body, body_schema(), jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    "body", [7, {}, [EVENT] * (MAX_EVENTS + 1), {**EVENT, "kind": "subscription.upgraded"}, {**EVENT, "more": 1}, {**EVENT, "data": {}}]
)
def test_body_that_the_gateway_refuses_is_none_that_the_schema_takes(body: Any) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(body, body_schema(), jsonschema.Draft202012Validator)
