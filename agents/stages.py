"""The thin side of the two stages with a table: a record and the rows in, a ``Step`` for the transaction out.

Reading, deciding and rendering stand in their own modules; nothing here produces, commits or waits.
"""

from collections.abc import Mapping
from typing import NamedTuple

from pydantic import ValidationError

from agents import classify, normalise
from agents.audit_events import AUDIT_SCHEMA, audit_event, envelope, rfc3339, tier_current
from agents.normalise import Ignored, Normalised, Parked, Rules
from agents.registers import EMPTY, Row, Standing, pack, unpack
from agents.team_events import Unreadable, describe, read_team_event
from schemas.envelope import HEADERS, Envelope, canonical_team_id, derived_id
from schemas.kinds import Kind
from schemas.razorpay import MalformedWebhook, RazorpayWebhook, parse_webhook
from schemas.reasons import Reason
from schemas.team_events import SubscriptionFact, SubscriptionLink
from streams.processing import Record
from streams.settings import Settings
from streams.topics import AUDIT_EVENTS, SUBSCRIPTION_LINKS, TEAM_EVENTS, TIER_CURRENT
from streams.transport.exactly_once import Step
from streams.transport.transactions import Output

FACT_SCHEMA = "schemas/subscription-fact/v1"
RAZORPAY = "razorpay"
NORMALISE_SOURCE = "tierstream/normalise"


MAX_UNPACKED = 50_000
"""Teams whose row is kept unpacked as well, some 1 kB each: those that were worked on last. All of them stay packed."""


class _Unpacked(NamedTuple):
    """A row as it was packed last; it holds for this very ``packed`` and for no other."""

    packed: bytes
    row: Row
    standing: Standing


class ClassifyStage:
    """``team.events`` → ``audit.events``, ``tier.current``. The row of a team is its packed registers, the key its id."""

    name = classify.STAGE

    def __init__(self, settings: Settings) -> None:
        self._initial = settings.initial
        self._audit_events = AUDIT_EVENTS.full_name(settings)
        self._tier_current = TIER_CURRENT.full_name(settings)
        self._unpacked: dict[bytes, _Unpacked] = {}

    def step(self, record: Record, rows: Mapping[bytes, bytes]) -> Step:
        """Decide on one event of one team."""
        packed = rows.get(record.key) if record.key is not None else None
        try:
            event = read_team_event(record.value, record.timestamp // 1000, record.key if packed is not None else None)
        except Unreadable as error:
            return Step(error.reason, error=str(error))
        key = event.team_id.encode()
        if record.key != key:
            # Only the partition of its own key holds the team's row.
            return Step(Reason.REROUTED, (Output(record.topic, key, record.value, record.headers),))
        row, standing = self._unpack(key, packed)
        decision = classify.decide(row, event, self._initial, standing)
        outputs: list[Output] = []
        if decision.kind is not None:
            outputs.append(Output(self._audit_events, key, audit_event(event, decision, decision.kind), HEADERS))
        if decision.row is row:
            return Step(decision.reason, outputs)
        before, after = decision.before, decision.after
        if packed is None or before.tier != after.tier or before.subscription_id != after.subscription_id:
            outputs.append(Output(self._tier_current, key, tier_current(event, after), HEADERS))
        packed = pack(decision.row)
        self._unpacked[key] = _Unpacked(packed, decision.row, after)
        return Step(decision.reason, outputs, key, packed)

    def _unpack(self, key: bytes, packed: bytes | None) -> tuple[Row, Standing | None]:
        """Return the row, and its standing where that is known from the last time that it was worked on."""
        known = self._unpacked.get(key)
        if known is not None and known.packed is packed:
            return known.row, known.standing
        if len(self._unpacked) >= MAX_UNPACKED:
            self._unpacked.clear()
        return (EMPTY if packed is None else unpack(packed)), None


class NormaliseStage:
    """``razorpay.webhooks``, ``subscription.links`` → ``team.events``. The row of a subscription is its team's id."""

    name = normalise.STAGE

    def __init__(self, settings: Settings, rules: Rules) -> None:
        self._rules = rules
        self._links = SUBSCRIPTION_LINKS.full_name(settings)
        self._team_events = TEAM_EVENTS.full_name(settings)
        self._audit_events = AUDIT_EVENTS.full_name(settings)

    def step(self, record: Record, rows: Mapping[bytes, bytes]) -> Step:
        """Normalise one webhook, or learn one link."""
        return self._link(record) if record.topic == self._links else self._webhook(record, rows)

    def _webhook(self, record: Record, rows: Mapping[bytes, bytes]) -> Step:
        if record.value is None:
            return Step(Reason.MALFORMED, error="The record has no value.")
        try:
            webhook = parse_webhook(record.value)
        except MalformedWebhook as error:
            return Step(Reason.MALFORMED, error=str(error))
        subscription = webhook.subscription.id.encode() if webhook.subscription else None
        if subscription is not None and record.key != subscription:
            return Step(Reason.REROUTED, (Output(record.topic, subscription, record.value, record.headers),))
        known = rows.get(subscription) if subscription is not None else None
        event_id, received_at = _delivery(record)
        verdict = normalise.decide(webhook, event_id, received_at, known.decode() if known else None, self._rules)
        step = self._written(verdict, webhook, event_id)
        team_id = verdict.team_id
        if subscription is not None and team_id is not None and known != team_id.encode():
            step = step._replace(key=subscription, row=team_id.encode())
        return step

    def _written(self, verdict: normalise.Normalisation, webhook: RazorpayWebhook, event_id: str) -> Step:
        match verdict:
            case Ignored(reason=reason):
                return Step(reason)
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
                    data=fact.model_dump(exclude_none=True),
                )
                return Step(Reason.NORMALISED, (Output(self._team_events, team_id.encode(), value, HEADERS),))
            case Parked(reason=reason, error=error, team_id=team_id, undeliverable=fact):
                outputs = (self._undeliverable(fact, team_id, event_id, reason),) if fact else ()
                return Step(reason, outputs, error=error)

    def _undeliverable(self, fact: SubscriptionFact, team_id: str | None, event_id: str, reason: Reason) -> Output:
        occurred_at = rfc3339(fact.occurred_at)
        metadata = fact.model_dump(include={"subscription_id", "plan_id", "time_source", "paid_count", "amount", "currency", "payment_id"})
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

    def _link(self, record: Record) -> Step:
        if record.value is None:
            return Step(Reason.LINKED)  # a tombstone: what was learned stays, events with a note correct it
        try:
            link = Envelope[SubscriptionLink].model_validate_json(record.value).data
        except ValidationError as error:
            return Step(Reason.MALFORMED, error=describe(error))
        team_id = canonical_team_id(link.team_id)
        if team_id is None:
            return Step(Reason.UNKNOWN_TEAM, error=f"The link of {link.subscription_id} names no team id (a UUID).")
        subscription = link.subscription_id.encode()
        if record.key != subscription:
            return Step(Reason.REROUTED, (Output(record.topic, subscription, record.value, record.headers),))
        return Step(Reason.LINKED, key=subscription, row=team_id.encode())


def _delivery(record: Record) -> tuple[str, int]:
    """Return the event id and the receipt (Unix seconds) that the gateway noted in the record's headers."""
    headers = {name: value for name, value in record.headers if value}
    event_id = headers.get("razorpay-event-id", b"").decode("ascii", "replace")
    received = headers.get("received-at", b"")
    received_ms = int(received) if received.isdigit() else record.timestamp
    return event_id or f"{record.topic}-{record.partition}-{record.offset}", received_ms // 1000
