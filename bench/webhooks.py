"""The load as Razorpay would have sent it: for each subscription fact the webhook that normalise makes it of."""

import hmac
import uuid
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from orjson import dumps, loads

from bench.load import MONTH, LoadEvent, LoadSpec, events
from schemas.envelope import derived_id


class Webhook(NamedTuple):
    """One delivery: Razorpay's event id, the subscription, the raw body, the receipt (Unix milliseconds)."""

    event_id: str
    subscription: str
    body: bytes
    received_at: int

    def signature(self, secret: bytes) -> str:
        """``X-Razorpay-Signature``."""
        return hmac.digest(secret, self.body, "sha256").hex()


def webhooks(load: Iterable[LoadEvent]) -> Iterator[tuple[Webhook, LoadEvent]]:
    """Yield the webhook of each subscription fact of ``load``, beside the fact. What services sent is left out."""
    for event in load:
        envelope = loads(event.value)
        if envelope["type"].startswith("subscription."):
            yield _webhook(event, envelope["type"], envelope["data"]), event


def _webhook(event: LoadEvent, kind: str, fact: dict[str, object]) -> Webhook:
    seconds = fact["occurred_at"]
    subscription = {
        "id": fact["subscription_id"],
        "entity": "subscription",
        "plan_id": fact["plan_id"],
        "customer_id": f"cust_{event.team[:14]}",
        "status": fact["status"],
        "current_start": seconds,
        "current_end": fact["current_end"],
        "ended_at": None,
        "quantity": 1,
        "notes": {"team_id": event.team},
        "charge_at": fact["current_end"],
        "start_at": seconds,
        "total_count": 12,
        "paid_count": fact["paid_count"],
        "customer_notify": True,
        "has_scheduled_changes": fact["has_scheduled_changes"],
        "created_at": seconds,
    }
    body: dict[str, object] = {
        "entity": "event",
        "account_id": "acc_BFQ7uQEaa7j2z7",
        "event": kind,
        "contains": ["subscription"],
        "payload": {"subscription": {"entity": subscription}},
        "created_at": seconds,
    }
    if "payment_id" in fact:
        payment = {
            "id": fact["payment_id"],
            "entity": "payment",
            "amount": fact["amount"],
            "currency": fact["currency"],
            "status": "captured",
            "method": "card",
            "captured": True,
            "email": fact["email"],
            "contact": "+919876543210",
            "notes": [],
            "created_at": seconds,
        }
        body["contains"] = ["subscription", "payment"]
        body["payload"] = {"subscription": {"entity": subscription}, "payment": {"entity": payment}}
    return Webhook(str(fact["event_id"]), str(fact["subscription_id"]), dumps(body), event.timestamp)


def live_charges(teams: int, seconds: int, number: int) -> tuple[Webhook, str]:
    """Return the ``number``-th of a stream of charges that all change a tier, happening at ``seconds``, and the id of its audit row."""
    chosen, turn = number % teams, number // teams
    team = str(uuid.uuid5(uuid.NAMESPACE_OID, f"live team {chosen}"))
    event_id = f"live{number:010d}"
    plan, tier = (("plan_pro", "pro"), ("plan_hobby", "hobby"))[turn % 2]
    fact: dict[str, object] = {
        "subscription_id": f"sub_live{chosen:010d}",
        "occurred_at": seconds,
        "plan_id": plan,
        "tier": tier,
        "paid_count": turn + 1,
        "status": "active",
        "has_scheduled_changes": False,
        "current_end": seconds + MONTH,
        "event_id": event_id,
        "email": f"payer-{chosen}@example.com",
        "amount": 49_900,
        "currency": "INR",
        "payment_id": f"pay_live{number:010d}",
    }
    charge = "subscription.charged"
    webhook = _webhook(LoadEvent(team, b"", seconds * 1000, None, None), charge, fact)
    fact_id = derived_id("normalise", "razorpay", event_id, team, charge)
    kind = "subscription.downgraded" if turn % 2 else "subscription.upgraded"
    return webhook, derived_id("classify", "tierstream/normalise", fact_id, team, kind)


def signed_requests(count: int, secret: bytes) -> list[bytes]:
    """Return ``count`` whole HTTP requests to the gateway, each another webhook of the load."""
    found: list[bytes] = []
    for webhook, _ in webhooks(events(LoadSpec(2 * count, max(1, count // 50)))):
        if len(found) == count:
            break
        head = (
            "POST /webhooks/razorpay HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\nuser-agent: Razorpay-Webhook/v1\r\n"
            f"x-razorpay-event-id: {webhook.event_id}\r\nx-razorpay-signature: {webhook.signature(secret)}\r\n"
            f"content-length: {len(webhook.body)}\r\n\r\n"
        )
        found.append(head.encode() + webhook.body)
    return found
