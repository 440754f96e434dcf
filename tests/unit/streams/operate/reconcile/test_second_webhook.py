"""The same event under two ids."""

import json

import pytest
from aiokafka import ConsumerRecord

from streams.kafka.records import Record
from streams.operate.reconcile.second_webhook import WITHIN_MS, sent_twice
from tests.razorpay_api import T0, subscription


def delivery(event_id: str, at_ms: int = 0, created_at: int | None = T0, value: bytes | None = None) -> Record:
    payload = {"subscription": {"entity": subscription("sub_1") if created_at else {"id": "sub_1"}}}
    body = json.dumps({"event": "subscription.charged", "created_at": created_at, "payload": payload}).encode()
    headers = [("razorpay-event-id", event_id.encode())]
    return ConsumerRecord("razorpay.webhooks", 0, 0, at_ms, 0, b"sub_1", value or body, None, 5, 5, headers)


@pytest.mark.parametrize(
    ("records", "count"),
    [
        ([delivery("a"), delivery("b", 900)], 1),
        ([delivery("a"), delivery("b", 900), delivery("a", 1_000), delivery("b", 2_000)], 2),
        # not: a retry, another event, one without a time of its own, one that comes much later, what can not be read
        ([delivery("a"), delivery("a", 900)], 0),
        ([delivery("a"), delivery("b", 900, created_at=T0 + 1)], 0),
        ([delivery("a", created_at=None), delivery("b", created_at=None)], 0),
        ([delivery("a"), delivery("b", WITHIN_MS + 1)], 0),
        ([delivery("a", value=b"no JSON"), delivery("b", value=b"no JSON")], 0),
    ],
)
def test_event_that_came_under_two_ids_is_counted(records: list[Record], count: int) -> None:
    assert sent_twice(records) == count
