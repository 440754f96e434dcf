"""The gateway's answers, with a producer that only remembers: what is taken, what is refused, and what is appended."""

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY

from streams.errors import ConfigurationError, KafkaUnavailable, RecordTooLarge
from streams.gateway.app import Gateway, create_app
from streams.gateway.http import MAX_BODY_BYTES
from streams.gateway.signatures import sign_razorpay, sign_standard
from streams.gateway.webhooks import event_id_of
from streams.kafka.producer import Record
from streams.settings import Settings
from tests.gateway_doubles import RememberingProducer, ask

NOW = 1_760_000_000.25
KEY = b"0123456789abcdef01234567"
SETTINGS = Settings(
    topic_prefix="t.",
    razorpay_webhook_secrets="current,former",
    loops_webhook_secret="whsec_" + base64.b64encode(KEY).decode(),
    ingest_tokens="billing:b-token, billing:b-token-2, s-token",
)
BODY = b'{"event": "subscription.charged", "payload": {"subscription": {"entity": {"id": "sub_1"}}}}'


@pytest.fixture
def producer() -> RememberingProducer:
    return RememberingProducer()


@pytest.fixture
def app(producer: RememberingProducer) -> Gateway:
    return create_app(SETTINGS, producer, lambda: NOW)


@pytest.fixture
async def http(app: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
        yield client


def signed(body: bytes, headers: dict[str, str] | None = None, secret: bytes = b"current") -> dict[str, Any]:
    return {"content": body, "headers": {"X-Razorpay-Signature": sign_razorpay(body, secret), **(headers or {})}}


def only(producer: RememberingProducer) -> tuple[Record, dict[str, bytes | None]]:
    assert len(producer.records) == 1
    return producer.records[0], dict(producer.records[0].headers)


async def test_razorpay_webhook_is_appended_byte_for_byte_with_its_key_and_headers(
    http: httpx.AsyncClient, producer: RememberingProducer
) -> None:
    answer = await http.post(
        "/webhooks/razorpay", **signed(BODY, {"X-Razorpay-Event-Id": "Rp71ZiqdEWusLa", "Content-Type": "application/json; charset=utf-8"})
    )

    assert (answer.status_code, answer.json()) == (200, {"status": "accepted"})
    record, headers = only(producer)
    assert (record.topic, record.value, record.key) == ("t.razorpay.webhooks", BODY, b"sub_1")
    assert headers == {
        "razorpay-event-id": b"Rp71ZiqdEWusLa",
        "received-at": b"1760000000250",
        "content-type": b"application/json; charset=utf-8",
    }


async def test_razorpay_webhook_signed_with_the_former_secret_is_taken(http: httpx.AsyncClient, producer: RememberingProducer) -> None:
    assert (await http.post("/webhooks/razorpay", **signed(BODY, secret=b"former"))).status_code == 200
    assert len(producer.records) == 1


async def test_razorpay_webhook_without_a_subscription_is_keyed_by_its_event_id(
    http: httpx.AsyncClient, producer: RememberingProducer
) -> None:
    await http.post("/webhooks/razorpay", **signed(b'{"event": "payment.captured"}', {"X-Razorpay-Event-Id": "Rp1"}))

    assert only(producer)[0].key == b"Rp1"


async def test_razorpay_webhook_without_an_event_id_gets_the_hash_of_its_body(
    http: httpx.AsyncClient, producer: RememberingProducer
) -> None:
    await http.post("/webhooks/razorpay", **signed(b'{"event": "payment.captured"}'))

    expected = b"sha256-" + hashlib.sha256(b'{"event": "payment.captured"}').hexdigest()[:40].encode()
    record, headers = only(producer)
    assert record.key == headers["razorpay-event-id"] == expected


@pytest.mark.parametrize("header", [None, b"", b"x" * 101, "ü".encode(), b"a\x07b", b"\xff"])
def test_event_id_that_is_no_printable_text_is_replaced_by_the_hash_of_the_body(header: bytes | None) -> None:
    assert event_id_of(header, b"body") == b"sha256-" + hashlib.sha256(b"body").hexdigest()[:40].encode()


@pytest.mark.parametrize("header", [b"Rp71ZiqdEWusLa", b"x" * 100, b"with space"])
def test_event_id_that_is_printable_text_is_kept(header: bytes) -> None:
    assert event_id_of(header, b"body") == header


@pytest.mark.parametrize("signature", [None, "", "0" * 64, sign_razorpay(BODY, b"unknown"), sign_razorpay(BODY + b" ", b"current")])
async def test_razorpay_webhook_without_a_right_signature_is_401_and_goes_nowhere(
    http: httpx.AsyncClient, producer: RememberingProducer, signature: str | None
) -> None:
    answer = await http.post("/webhooks/razorpay", content=BODY, headers={} if signature is None else {"X-Razorpay-Signature": signature})

    assert answer.status_code == 401
    assert "X-Razorpay-Signature" in answer.json()["error"]
    assert producer.records == []


@pytest.mark.parametrize("body", [b"[1,2,3]", b"42", b'{"event": ', b"", b"\xff\xfe", b'"text"', b"null"])
async def test_signed_body_that_is_no_json_object_is_400_and_a_dead_letter(
    http: httpx.AsyncClient, producer: RememberingProducer, body: bytes
) -> None:
    answer = await http.post("/webhooks/razorpay", **signed(body, {"X-Razorpay-Event-Id": "Rp1"}))

    assert answer.status_code == 400
    assert "dead letter" in answer.json()["error"]
    record, headers = only(producer)
    assert (record.topic, record.value, record.key) == ("t.dead.letters", body, b"Rp1")
    assert headers["razorpay-event-id"] == b"Rp1"
    assert (headers["dlq-reason"], headers["dlq-stage"], headers["dlq-topic"]) == (b"malformed", b"gateway", b"t.razorpay.webhooks")
    assert (headers["dlq-partition"], headers["dlq-offset"], headers["dlq-replays"]) == (b"-1", b"-1", b"0")


async def test_dead_letter_that_kafka_does_not_acknowledge_is_503(http: httpx.AsyncClient, producer: RememberingProducer) -> None:
    producer.failure = KafkaUnavailable("Kafka is away.")

    assert (await http.post("/webhooks/razorpay", **signed(b"42"))).status_code == 503


async def test_unsigned_body_that_is_no_json_is_401(http: httpx.AsyncClient, producer: RememberingProducer) -> None:
    assert (await http.post("/webhooks/razorpay", content=b"42")).status_code == 401
    assert producer.records == []


@pytest.mark.parametrize(
    ("failure", "status", "retry_after"),
    [
        (KafkaUnavailable("Kafka at b:9092 did not acknowledge; check it."), 503, "5"),
        (RecordTooLarge("A record is larger than its topic takes; run `tierstream topics apply --alter`."), 413, None),
    ],
)
async def test_record_that_kafka_does_not_take_is_503_with_retry_after_or_413_when_it_is_too_large(
    http: httpx.AsyncClient, producer: RememberingProducer, failure: Exception, status: int, retry_after: str | None
) -> None:
    producer.failure = failure

    answers = [
        await http.post("/webhooks/razorpay", **signed(BODY)),
        await http.post("/webhooks/loops", **loops(b"{}")),
        await http.post("/v1/events", json=claim(), headers=bearer("b-token")),
    ]

    assert [(answer.status_code, answer.headers.get("retry-after"), answer.json()) for answer in answers] == [
        (status, retry_after, {"error": str(failure)})
    ] * 3


async def test_failure_of_our_own_is_500_without_its_text(http: httpx.AsyncClient, producer: RememberingProducer) -> None:
    producer.failure = RuntimeError("jane@example.com")

    answer = await http.post("/webhooks/razorpay", **signed(BODY))

    assert answer.status_code == 500
    assert "jane" not in answer.text


@pytest.mark.parametrize("size", [MAX_BODY_BYTES + 1, 10**30])
async def test_body_announced_over_1_mib_is_413_before_it_is_read(app: Gateway, producer: RememberingProducer, size: int) -> None:
    status, body = await ask(app, "/webhooks/razorpay", [], {b"content-length": b"%d" % size})

    assert status == 413
    assert b"1048576" in body
    assert producer.records == []


async def test_body_that_grows_over_1_mib_is_413_without_the_rest_being_read(app: Gateway) -> None:
    chunks = [b"x" * 65_536] * 17

    status, _ = await ask(app, "/webhooks/razorpay", [*chunks, AssertionError("read on")])

    assert status == 413


async def test_body_of_exactly_1_mib_is_taken(http: httpx.AsyncClient, producer: RememberingProducer) -> None:
    body = b'{"a": "' + b"x" * (MAX_BODY_BYTES - 9) + b'"}'
    assert len(body) == MAX_BODY_BYTES

    assert (await http.post("/webhooks/razorpay", **signed(body))).status_code == 200
    assert only(producer)[0].value == body


async def test_body_in_chunks_is_put_together(app: Gateway, producer: RememberingProducer) -> None:
    headers = {b"x-razorpay-signature": sign_razorpay(BODY, b"current").encode()}

    status, _ = await ask(app, "/webhooks/razorpay", [BODY[:5], b"", BODY[5:]], headers)

    assert status == 200
    assert only(producer)[0].value == BODY


async def test_client_that_leaves_before_its_body_is_there_gets_no_answer(app: Gateway, producer: RememberingProducer) -> None:
    assert await ask(app, "/webhooks/razorpay", [BODY[:5], None]) == (0, b"")
    assert producer.records == []


async def test_client_that_never_finishes_its_body_is_408(producer: RememberingProducer) -> None:
    app = create_app(SETTINGS, producer, body_seconds=0.01)

    status, _ = await ask(app, "/webhooks/razorpay", [BODY[:5], asyncio.Event()])

    assert status == 408


def loops(body: bytes, *, at: int = int(NOW), key: bytes = KEY) -> dict[str, Any]:
    return {
        "content": body,
        "headers": {"webhook-id": "msg_1", "webhook-timestamp": str(at), "webhook-signature": sign_standard(body, b"msg_1", at, key)},
    }


async def test_loops_webhook_is_appended_byte_for_byte_keyed_by_its_id(http: httpx.AsyncClient, producer: RememberingProducer) -> None:
    answer = await http.post("/webhooks/loops", **loops(b'{"eventName": "email.delivered"}'))

    assert answer.status_code == 200
    record, headers = only(producer)
    assert (record.topic, record.value, record.key) == ("t.loops.webhooks", b'{"eventName": "email.delivered"}', b"msg_1")
    assert headers == {
        "webhook-id": b"msg_1",
        "webhook-timestamp": b"1760000000",
        "received-at": b"1760000000250",
        "content-type": b"application/json",
    }


@pytest.mark.parametrize("wrong", [{"key": b"other"}, {"at": int(NOW) - 301}, {"at": int(NOW) + 301}])
async def test_loops_webhook_that_is_forged_or_old_is_401(
    http: httpx.AsyncClient, producer: RememberingProducer, wrong: dict[str, Any]
) -> None:
    assert (await http.post("/webhooks/loops", **loops(b"{}", **wrong))).status_code == 401
    assert (await http.post("/webhooks/loops", content=b"{}")).status_code == 401
    assert producer.records == []


async def test_loops_webhook_without_a_secret_is_401_saying_which_setting(producer: RememberingProducer) -> None:
    app = create_app(SETTINGS.model_copy(update={"loops_webhook_secret": None}), producer, lambda: NOW)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as http:
        answer = await http.post("/webhooks/loops", **loops(b"{}"))

    assert answer.status_code == 401
    assert "TIERSTREAM_LOOPS_WEBHOOK_SECRET is not set" in answer.json()["error"]


def test_loops_secret_that_is_none_stops_the_start(producer: RememberingProducer) -> None:
    with pytest.raises(ConfigurationError, match="TIERSTREAM_LOOPS_WEBHOOK_SECRET"):
        create_app(Settings(loops_webhook_secret="whsec_?"), producer)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def claim(**fields: Any) -> dict[str, Any]:
    return {
        "kind": "onboarding.claimed",
        "team_id": "3f1c1f0e-6a55-4c5c-9a39-0a4d3c1f7b01",
        "id": "c-1",
        "data": {"email": "jane@example.com"},
        **fields,
    }


async def test_event_of_a_service_is_appended_as_an_envelope_keyed_by_its_team(
    http: httpx.AsyncClient, producer: RememberingProducer
) -> None:
    answer = await http.post("/v1/events", json=claim(occurred_at="2025-10-09T10:00:00+02:00"), headers=bearer("b-token"))

    assert (answer.status_code, answer.json()) == (202, {"ids": ["c-1"]})
    record, headers = only(producer)
    assert (record.topic, record.key) == ("t.team.events", b"3f1c1f0e-6a55-4c5c-9a39-0a4d3c1f7b01")
    assert headers == {"content-type": b"application/cloudevents+json"}
    assert json.loads(record.value) == {
        "specversion": "1.0",
        "id": "c-1",
        "source": "tierstream/ingest/billing",
        "type": "onboarding.claimed",
        "subject": "3f1c1f0e-6a55-4c5c-9a39-0a4d3c1f7b01",
        "time": "2025-10-09T08:00:00Z",
        "datacontenttype": "application/json",
        "correlationid": "c-1",
        "data": {"email": "jane@example.com"},
    }


@pytest.mark.parametrize(("token", "source"), [("b-token", "billing"), ("b-token-2", "billing"), ("s-token", "default")])
async def test_events_of_two_tokens_of_one_client_have_one_source(
    http: httpx.AsyncClient, producer: RememberingProducer, token: str, source: str
) -> None:
    await http.post("/v1/events", json=claim(), headers=bearer(token))

    assert json.loads(only(producer)[0].value)["source"] == f"tierstream/ingest/{source}"


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer x-token",
        "Bearer b-token-",
        "Bearer billing:b-token",
        "Basic b-token",
        "b-token",
        "Bearer b-token, s-token",
    ],
)
async def test_events_without_a_known_token_are_401(
    http: httpx.AsyncClient, producer: RememberingProducer, authorization: str | None
) -> None:
    answer = await http.post("/v1/events", json=claim(), headers={} if authorization is None else {"Authorization": authorization})

    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert producer.records == []


