"""What the gateway's OpenAPI document says holds for whatever Schemathesis makes of it: the app in this process, a producer that only remembers.

All of its checks are on: no 5xx, each status, content type, header and body as documented, what fits is taken and what does not is refused,
no route without its signature or token.
"""

import base64
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from schemas.team_events import MAX_SECONDS
from streams.gateway import peers
from streams.gateway.app import create_app
from streams.gateway.signatures import sign_razorpay, sign_standard
from streams.settings import Settings
from tests.gateway_doubles import RememberingProducer

schemathesis: Any = pytest.importorskip("schemathesis", reason="needs Schemathesis, which is one of the packages of requirements.lock")

from requests import PreparedRequest  # noqa: E402  # it comes with Schemathesis
from requests.auth import AuthBase  # noqa: E402

KEY = b"0123456789abcdef01234567"
NOW = float(MAX_SECONDS)
"""So late that no time that the document allows lies ahead of it: of that it can not speak."""

SETTINGS = Settings(
    razorpay_webhook_secrets="secret", loops_webhook_secret="whsec_" + base64.b64encode(KEY).decode(), ingest_tokens="service:token"
)


class Proof(AuthBase):
    """Signs a request, or adds its token, once its bytes are known."""

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        body = request.body.encode() if isinstance(request.body, str) else request.body
        assert body is None or isinstance(body, bytes)
        body = body or b""
        path = urlsplit(request.url or "").path
        if path == "/webhooks/razorpay":
            request.headers["X-Razorpay-Signature"] = sign_razorpay(body, b"secret")
        elif path == "/webhooks/loops":
            request.headers["webhook-id"] = "msg_1"
            request.headers["webhook-timestamp"] = str(int(NOW))
            request.headers["webhook-signature"] = sign_standard(body, b"msg_1", int(NOW), KEY)
        elif path == "/v1/events":
            request.headers["Authorization"] = "Bearer token"
        return request


@pytest.fixture(autouse=True, scope="module")
def unproven_requests_without_end() -> Iterator[None]:
    """Have each request without its proof answered by itself: one address sends all of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peers, "MAX_UNPROVEN", 1_000_000_000)
        yield


producer = RememberingProducer()
schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(SETTINGS, producer, lambda: NOW))
schema.config.generation.update(
    allow_x00=False, deterministic=True
)  # NUL is refused in any text, for no row can store it; a schema can't say so
schema.auth.set_from_requests(Proof())


def map_body(_context: object, body: object) -> object:
    """Have ids that can be printed, texts of times from 1971 on, and addresses without the line ends on which patterns' dialects differ: others are
    refused, which no schema says."""
    for event in body if isinstance(body, list) else [body]:
        if isinstance(event, dict):
            event_id, at, data = event.get("id"), event.get("occurred_at"), event.get("data")
            if isinstance(event_id, str):
                event["id"] = "".join(character if character.isprintable() else "x" for character in event_id)
            if isinstance(at, str) and "0000" < at[:4] < "1971":
                event["occurred_at"] = f"1971{at[4:]}"
            if isinstance(data, dict) and isinstance(data.get("email"), str):
                data["email"] = data["email"].removesuffix("\n").replace("\x85", "x")
    return body


schema.hook(map_body)


def checked(path: str, method: str) -> Any:
    """Return the decorator of a test that gets every case of one operation. One test each: pytest-xdist runs of tests with one name a single one."""
    return schema.include(path=path, method=method).parametrize()


@checked("/webhooks/razorpay", "POST")  # type: ignore[untyped-decorator]
def test_razorpay_webhooks_are_answered_as_documented(case: Any) -> None:
    case.call_and_validate()


@checked("/webhooks/loops", "POST")  # type: ignore[untyped-decorator]
def test_loops_webhooks_are_answered_as_documented(case: Any) -> None:
    case.call_and_validate()


@checked("/v1/events", "POST")  # type: ignore[untyped-decorator]
def test_events_of_services_are_answered_as_documented(case: Any) -> None:
    case.call_and_validate()


@checked("/healthz", "GET")  # type: ignore[untyped-decorator]
def test_healthz_is_answered_as_documented(case: Any) -> None:
    case.call_and_validate()


@checked("/openapi.json", "GET")  # type: ignore[untyped-decorator]
def test_document_itself_is_answered_as_documented(case: Any) -> None:
    case.call_and_validate()


def test_each_route_has_taken_something() -> None:
    assert {record.topic for record in producer.records} >= {"razorpay.webhooks", "loops.webhooks", "team.events"}
