"""The thin side of the two stages with a table: a record and its key's row in, an ``Effect`` for the transaction out.

Reading, deciding and rendering stand in their own modules; nothing here produces, commits or waits.
"""

from collections.abc import Sequence
from functools import partial

import msgspec
from pydantic import ValidationError

from agents import classify, normalise
from agents.audit_events import AUDIT_SCHEMA, Owner, audit_event, envelope, owner_of, rfc3339, tier_current
from agents.fast_path import usual_facts
from agents.normalise import Fact, Ignored, Normalised, Parked, Rules
from agents.registers import EMPTY, Row, Standing, pack, standing, unpack
from agents.team_events import TeamEvent, Unreadable, describe, read_team_event
from schemas.envelope import HEADERS, Envelope, canonical_team_id, derived_id
from schemas.kinds import Kind
from schemas.razorpay import MalformedWebhook, RazorpayWebhook, parse_webhook
from schemas.reasons import Reason
from schemas.team_events import SubscriptionLink
from streams.processing import Record
from streams.settings import Settings
from streams.steps import Effect, Run, TableStage
from streams.topics import AUDIT_EVENTS, SUBSCRIPTION_LINKS, TEAM_EVENTS, TIER_CURRENT
from streams.transport.transactions import Output

FACT_SCHEMA = "schemas/subscription-fact/v1"
RAZORPAY = "razorpay"
NORMALISE_SOURCE = "tierstream/normalise"


class Team(msgspec.Struct, frozen=True, gc=False):
    """A team's row as classify decides on it: its one key, its registers, and what they say of its tier and of its owner."""

    team_id: str
    row: Row
    standing: Standing
    owner: Owner


class ClassifyStage(TableStage):
    """``team.events`` → ``audit.events``, ``tier.current``. The row of a team is its packed registers, the key its id."""

    name = classify.STAGE
    by_key = True

    def __init__(self, settings: Settings) -> None:
        self._initial = settings.initial
        self._nobody = Team("", EMPTY, standing(EMPTY, self._initial), owner_of(EMPTY))
        self._audit_events = AUDIT_EVENTS.full_name(settings)
        self._tier_current = TIER_CURRENT.full_name(settings)

    def effect(self, record: Record, row: Team | None) -> Effect:
        """Decide on one event of one team."""
        try:
            event = read_team_event(record.value, record.timestamp // 1000)
        except Unreadable as error:
            return Effect(error.reason, error=str(error))
        team_id = event.team_id
        team = self._nobody if row is None else row
        if team_id != team.team_id:
            key = team_id.encode()
            if record.key != key:
                # Only the partition of its own key holds the team's row.
                return Effect(Reason.REROUTED, (Output(record.topic, key, record.value, record.headers),))
        known, before = team.row, team.standing
        decision = classify.decide(known, event, self._initial, before)
        kind, after, merged = decision.kind, decision.after, decision.row
        same_owner = merged.claim is known.claim and merged.imported is known.imported
        owner = team.owner if same_owner else owner_of(merged)
        outputs = () if kind is None else (Output(self._audit_events, record.key, audit_event(event, decision, kind, owner), HEADERS),)
        if merged is known:
            return Effect(decision.reason, outputs)
        current = None
        if row is None or before.tier != after.tier or before.subscription_id != after.subscription_id:
            current = partial(self._current, record.key, event, after)
        return Effect(decision.reason, outputs, Team(team_id, merged, after, owner), current)

    def run(self, records: Sequence[Record], start: int, row: Team) -> Run | None:
        """Decide on the usual facts from ``start`` on."""
        usual = usual_facts(records, start, row.team_id, row.row, row.owner)
        if usual is None:
            return None
        key = records[start].key
        outputs = [Output(self._audit_events, key, told, HEADERS) for told in usual.audit_events]
        current = None if usual.turn is None else partial(self._current, key, *usual.turn)
        return Run(usual.records, usual.outcomes, outputs, Team(row.team_id, usual.row, usual.standing, row.owner), usual.grown, current)

    def _current(self, key: bytes | None, event: TeamEvent, after: Standing) -> Output:
        return Output(self._tier_current, key, tier_current(event, after), HEADERS)

    def pack(self, row: Team) -> bytes:
        """Return the team's registers, packed."""
        return pack(row.row)

    def unpack(self, key: bytes, packed: bytes) -> Team:
        """Return the team that ``pack`` made a row of."""
        row = unpack(packed)
        return Team(key.decode(), row, standing(row, self._initial), owner_of(row))


class NormaliseStage(TableStage):
    """``razorpay.webhooks``, ``subscription.links`` → ``team.events``. The row of a subscription is its team's id."""

    name = normalise.STAGE

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
        verdict = normalise.decide(webhook, event_id, received_at, known.decode() if known else None, self._rules)
        team_id = verdict.team_id.encode() if verdict.team_id is not None else None
        row = team_id if subscription is not None and team_id != known else None
        return self._written(verdict, webhook, event_id, row)

    def _written(self, verdict: normalise.Normalisation, webhook: RazorpayWebhook, event_id: str, row: bytes | None) -> Effect:
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
