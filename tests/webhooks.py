"""Razorpay's deliveries as tests write them: a body by default complete and plain, and the record that the gateway makes of it."""

from typing import Any

import orjson

from streams.kafka.records import Record

Json = dict[str, Any]

AT = 1_750_000_000
"""When the event happened, in Unix seconds."""

RECEIVED_AT = AT + 7
TEAM = "3f1c1f0e-6a55-4c5c-9a39-0a4d3c1f7b01"
SUBSCRIPTION = "sub_OcQMwC1HnHTkBB"
EVENT_ID = "OcQNNvRBTYRYUv"


def body(
    event: str = "subscription.charged",
    *,
    notes: object = None,
    payment: Json | None = None,
    created_at: object = AT,
    subscription: Json | None = None,
) -> Json:
    """Return a webhook's body. ``notes`` are the subscription's (by default they name TEAM), ``subscription`` and ``payment``
    more of their fields; a ``created_at`` of None is left out."""
    entity = {
        "id": SUBSCRIPTION,
        "plan_id": "plan_pro",
        "status": "active",
        "paid_count": 1,
        "notes": {"team_id": TEAM} if notes is None else notes,
        **(subscription or {}),
    }
    document: Json = {"event": event, "payload": {"subscription": {"entity": entity}}}
    if payment is not None:
        document["payload"]["payment"] = {"entity": payment}
    if created_at is not None:
        document["created_at"] = created_at
    return document


def record(
    value: bytes | None,
    key: bytes | None,
    *,
    topic: str = "razorpay.webhooks",
    partition: int = 0,
    offset: int = 0,
    headers: tuple[tuple[str, bytes], ...] = (),
    timestamp: int = RECEIVED_AT * 1000,
) -> Record:
    """Return a consumed record; ``timestamp`` is in milliseconds."""
    return Record(topic, partition, offset, timestamp, 0, key, value, None, len(key or b""), len(value or b""), headers)


def delivery(
    document: Json,
    *,
    event_id: str = EVENT_ID,
    received_at: int = RECEIVED_AT,
    key: bytes | None = SUBSCRIPTION.encode(),
    **where: Any,
) -> Record:
    """Return the record of one delivery, as the gateway lands it."""
    headers = (("razorpay-event-id", event_id.encode()), ("received-at", str(received_at * 1000).encode()))
    return record(orjson.dumps(document), key, headers=headers, **where)


def link(
    subscription: str = SUBSCRIPTION,
    team: str = TEAM,
    *,
    key: bytes | None = SUBSCRIPTION.encode(),
    timestamp: int = RECEIVED_AT * 1000,
    **envelope: Any,
) -> Record:
    """Return what an import writes of one subscription. ``envelope`` changes fields of the envelope."""
    head = {"specversion": "1.0", "id": "i1", "source": "import", "type": "subscription.linked", "time": "2026-01-01T00:00:00Z"}
    document = head | {"data": {"subscription_id": subscription, "team_id": team}} | envelope
    return record(orjson.dumps(document), key, topic="x.subscription.links", timestamp=timestamp)
