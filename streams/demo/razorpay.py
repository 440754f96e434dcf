"""Webhook bodies as Razorpay sends them: every field that a real delivery has, with its oddities.

Sources: Razorpay documentation, "Subscription webhooks", "Payments entity"; and bodies seen in real deliveries: ids of 14 base62
characters, an event id without a prefix, ``captured`` as ``"1"``, ``notes`` as an object or ``[]``, a ``contains`` that leaves out
what the payload holds. Times are Unix seconds, amounts minor units (paise).
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import orjson

DAY = 86_400
ACCOUNT = "acc_BFQ7uQEaa7j2z7"
PRICES = {"plan_hobby": 49_900, "plan_hobby_plus": 99_900, "plan_pro": 249_900, "plan_pro_yearly": 2_499_000, "plan_growth": 799_900}
"""Paise for each cycle of a plan; a plan that is not listed costs ``OLD_PRICE``."""

OLD_PRICE = 29_900

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_STATUS = {
    "authenticated": "authenticated",
    "pending": "pending",
    "paused": "paused",
    "halted": "halted",
    "completed": "completed",
    "cancelled": "cancelled",
}
"""Status by event; every other event leaves the subscription active."""

Json = dict[str, Any]


def razorpay_id(*parts: object) -> str:
    """Return 14 base62 characters, the same for the same parts; put ``sub_`` or ``pay_`` before them where Razorpay does."""
    number = int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest())
    digits: list[str] = []
    for _ in range(14):
        number, digit = divmod(number, 62)
        digits.append(_BASE62[digit])
    return "".join(digits)


@dataclass(frozen=True, slots=True)
class Subscription:
    """A subscription as Razorpay keeps it. ``email`` is the payer's; ``notes`` and ``payment_notes`` are as they are sent."""

    id: str
    plan_id: str
    created_at: int
    email: str
    notes: object
    payment_notes: object
    paid_count: int = 0
    charged_at: int | None = None
    cycle_days: int = 30
    total_count: int = 12

    def after(self, event: str, at: int, plan_id: str | None) -> "Subscription":
        """Return the subscription after ``event`` (without its ``subscription.``); a charge pays one more cycle."""
        changed = self if plan_id is None else replace(self, plan_id=plan_id)
        return replace(changed, paid_count=self.paid_count + 1, charged_at=at) if event == "charged" else changed

    @property
    def paid_until(self) -> int | None:
        """The end of the cycle that was paid last."""
        return None if self.charged_at is None else self.charged_at + self.cycle_days * DAY

    def webhook(self, event: str, at: int, *, is_scheduled: bool = False) -> bytes:
        """Return the body of ``subscription.<event>`` that happened ``at``."""
        payload: Json = {"subscription": {"entity": self._entity(event, at, is_scheduled)}}
        contains = ["subscription"]
        if event in ("charged", "activated", "completed"):
            payload["payment"] = {"entity": self.payment(at, "captured")}
            contains += ["payment"] if event != "activated" else []  # the provider's own samples leave it out there
        return _body(f"subscription.{event}", contains, payload, at)

    def failed_payment(self, at: int) -> bytes:
        """Return the body of the ``payment.failed`` that goes with a failed renewal: it names no subscription."""
        return _body("payment.failed", ["payment"], {"payment": {"entity": self.payment(at, "failed")}}, at)

    def payment(self, at: int, status: str) -> Json:
        """Return the payment entity of the cycle that is paid ``at``."""
        amount = PRICES.get(self.plan_id, OLD_PRICE)
        captured = status == "captured"
        return {
            "id": f"pay_{razorpay_id(self.id, 'pay', at)}",
            "entity": "payment",
            "amount": amount,
            "currency": "INR",
            "status": status,
            "order_id": f"order_{razorpay_id(self.id, 'order', at)}",
            "invoice_id": f"inv_{razorpay_id(self.id, 'inv', at)}",
            "international": False,
            "method": "card",
            "amount_refunded": 0,
            "refund_status": None,
            "captured": "1" if captured else False,
            "description": "Recurring Payment via Subscription",
            "card_id": f"card_{razorpay_id(self.id, 'card')}",
            "bank": None,
            "wallet": None,
            "vpa": None,
            "email": self.email,
            "contact": "+919876543210",
            "customer_id": f"cust_{razorpay_id(self.id, 'cust')}",
            "token_id": None,
            "notes": self.payment_notes,
            "fee": amount * 29 // 1000 if captured else None,
            "tax": 0 if captured else None,
            "error_code": None if captured else "BAD_REQUEST_ERROR",
            "error_description": None if captured else "Payment failed",
            "created_at": at - 1,
        }

    def _entity(self, event: str, at: int, is_scheduled: bool) -> Json:
        start, end = self.charged_at, self.paid_until
        over = event in ("cancelled", "completed")
        entity: Json = {
            "id": self.id,
            "entity": "subscription",
            "plan_id": self.plan_id,
            "customer_id": f"cust_{razorpay_id(self.id, 'cust')}",
            "status": _STATUS.get(event, "active"),
            "type": 2,
            "current_start": start,
            "current_end": end,
            "ended_at": at if over else None,
            "quantity": 1,
            "notes": self.notes,
            "charge_at": None if over else end or at,
            "start_at": self.created_at,
            "end_at": self.created_at + self.cycle_days * self.total_count * DAY,
            "auth_attempts": {"pending": 1, "halted": 4}.get(event, 0),
            "total_count": self.total_count,
            "paid_count": self.paid_count,
            "customer_notify": True,
            "created_at": self.created_at,
            "expire_by": None,
            "short_url": None,
            "has_scheduled_changes": is_scheduled,
            "change_scheduled_at": end if is_scheduled else None,
            "source": "api",
            "remaining_count": self.total_count - self.paid_count,
        }
        if event in ("paused", "resumed"):  # the provider's samples of the other events leave these out
            entity["pause_initiated_by"] = "self" if event == "paused" else None
            entity["cancel_initiated_by"] = None
        return entity


def order_paid(at: int) -> bytes:
    """Return the body of an ``order.paid``: the shop's other business, and none of ours. Its notes hold literal UTF-8."""
    shop = Subscription(f"sub_{razorpay_id('shop')}", "", at, "gaurav.kumar@example.com", [], {"gift": "Tea, Earl Grey… decaf."})
    payment = shop.payment(at, "captured")
    order = {
        "id": payment["order_id"],
        "entity": "order",
        "amount": payment["amount"],
        "amount_paid": payment["amount"],
        "amount_due": 0,
        "currency": "INR",
        "receipt": "Receipt No. 1",
        "status": "paid",
        "attempts": 1,
        "notes": payment["notes"],
        "created_at": at - 20,
    }
    return _body("order.paid", ["payment", "order"], {"payment": {"entity": payment}, "order": {"entity": order}}, at)


def _body(event: str, contains: list[str], payload: Json, at: int) -> bytes:
    return orjson.dumps(
        {"entity": "event", "account_id": ACCOUNT, "event": event, "contains": contains, "payload": payload, "created_at": at}
    )