async def test_events_without_any_configured_token_are_401(producer: RememberingProducer) -> None:
    app = create_app(Settings(), producer)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as http:
        assert (await http.post("/v1/events", json=claim(), headers=bearer(""))).status_code == 401


async def test_events_of_the_nil_uuid_which_is_no_team_are_422(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/events", json=claim(team_id="00000000-0000-0000-0000-000000000000"), headers=bearer("b-token"))
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "team_id")


async def test_events_with_one_wrong_among_them_are_422_and_none_is_taken(http: httpx.AsyncClient, producer: RememberingProducer) -> None:
    events = [claim(), claim(id="c-2", data={"email": "jane at example.com"}), claim(id="c-3", team_id="acme")]

    answer = await http.post("/v1/events", json=events, headers=bearer("b-token"))

    assert answer.status_code == 422
    assert [(error["index"], error["field"]) for error in answer.json()["errors"]] == [(1, "data.email"), (2, "team_id")]
    assert not any(text in answer.text for text in ("jane", "acme"))
    assert producer.records == []


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/webhooks/razorpay", 405, "POST"),
        ("PUT", "/v1/events", 405, "POST"),
        ("DELETE", "/webhooks/loops", 405, "POST"),
        ("POST", "/healthz", 405, "GET, HEAD"),
        ("GET", "/", 404, None),
        ("POST", "/webhooks/razorpay/", 404, None),
        ("GET", "/readyz", 404, None),
        ("GET", "/metrics", 404, None),
        ("GET", "/console/", 404, None),
    ],
)
async def test_other_route_or_method_is_refused_in_one_sentence(
    http: httpx.AsyncClient, method: str, path: str, status: int, allow: str | None
) -> None:
    answer = await http.request(method, path)

    assert (answer.status_code, answer.headers.get("allow")) == (status, allow)
    assert answer.json()["error"].endswith(".")


async def test_healthz_is_alive_whatever_kafka_does(http: httpx.AsyncClient, producer: RememberingProducer) -> None:
    producer.failure = KafkaUnavailable("away")

    answer = await http.get("/healthz")

    assert (answer.status_code, answer.json()) == (200, {"status": "alive"})
    assert (await http.head("/healthz")).status_code == 200


async def test_requests_are_counted_by_route_and_status(http: httpx.AsyncClient) -> None:
    def counted(route: str, status: str) -> float:
        return REGISTRY.get_sample_value("tierstream_gateway_requests_total", {"route": route, "status": status}) or 0.0

    before = counted("/webhooks/razorpay", "401"), counted("other", "404")
    await http.post("/webhooks/razorpay", content=BODY)
    await http.get("/anything/at/all")

    assert (counted("/webhooks/razorpay", "401"), counted("other", "404")) == (before[0] + 1, before[1] + 1)
