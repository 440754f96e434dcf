"""The headers that the gateway reads: what stands around their values is no part of them."""

import base64
import hashlib
import json
import uuid

import pytest

from streams.gateway.app import Gateway, create_app
from streams.gateway.signatures import sign_razorpay, sign_standard
from streams.kafka.producer import Record
from streams.settings import Settings
from tests.gateway_doubles import RememberingProducer, ask

NOW = 1_760_000_000.25
KEY = b"0123456789abcdef01234567"
SETTINGS = Settings(
    razorpay_webhook_secrets="current", loops_webhook_secret="whsec_" + base64.b64encode(KEY).decode(), ingest_tokens="billing:b-token"
)
BODY = b'{"event": "subscription.charged", "payload": {"subscription": {"entity": {"id": "sub_1"}}}}'


@pytest.fixture
def producer() -> RememberingProducer:
    return RememberingProducer()


@pytest.fixture
def app(producer: RememberingProducer) -> Gateway:
    return create_app(SETTINGS, producer, lambda: NOW)


def only(producer: RememberingProducer) -> tuple[Record, dict[str, bytes | None]]:
    assert len(producer.records) == 1
    return producer.records[0], dict(producer.records[0].headers)


BLANKS = [(b"", b" "), (b" ", b""), (b"\t ", b" \t"), (b"", b"\t\t")]


@pytest.mark.parametrize(("before", "after"), BLANKS)
async def test_razorpay_webhook_spaces_and_tabs_around_a_header_are_no_part_of_it(
    app: Gateway, producer: RememberingProducer, before: bytes, after: bytes
) -> None:
    given = {
        b"x-razorpay-signature": sign_razorpay(BODY, b"current").encode(),
        b"x-razorpay-event-id": b"Rp71ZiqdEWusLa",
        b"content-type": b"application/json; charset=utf-8",
        b"content-length": b"%d" % len(BODY),
    }

    status, _ = await ask(app, "/webhooks/razorpay", [BODY], {name: before + value + after for name, value in given.items()})

    assert status == 200
    headers = only(producer)[1]
    assert headers["razorpay-event-id"] == given[b"x-razorpay-event-id"]
    assert headers["content-type"] == given[b"content-type"]


async def test_razorpay_webhook_header_of_blanks_alone_counts_as_absent(app: Gateway, producer: RememberingProducer) -> None:
    signature = sign_razorpay(BODY, b"current").encode()

    await ask(
        app, "/webhooks/razorpay", [BODY], {b"x-razorpay-signature": signature, b"x-razorpay-event-id": b" \t", b"content-type": b" "}
    )

    headers = only(producer)[1]
    assert headers["razorpay-event-id"] == b"sha256-" + hashlib.sha256(BODY).hexdigest()[:40].encode()
    assert headers["content-type"] == b"application/json"


@pytest.mark.parametrize("other", [b"\x0b", b"\x0c", b"\xa0", b"\x1f"])
async def test_razorpay_webhook_nothing_but_spaces_and_tabs_is_trimmed(app: Gateway, producer: RememberingProducer, other: bytes) -> None:
    signature = sign_razorpay(BODY, b"current").encode()

    assert (await ask(app, "/webhooks/razorpay", [BODY], {b"x-razorpay-signature": signature + other}))[0] == 401
    await ask(app, "/webhooks/razorpay", [BODY], {b"x-razorpay-signature": signature, b"x-razorpay-event-id": b"Rp1" + other})

    assert only(producer)[1]["razorpay-event-id"] == b"sha256-" + hashlib.sha256(BODY).hexdigest()[:40].encode()


@pytest.mark.parametrize(("before", "after"), BLANKS)
async def test_loops_webhook_and_events_spaces_and_tabs_around_a_header_are_no_part_of_it(
    app: Gateway, producer: RememberingProducer, before: bytes, after: bytes
) -> None:
    given = {
        b"webhook-id": b"msg_1",
        b"webhook-timestamp": b"%d" % NOW,
        b"webhook-signature": sign_standard(b"{}", b"msg_1", int(NOW), KEY).encode(),
    }
    event = json.dumps({"kind": "onboarding.claimed", "team_id": str(uuid.uuid4()), "data": {"email": "a@example.com"}}).encode()

    loops = await ask(app, "/webhooks/loops", [b"{}"], {name: before + value + after for name, value in given.items()})
    events = await ask(app, "/v1/events", [event], {b"authorization": before + b"Bearer  b-token" + after})

    assert (loops[0], events[0]) == (200, 202)
    assert dict(producer.records[0].headers)["webhook-id"] == producer.records[0].key == b"msg_1"


@pytest.mark.parametrize("token", [b"", b" ", b"\t"])
async def test_events_without_a_token_are_401(app: Gateway, producer: RememberingProducer, token: bytes) -> None:
    assert (await ask(app, "/v1/events", [b"{}"], {b"authorization": b"Bearer " + token}))[0] == 401
    assert producer.records == []
