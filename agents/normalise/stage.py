"""The normalise stage: ``razorpay.webhooks``, ``subscription.links`` → ``team.events``.

Reading and deciding are modules of their own; nothing here produces, commits or waits.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import orjson
from msgspec.structs import replace
from pydantic import ValidationError

from agents.normalise.decide import STAGE, Fact, Normalisation, Normalised, Parked, Rules, decide
from agents.normalise.deliveries import Known, content_of, recalled
from agents.normalise.ownership import Claim, Moved, Ownership, claimed, is_claim, learned
from agents.normalise.plans import PlanWarnings, read_again, tiers_by_plan
from agents.normalise.rows import EMPTY, Row, pack, unpack
from schemas.envelope import HEADERS, Envelope, canonical_team_id, derived_id
from schemas.kinds import Kind
from schemas.razorpay import MalformedWebhook, RazorpayWebhook, parse_webhook
from schemas.reasons import Reason
from schemas.serialize import AUDIT_SCHEMA, FACT_SCHEMA, envelope, rfc3339
from schemas.team_events import EVENT_RANK, SubscriptionEvent, SubscriptionLink
from schemas.validation import describe
from streams.engine.table_stage import Effect, SettingsChange, TableStage
from streams.engine.transactions import Output
from streams.kafka.records import Record
from streams.settings import Settings
from streams.topics import AUDIT_EVENTS, SUBSCRIPTION_LINKS, TEAM_EVENTS

RAZORPAY = "razorpay"
NORMALISE_SOURCE = "tierstream/normalise"

_MAX_DIGITS = 15
"""Of the gateway's receipt in milliseconds: more is nobody's clock."""
_CONFLICT = (
    "A webhook about {1} came before with the event id {0} and says something else; the first one counts. Find out who gave the id out "
    "twice; what is to be decided on after all needs another razorpay-event-id."
)

_RANKED: dict[str, SubscriptionEvent] = {event.value: event for event in SubscriptionEvent}


class NormaliseStage(TableStage):
    """``razorpay.webhooks``, ``subscription.links`` → ``team.events``. The row of a subscription says whose it is, and what came before."""

    name = STAGE

    def __init__(self, settings: Settings, rules: Rules) -> None:
        self.rules = rules
        """May be replaced between two records: what they said stands in the facts."""
        self.settings = _kept(rules)
        self._warnings = PlanWarnings()
        self._links = SUBSCRIPTION_LINKS.full_name(settings)
        self._team_events = TEAM_EVENTS.full_name(settings)
        self._audit_events = AUDIT_EVENTS.full_name(settings)

    def settings_changed(self, former: bytes, rows: Mapping[bytes, bytes]) -> SettingsChange:
        """Warn of the plans whose tier is another one than in the ``former`` settings. No row depends on them."""
        self._warnings.warn(orjson.loads(former), tiers_by_plan(self.rules))
        return SettingsChange()

    def read_plans(self, path: Path) -> None:
        """Read the plan file again, and decide with it from the next record on; when it is wrong, with the plans of before."""
        self.rules = read_again(self.rules, path, self._warnings)
        self.settings = _kept(self.rules)

    def effect(self, record: Record, row: Row | None) -> Effect:
        """Normalise one webhook, or learn one link."""
        return self._link(record, row) if record.topic == self._links else self._webhook(record, row)

    def pack(self, row: Row) -> bytes:
        """Return the row as the table holds it."""
        return pack(row)

    def unpack(self, _key: bytes, packed: bytes) -> Row:
        """Return the row that ``pack`` made, or a release before it."""
        return unpack(packed)

    def _webhook(self, record: Record, row: Row | None) -> Effect:
        if record.value is None:
            return Effect(Reason.MALFORMED, error="The record has no value.")
        try:
            webhook = parse_webhook(record.value)
        except MalformedWebhook as error:
            return Effect(Reason.MALFORMED, error=str(error))
        subscription_id = webhook.subscription.id if webhook.subscription else None
        if subscription_id is not None and record.key != subscription_id.encode():
            return Effect(Reason.REROUTED, (Output(record.topic, subscription_id.encode(), record.value, record.headers),))
        event_id, received_at = delivery_of(record)
        if subscription_id is None:
            return self._effect(decide(webhook, event_id, received_at, None, self.rules), event_id)
        known = EMPTY if row is None else row
        before, deliveries = recalled(known.deliveries, event_id, content_of(webhook, event_id))
        if before is Known.ID:
            return Effect(Reason.ID_CONFLICT, error=_CONFLICT.format(event_id, subscription_id))
        if before is Known.EVENT:
            return Effect(Reason.DUPLICATE, row=None if deliveries is known.deliveries else Row(known.ownership, deliveries))
        verdict = decide(webhook, event_id, received_at, _linked_team(known.ownership, webhook, event_id, received_at), self.rules)
        ownership, moved = _learned(known.ownership, verdict)
        is_known = ownership is known.ownership and deliveries is known.deliveries
        effect = self._effect(verdict, event_id, None if is_known else Row(ownership, deliveries))
        if not moved:
            return effect
        return replace(effect, outputs=(*effect.outputs, *(self._moved(subscription_id, each) for each in moved)))

    def _effect(self, verdict: Normalisation, event_id: str, row: Row | None = None) -> Effect:
        reason = Reason.NORMALISED if isinstance(verdict, Normalised) else verdict.reason
        return Effect(reason, self._outputs(verdict, event_id), row, error=verdict.error if isinstance(verdict, Parked) else None)

    def _outputs(self, verdict: Normalisation, event_id: str) -> Sequence[Output]:
        if isinstance(verdict, Normalised):
            return (self._fact(verdict.event, verdict.team_id, verdict.fact),)
        if isinstance(verdict, Parked) and verdict.undeliverable is not None:
            return (self._undeliverable(verdict.undeliverable, verdict.team_id, event_id, verdict.reason),)
        return ()

    def _fact(self, event: SubscriptionEvent, team_id: str, fact: Fact) -> Output:
        value = envelope(
            id=derived_id(self.name, RAZORPAY, fact.event_id, team_id, event),
            source=NORMALISE_SOURCE,
            type=event,
            team_id=team_id,
            time=rfc3339(fact.occurred_at),
            causation=fact.event_id,
            correlation=fact.event_id,
            schema=FACT_SCHEMA,
            data=fact,
        )
        return Output(self._team_events, team_id.encode(), value, HEADERS)

    def _moved(self, subscription_id: str, moved: Moved) -> Output:
        claim = moved.claim
        fact = Fact(
            event_id=claim.event_id,
            subscription_id=subscription_id,
            occurred_at=claim.occurred_at,
            time_source=claim.time_source,
            plan_id=claim.plan_id,
            tier=claim.tier,
            paid_count=claim.paid_count,
            status=claim.status,
            has_scheduled_changes=False,
            adopt=False,
        )
        return self._fact(SubscriptionEvent.MOVED, moved.loser, fact)

    def _undeliverable(self, fact: Fact, team_id: str | None, event_id: str, reason: Reason) -> Output:
        occurred_at = rfc3339(fact.occurred_at)
        named = ("subscription_id", "plan_id", "time_source", "paid_count", "amount", "currency", "payment_id")
        metadata = {name: getattr(fact, name) for name in named}
        metadata |= {"reason": reason.value, "event_id": event_id, "occurred_at": occurred_at, "from": None, "to": None}
        wanted = "team" if reason is Reason.UNKNOWN_TEAM else "plan"
        value = envelope(
            id=derived_id(self.name, RAZORPAY, event_id, team_id, Kind.CHARGE_UNDELIVERABLE),
            source=NORMALISE_SOURCE,
            type=Kind.CHARGE_UNDELIVERABLE,
            team_id=team_id,
            time=occurred_at,
            causation=event_id,
            correlation=event_id,
            schema=AUDIT_SCHEMA,
            data={
                "actor": "system",
                "resource_type": "subscription",
                "summary": f"Charge received for an unknown {wanted}",
                "metadata": metadata,
                "created_at": occurred_at,
            },
        )
        key = team_id or fact.subscription_id
        return Output(self._audit_events, key.encode(), value, HEADERS)

    def _link(self, record: Record, row: Row | None) -> Effect:
        if record.value is None:
            return Effect(Reason.LINKED)  # a tombstone: what was learned stays, events with a note correct it
        try:
            head = Envelope[SubscriptionLink].model_validate_json(record.value)
        except ValidationError as error:
            return Effect(Reason.MALFORMED, error=describe(error))
        link = head.data
        team_id = canonical_team_id(link.team_id)
        if team_id is None:
            return Effect(Reason.UNKNOWN_TEAM, error=f"The link of {link.subscription_id} names no team id (a UUID).")
        subscription = link.subscription_id.encode()
        if record.key != subscription:
            return Effect(Reason.REROUTED, (Output(record.topic, subscription, record.value, record.headers),))
        known = EMPTY if row is None else row
        # It comes first in its second, as the import of the tier does that it belongs to; and never later than it was written, or the
        # subscription would stay with this team until then, whatever its webhooks say.
        seconds = max(0, min(int(head.time.timestamp()), record.timestamp // 1000))
        claim = Claim(team_id, seconds, 0, 0, f"{head.source[:100]}#{head.id}", "created_at")
        after, moved = claimed(known.ownership, claim)
        outputs = tuple(self._moved(link.subscription_id, each) for each in moved)
        return Effect(Reason.LINKED, outputs, None if after is known.ownership else Row(after, known.deliveries))


def _kept(rules: Rules) -> bytes:
    """Return the plans in the one form in which they are kept and compared: JSON, by plan id."""
    return orjson.dumps(tiers_by_plan(rules), option=orjson.OPT_SORT_KEYS)


def _linked_team(known: Ownership, webhook: RazorpayWebhook, event_id: str, received_at: int) -> str | None:
    """Return whose subscription it was when the event happened, for a webhook without a note."""
    if not known.claims:
        return known.learned
    event = _RANKED.get(webhook.event or "")
    paid_count = webhook.subscription.paid_count if webhook.subscription else None
    return known.team_at((webhook.occurred_at(received_at)[0], EVENT_RANK[event] if event else 0, paid_count or 0, event_id))


def _learned(known: Ownership, verdict: Normalisation) -> tuple[Ownership, Sequence[Moved]]:
    """Return the row after a webhook, and who loses the subscription by it."""
    team_id = verdict.team_id
    if team_id is None:
        return known, ()
    if isinstance(verdict, Normalised):
        event, fact = verdict.event, verdict.fact
        if is_claim(event, fact.paid_count, fact.status, fact.has_scheduled_changes):
            claim = Claim(
                team_id,
                fact.occurred_at,
                EVENT_RANK[event],
                fact.paid_count,
                fact.event_id,
                fact.time_source,
                fact.plan_id,
                fact.tier,
                fact.status,
            )
            return claimed(known, claim)
    return learned(known, team_id), ()


def delivery_of(record: Record) -> tuple[str, int]:
    """Return the event id and the receipt (Unix seconds): as the gateway noted them in the record's headers, else the record's place, and the
    time at which the broker appended it."""
    headers = {name: value for name, value in record.headers if value}
    event_id = headers.get("razorpay-event-id", b"").decode("ascii", "replace")
    received = headers.get("received-at", b"")
    received_ms = int(received) if received.isdigit() and len(received) <= _MAX_DIGITS else record.timestamp
    return event_id or f"{record.topic}-{record.partition}-{record.offset}", received_ms // 1000
