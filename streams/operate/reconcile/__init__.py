"""``tierstream reconcile``: Razorpay's subscriptions against what tierstream has decided, and what is missing fed as webhooks.

1. Every subscription is read from Razorpay's API.
2. Then the rows of normalise and classify are read. A webhook that arrives in between is newer than the reading, and wins.
3. Each subscription is compared (``compare``, pure). A difference is an event that never came, or one that is not worked in yet.
4. What is fed goes through ``razorpay.webhooks``, like what Razorpay sends, with an id that derives from what it says; and each feeding is an
   ``operator.replayed`` in the audit log.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
import orjson

from schemas.envelope import canonical_team_id
from schemas.razorpay import parse_webhook
from schemas.team_events import SubscriptionEvent
from streams.kafka import topic_admin
from streams.kafka.producer import AcknowledgedProducer
from streams.operate.logs import KafkaLogs
from streams.operate.reconcile import state
from streams.operate.reconcile.compare import Drift, compare, ours_of, read_entity
from streams.operate.reconcile.second_webhook import events_sent_twice
from streams.operate.reconcile.webhooks import body_of, records_of
from streams.razorpay.client import RazorpayClient
from streams.settings import Settings, load_plans

ACK_SECONDS: Final = 10.0
_REPORT_EVERY: Final = 100


class Comparison(msgspec.Struct, frozen=True):
    """What was found. ``entities`` are the API's entities of what differs, as JSON by subscription; ``sent_twice`` is how many of the newest
    webhooks came under two ids, as from two registered webhooks."""

    subscriptions: int
    drift: Sequence[Drift]
    entities: Mapping[str, bytes]
    undecided: state.Undecided
    sent_twice: int = 0


async def read_subscriptions(settings: Settings, read_at: int, on_read: Callable[[int], None]) -> dict[str, bytes]:
    """Return the entity of each subscription as JSON, by its id. Raises RazorpayRefused, RazorpayUnavailable."""
    assert settings.razorpay_key_id is not None  # ``require`` saw to it
    assert settings.razorpay_key_secret is not None
    found: dict[str, bytes] = {}
    async with RazorpayClient(
        settings.razorpay_api_url, settings.razorpay_key_id, settings.razorpay_key_secret.get_secret_value()
    ) as client:
        async for entity in client.subscriptions(read_at):
            found[entity["id"]] = orjson.dumps(entity)
            if len(found) % _REPORT_EVERY == 0:
                on_read(len(found))
    return found


def compare_all(settings: Settings, entities: Mapping[str, bytes], read_at: int) -> Comparison:
    """Compare what the API said with the rows as they are now. Blocking. Raises TopologyError, KafkaUnavailable, ConfigurationError."""
    assert settings.plans is not None  # ``require`` saw to it
    plans = load_plans(settings.plans)
    topic_admin.require(settings)
    with KafkaLogs(settings) as logs:
        waiting = state.undecided(logs)
        sent_twice = events_sent_twice(logs)
        known = state.owners(logs, entities)
        owners = {id: _team_of(raw, settings.razorpay_team_note, known.get(id)) for id, raw in entities.items()}
        rows = state.teams(logs, {team_id for team_id in owners.values() if team_id is not None})
    drift = []
    for subscription_id, raw in entities.items():
        team_id = owners[subscription_id]
        row = rows.get(team_id) if team_id is not None else None
        found = compare(read_entity(orjson.loads(raw)), team_id, ours_of(row, subscription_id), plans, read_at)
        if found is not None:
            drift.append(found)
    drift.sort(key=lambda each: each.subscription_id)
    differing = {each.subscription_id: entities[each.subscription_id] for each in drift}
    return Comparison(len(entities), drift, differing, waiting, sent_twice)


def _team_of(raw: bytes, note_name: str, owner: str | None) -> str | None:
    """Return whose a subscription is, as normalise finds it: by the note, which is not passed over where it names no team; else its owner."""
    note = parse_webhook(body_of(orjson.loads(raw), SubscriptionEvent.ACTIVATED, 0)).note(note_name)
    return owner if note is None else canonical_team_id(note)


async def feed(settings: Settings, comparison: Comparison, because: str, by: str, now: float) -> int:
    """Produce the webhook of each difference that has one, and the audit event beside it; return how many. Raises KafkaUnavailable."""
    fed = 0
    async with AcknowledgedProducer(settings) as producer:
        for drift in comparison.drift:
            if drift.event is None:
                continue
            entity: dict[str, Any] = orjson.loads(comparison.entities[drift.subscription_id])
            await producer.send_many(records_of(settings, drift, entity, because, by, now), timeout_seconds=ACK_SECONDS)
            fed += 1
    return fed
