"""The normalise stage: ``razorpay.webhooks``, ``subscription.links`` → ``team.events``.

Reading and deciding are modules of their own; nothing here produces, commits or waits.
"""

from pydantic import ValidationError

from agents.normalise.decide import STAGE, Fact, Ignored, Normalisation, Normalised, Parked, Rules, decide
from schemas.envelope import HEADERS, Envelope, canonical_team_id, derived_id
from schemas.kinds import Kind
from schemas.razorpay import MalformedWebhook, RazorpayWebhook, parse_webhook
from schemas.reasons import Reason
from schemas.serialize import AUDIT_SCHEMA, FACT_SCHEMA, envelope, rfc3339
from schemas.team_events import SubscriptionLink
from schemas.validation import describe
from streams.engine.table_stage import Effect, TableStage
from streams.engine.transactions import Output
from streams.kafka.records import Record
from streams.settings import Settings
from streams.topics import AUDIT_EVENTS, SUBSCRIPTION_LINKS, TEAM_EVENTS

RAZORPAY = "razorpay"
NORMALISE_SOURCE = "tierstream/normalise"


class NormaliseStage(TableStage):
    """``razorpay.webhooks``, ``subscription.links`` → ``team.events``. The row of a subscription is its team's id."""

    name = STAGE

    def __init__(self, settings: Settings, rules: Rules) -> None:
        self._rules = rules
        self._links = SUBSCRIPTION_LINKS.full_name(settings)
        self._team_events = TEAM_EVENTS.full_name(settings)
        self._audit_events = AUDIT_EVENTS.full_name(settings)

    def effect(self, record: Record, row: bytes | None) -> Effect:
        """Normalise one webhook, or learn one link."""
        return self._link(record) if record.topic == self._links else self._webhook(record, row)

    def pack(self, row: bytes) -> bytes:
        """Return the team id as it is."""
        return row

    def unpack(self, _key: bytes, packed: bytes) -> bytes:
        """Return the team id as it is."""
        return packed

    def _webhook(self, record: Record, known: bytes | None) -> Effect:
        if record.value is None:
            return Effect(Reason.MALFORMED, error="The record has no value.")
        try:
            webhook = parse_webhook(record.value)
        except MalformedWebhook as error:
            return Effect(Reason.MALFORMED, error=str(error))
        subscription = webhook.subscription.id.encode() if webhook.subscription else None
        if subscription is None:
            known = None
        elif record.key != subscription:
            return Effect(Reason.REROUTED, (Output(record.topic, subscription, record.value, record.headers),))
        event_id, received_at = _delivery(record)
        verdict = decide(webhook, event_id, received_at, known.decode() if known else None, self._rules)
        team_id = verdict.team_id.encode() if verdict.team_id is not None else None
        row = team_id if subscription is not None and team_id != known else None
        return self._written(verdict, webhook, event_id, row)

    def _written(self, verdict: Normalisation, webhook: RazorpayWebhook, event_id: str, row: bytes | None) -> Effect:
        match verdict:
            case Ignored(reason=reason):
                return Effect(reason, row=row)
            case Normalised(event=event, team_id=team_id, fact=fact):
                value = envelope(
                    id=derived_id(self.name, RAZORPAY, event_id, team_id, event),
                    source=NORMALISE_SOURCE,
                    type=event,
                    team_id=team_id,
                    time=rfc3339(fact.occurred_at),
                    causation=event_id,
                    correlation=event_id,
                    schema=FACT_SCHEMA,
                    data=fact,
                )
                return Effect(Reason.NORMALISED, (Output(self._team_events, team_id.encode(), value, HEADERS),), row)
            case Parked(reason=reason, error=error, team_id=team_id, undeliverable=fact):
                outputs = (self._undeliverable(fact, team_id, event_id, reason),) if fact else ()
                return Effect(reason, outputs, row, error=error)

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

    def _link(self, record: Record) -> Effect:
        if record.value is None:
            return Effect(Reason.LINKED)  # a tombstone: what was learned stays, events with a note correct it
        try:
            link = Envelope[SubscriptionLink].model_validate_json(record.value).data
        except ValidationError as error:
            return Effect(Reason.MALFORMED, error=describe(error))
        team_id = canonical_team_id(link.team_id)
        if team_id is None:
            return Effect(Reason.UNKNOWN_TEAM, error=f"The link of {link.subscription_id} names no team id (a UUID).")
        subscription = link.subscription_id.encode()
        if record.key != subscription:
            return Effect(Reason.REROUTED, (Output(record.topic, subscription, record.value, record.headers),))
        return Effect(Reason.LINKED, row=team_id.encode())


def _delivery(record: Record) -> tuple[str, int]:
    """Return the event id and the receipt (Unix seconds) that the gateway noted in the record's headers."""
    headers = {name: value for name, value in record.headers if value}
    event_id = headers.get("razorpay-event-id", b"").decode("ascii", "replace")
    received = headers.get("received-at", b"")
    received_ms = int(received) if received.isdigit() else record.timestamp
    return event_id or f"{record.topic}-{record.partition}-{record.offset}", received_ms // 1000
