"""Whether two webhooks of Razorpay's account send to us: the same event under two ids, within a short time.

Razorpay's API lists webhooks to partners alone, so this is seen in what arrived.
"""

from collections.abc import Iterable
from typing import Final

from agents.normalise.deliveries import content_of
from schemas.razorpay import MalformedWebhook, parse_webhook
from streams.kafka.records import Record
from streams.operate.logs import Logs
from streams.topics import RAZORPAY_WEBHOOKS

NEWEST_RECORDS: Final = 500
"""Of each partition that are looked at."""

WITHIN_MS: Final = 60_000
"""Two webhooks are sent to in the same moment; a replay by hand comes later, and has the id that it had."""


def events_sent_twice(logs: Logs) -> int:
    """Return how many of the newest events came under two ids. Raises KafkaUnavailable."""
    return sum(
        sent_twice(logs.read(RAZORPAY_WEBHOOKS, number, max(bounds.first, bounds.end - NEWEST_RECORDS), bounds.end))
        for number, bounds in logs.bounds(RAZORPAY_WEBHOOKS).items()
    )


def sent_twice(records: Iterable[Record]) -> int:
    """Return how many of these deliveries say what another one said under another id shortly before."""
    found, said = 0, dict[bytes, tuple[bytes, int]]()
    for record in records:
        event_id = dict(record.headers).get("razorpay-event-id")
        if record.value is None or not event_id:
            continue
        try:
            webhook = parse_webhook(record.value)
        except MalformedWebhook:
            continue
        first = said.setdefault(content_of(webhook, event_id.decode("ascii", "replace")), (event_id, record.timestamp))
        found += first[0] != event_id and record.timestamp - first[1] <= WITHIN_MS
    return found
