"""Publishing the webhooks that differ once more, so that the stages decide on them as on any others.

In this order, so that a command which was cut off is finished by the same command:

1. The ledger gets the mails that are not to be sent, or are to be sent whatever their age.
2. Each webhook is published to ``razorpay.webhooks``, with its key, value and headers and one more header that says so, beside the audit
   event ``operator.replayed``. In the order of the log, so each subscription keeps its order.

| cut off after | what the same command does |
| --- | --- |
| 1 | writes the same into the ledger, and publishes |
| some of 2 | publishes those that are still missing; what was published and not worked in yet leads to the same ids again |
"""

import time
from collections.abc import Sequence
from typing import Literal, Protocol

from schemas.kinds import Kind
from schemas.loops import LOOPS_MAP, NeverMailed
from streams.kafka.producer import AcknowledgedProducer, Record
from streams.operate.actions import operator_event, operator_name
from streams.operate.replay.shadow import Difference
from streams.settings import Settings
from streams.stores.replays import Told, ToldMail

Apply = Literal["state", "full"]
REPLAY_HEADER = "tierstream-replay"
"""Header of a webhook that was published again: where it stood."""

_AT_ONCE = 200
_ACK_SECONDS = 10.0


class Ledger(Protocol):
    """The ledger, as far as a replay writes it."""

    def tell(self, mails: Sequence[ToldMail], classification: Told, why: str) -> None:
        """Write rows of mails that forward has not seen."""


def told_mails(differences: Sequence[Difference]) -> list[ToldMail]:
    """Return the mails that would follow."""
    return [
        ToldMail(event.id, event.team_id, event.kind.value)
        for difference in differences
        for event in difference.events
        if not isinstance(LOOPS_MAP[event.kind], NeverMailed)
    ]


def write_ledger(ledger: Ledger, differences: Sequence[Difference], apply: Apply, mail: bool) -> None:
    """Tell the ledger what is to become of the mails. Raises PostgresUnavailable."""
    if apply == "state":
        ledger.tell(told_mails(differences), "suppressed", "replayed for the tiers alone (--apply state)")
    elif mail:
        ledger.tell(told_mails(differences), "in_flight", "replayed to be sent whatever its age (--mail)")


def records_of(settings: Settings, difference: Difference, because: str, by: str, at: float, apply: Apply) -> tuple[Record, Record]:
    """Return the webhook as it is published again, and the audit event that says so. Pure; ``at`` is Unix seconds."""
    webhook = difference.record
    kept = [(name, value) for name, value in webhook.headers if name != REPLAY_HEADER]
    again = Record(webhook.topic, webhook.value or b"", webhook.key, [*kept, (REPLAY_HEADER, difference.place.encode())])
    event = operator_event(
        settings,
        Kind.OPERATOR_REPLAYED,
        f"{difference.place}#{at}",
        team_id=next(iter(difference.teams), None),
        summary=f"Webhook {difference.place} replayed",
        because=because,
        by=by,
        at=at,
        details={"at": difference.place, "apply": apply},
    )
    return again, event


async def publish(settings: Settings, differences: Sequence[Difference], because: str, apply: Apply) -> int:
    """Publish the webhooks of ``differences`` once more; return how many. Raises KafkaUnavailable."""
    producer = AcknowledgedProducer(settings)
    by = operator_name()
    try:
        for start in range(0, len(differences), _AT_ONCE):
            some = differences[start : start + _AT_ONCE]
            records = [record for each in some for record in records_of(settings, each, because, by, time.time(), apply)]
            await producer.send_many(records, timeout_seconds=_ACK_SECONDS)
        return len(differences)
    finally:
        await producer.close()
