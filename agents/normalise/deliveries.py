"""Which webhooks about a subscription came before: by their event ids, and by what they say. Pure.

Razorpay sends an event again under the same id until it is answered, and once for each webhook that is registered, under an id of its
own. So a delivery is known by its id and by what it says (``content_of``):

| event id | what it says | so it is | |
| --- | --- | --- | --- |
| new | new | another event | decided on |
| known | the same | the same delivery again, or a dead letter that is produced again | decided on, with the same ids |
| new, or known beside another id | known under another id | the same event, for another registered webhook | a duplicate |
| known | something else | a conflict: the first one counts | a dead letter |

What is remembered of a delivery is a digest of eight bytes, the length of its id, and the id: 23 bytes with Razorpay's ids.
"""

from collections.abc import Iterator
from enum import Enum
from hashlib import blake2b
from typing import NamedTuple

import msgspec

from schemas.razorpay import RazorpayWebhook

MAX_BYTES = 1_024
"""What a row remembers of deliveries: the newest 44 with Razorpay's ids. It sends one again for a day, and replays those of two weeks."""

CONTENT_BYTES = 8
_MAX_ID_BYTES = 255

_encode = msgspec.msgpack.Encoder().encode


class Known(Enum):
    """What is known of a delivery."""

    NOTHING_ELSE = "nothing else"
    """Nothing, or that it came before itself."""
    EVENT = "event"
    """Its event came under another id."""
    ID = "id"
    """Its id came with something else to say."""


_NOTHING_ELSE = Known.NOTHING_ELSE  # an enum's member is looked up through a Python function


class Recalled(NamedTuple):
    """What is known of a delivery, and what is remembered after it."""

    known: Known
    deliveries: bytes


def content_of(webhook: RazorpayWebhook, event_id: str) -> bytes:
    """Return a digest of what a webhook says: all that anything is decided by, and neither white space nor the order of fields.

    One that says nowhere when it happened says the same as itself alone, for the same may happen twice. Rows hold the digest, so it must
    never change: a delivery from before would be a conflict with itself.
    """
    subscription, payment = webhook.subscription, webhook.payment
    of_subscription = subscription and (
        subscription.id,
        subscription.plan_id,
        subscription.status,
        subscription.customer_email,
        subscription.paid_count,
        subscription.has_scheduled_changes,
        subscription.created_at,
        subscription.current_end,
        _told(subscription.notes),
    )
    of_payment = payment and (payment.id, payment.amount, payment.currency, payment.email, _told(payment.notes))
    is_dated = webhook.created_at is not None or webhook.entity_times
    said = (webhook.event, webhook.created_at, webhook.entity_times, of_subscription, of_payment, None if is_dated else event_id)
    return blake2b(_encode(said), digest_size=CONTENT_BYTES).digest()


def _told(notes: dict[str, str]) -> list[tuple[bytes, str]]:
    return sorted((name.encode("utf-8", "surrogatepass"), note) for name, note in notes.items())


def recalled(deliveries: bytes, event_id: str, content: bytes) -> Recalled:
    """Compare a delivery with those that are remembered, and remember it."""
    named = event_id.encode()
    if len(named) > _MAX_ID_BYTES:
        return Recalled(_NOTHING_ELSE, deliveries)
    known = _NOTHING_ELSE
    if content in deliveries or named in deliveries:  # else it is new, as nearly all are
        entries = list(_entries(deliveries))
        said = next((entry.content for entry in entries if entry.event_id == named), None)
        first_id = next((entry.event_id for entry in entries if entry.content == content), named)
        if said is not None and said != content:
            return Recalled(Known.ID, deliveries)
        known = _NOTHING_ELSE if first_id == named else Known.EVENT
        if said is not None:
            return Recalled(known, deliveries)
    return Recalled(known, _newest(deliveries + content + bytes((len(named),)) + named))


class _Entry(NamedTuple):
    content: bytes
    event_id: bytes


def _entries(deliveries: bytes) -> Iterator[_Entry]:
    """Yield the entries, the oldest first."""
    at = 0
    while at < len(deliveries):
        start = at + CONTENT_BYTES + 1
        end = start + deliveries[start - 1]
        yield _Entry(deliveries[at : start - 1], deliveries[start:end])
        at = end


def _newest(deliveries: bytes) -> bytes:
    while len(deliveries) > MAX_BYTES:
        deliveries = deliveries[CONTENT_BYTES + 1 + deliveries[CONTENT_BYTES] :]
    return deliveries
