"""A difference as the webhook that Razorpay would have sent, and as the audit event that says who fed it. Pure."""

import hashlib
from collections.abc import Mapping
from typing import Any

import orjson

from schemas.kinds import Kind
from schemas.team_events import SubscriptionEvent
from streams.kafka.producer import Record
from streams.operate.actions import operator_event
from streams.operate.reconcile.compare import Drift
from streams.settings import Settings
from streams.topics import RAZORPAY_WEBHOOKS


def body_of(entity: Mapping[str, Any], event: SubscriptionEvent, at: int) -> bytes:
    """Return the webhook's body: the API's entity as it is, with ``at`` (Unix seconds) as the time of the event."""
    payload = {"subscription": {"entity": dict(entity)}}
    return orjson.dumps({"entity": "event", "event": event.value, "contains": ["subscription"], "payload": payload, "created_at": at})


def event_id_of(drift: Drift) -> str:
    """Return the id of a webhook: it derives from what the event says, so that feeding it again changes nothing."""
    said = "\x1f".join((drift.subscription_id, drift.event or "", str(drift.at), drift.plan_id or "", drift.team_id or ""))
    return "reconcile-" + hashlib.sha256(said.encode()).hexdigest()[:32]


def records_of(settings: Settings, drift: Drift, entity: Mapping[str, Any], because: str, by: str, now: float) -> tuple[Record, Record]:
    """Return the webhook, as the gateway would append it, and the ``operator.replayed`` for it. ``now`` is in Unix seconds."""
    assert drift.event is not None
    event_id = event_id_of(drift)
    headers: list[tuple[str, bytes | None]] = [
        ("razorpay-event-id", event_id.encode()),
        ("received-at", b"%d" % (now * 1000)),
        ("content-type", b"application/json"),
        ("because", because.encode()),
        ("by", by.encode()),
    ]
    webhook = Record(RAZORPAY_WEBHOOKS.full_name(settings), body_of(entity, drift.event, drift.at), drift.subscription_id.encode(), headers)
    audit = operator_event(
        settings,
        Kind.OPERATOR_REPLAYED,
        f"{event_id}#{int(now)}",  # each feeding is an action of its own; what it feeds is the same event
        team_id=drift.team_id,
        summary=f"{drift.event} of {drift.subscription_id} fed from Razorpay's API",
        because=because,
        by=by,
        at=now,
        details={
            "subscription_id": drift.subscription_id,
            "event_id": event_id,
            "problem": drift.problem.value,
            "status": drift.status,
            "plan_id": drift.plan_id,
        },
    )
    return webhook, audit
