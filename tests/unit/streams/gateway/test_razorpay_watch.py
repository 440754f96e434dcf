"""What the alarms for Razorpay's webhook look at, from the gateway's answers to its metrics."""

import httpx
import pytest
from prometheus_client import REGISTRY

from streams.errors import KafkaUnavailable
from streams.gateway.app import create_app
from streams.gateway.signatures import sign_razorpay
from streams.settings import Settings
from tests.gateway_doubles import RememberingProducer

SETTINGS = Settings(razorpay_webhook_secrets="secret")
BODY = b'{"event": "subscription.charged"}'
SIGNED = {"x-razorpay-signature": sign_razorpay(BODY, b"secret"), "x-razorpay-event-id": "Rp1"}
FORGED = {"x-razorpay-signature": "0" * 64, "x-razorpay-event-id": "Rp1"}


class Asking:
    """A gateway whose clock the test sets, and its metrics."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.producer = RememberingProducer()
        self.app = create_app(SETTINGS, self.producer, lambda: self.now)

    async def post(self, headers: dict[str, str], at: float, body: bytes = BODY) -> int:
        self.now = at
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://gateway") as http:
            return (await http.post("/webhooks/razorpay", content=body, headers=headers)).status_code

    @property
    def metrics(self) -> tuple[float, float, float]:
        """Last signed webhook, failing since, failures in a row."""
        names = ("last_webhook_timestamp_seconds", "failing_since_timestamp_seconds", "failures_in_a_row")
        last, since, failures = (REGISTRY.get_sample_value(f"tierstream_razorpay_{name}") for name in names)
        assert last is not None
        assert since is not None
        assert failures is not None
        return last, since, failures


async def test_gateway_that_has_heard_nothing_counts_from_its_start() -> None:
    assert Asking().metrics == (1_000.0, 0.0, 0.0)


async def test_run_of_failures_has_its_start_and_length_and_ends_with_the_first_2xx() -> None:
    asking = Asking()

    assert await asking.post(SIGNED, 1_001.0) == 200
    assert asking.metrics == (1_001.0, 0.0, 0.0)
    assert [await asking.post(FORGED, at) for at in (1_002.0, 1_003.0)] == [401, 401]
    assert asking.metrics == (1_001.0, 1_002.0, 2.0)
    assert await asking.post(SIGNED, 1_004.0) == 200
    assert asking.metrics == (1_004.0, 0.0, 0.0)


async def test_signed_webhook_that_kafka_does_not_take_is_heard_and_is_a_failure() -> None:
    asking = Asking()
    asking.producer.failure = KafkaUnavailable("away")

    assert await asking.post(SIGNED, 1_005.0) == 503
    assert asking.metrics == (1_005.0, 1_005.0, 1.0)


@pytest.mark.parametrize("headers", [{}, {"x-razorpay-signature": "0" * 64}])
async def test_request_that_is_not_razorpays_begins_no_run(headers: dict[str, str]) -> None:
    asking = Asking()

    assert await asking.post(headers, 1_002.0) == 401
    assert asking.metrics == (1_000.0, 0.0, 0.0)
