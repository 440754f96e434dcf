"""One team's timeline from what the logs and the tables hold of it: each event, what was decided on it, and why. Pure.

Outcomes are the recorded ones where something was recorded (a dead letter, an audit row), else those of the pure decisions, made again
over the records of the team in the order of the log.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import orjson

from agents.classify.packing import unpack
from agents.classify.registers import EMPTY, standing
from agents.classify.stage import ClassifyStage
from agents.normalise.decide import Rules
from agents.normalise.stage import NORMALISE_SOURCE, NormaliseStage, delivery_of
from schemas.envelope import canonical_team_id
from schemas.kinds import OPERATOR_KINDS, Kind
from schemas.razorpay import MalformedWebhook, RazorpayWebhook, parse_webhook
from schemas.reasons import Reason
from schemas.serialize import rfc3339
from schemas.team_events import SubscriptionEvent
from streams.engine.replay import Replayed, replay
from streams.kafka.records import Record
from streams.operate.dead_letters.letters import read
from streams.operate.explain.closings import action_of, closings, decision
from streams.operate.explain.entries import NOT_KNOWN, PENDING, Closing, Entry, Explanation, Json, moment_text
from streams.settings import Settings
from streams.stores.audit_log import AuditRow
from streams.stores.explanations import Mail
from streams.topics import AUDIT_EVENTS, TEAM_EVENTS

Place = tuple[str, int, int]
"""Full topic name, partition, offset."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was found of one team (or of subscriptions that nobody is known to own), by partition and offset.

    ``worked_in`` holds the next offset of the deciding stages by topic (full name) and partition. ``cut`` holds the topics, by their
    short names, of which retention took the beginning of a partition that was read.
    """

    team_id: str | None
    webhooks: Sequence[Record]
    links: Sequence[Record]
    facts: Sequence[Record]
    audit_events: Sequence[Record]
    dead_letters: Sequence[Record]
    rows: Sequence[AuditRow]
    mails: Sequence[Mail]
    current: Json | None
    worked_in: Mapping[tuple[str, int], int]
    cut: frozenset[str] = frozenset()


def timeline(evidence: Evidence, settings: Settings, rules: Rules) -> Explanation:
    """Return what became of each event in ``evidence``. ``rules`` are those that normalise decides with today."""
    return _Timeline(evidence, settings, rules).explanation()


@dataclass
class _Fact:
    """A record of ``team.events`` with its envelope, and what classify made of it."""

    record: Record
    head: Json
    replayed: Replayed
    entries: list[Entry] = field(default_factory=list)

    @property
    def cause(self) -> str | None:
        """The event id of the webhook that normalise made it of; None for what nobody sent, and what services did."""
        is_webhooks = self.head.get("source") == NORMALISE_SOURCE and self.head.get("type") != SubscriptionEvent.MOVED
        return self.head.get("causationid") if is_webhooks else None


_LAST_MS = 253_402_300_799_000
"""Of the year 9999: what is later is no receipt."""


class _Timeline:
    def __init__(self, evidence: Evidence, settings: Settings, rules: Rules) -> None:
        self._evidence, self._settings, self._rules = evidence, settings, rules
        self._rows = {str(row.id): row for row in evidence.rows}
        self._mails = {str(mail.audit_id): mail for mail in evidence.mails}
        self._audit_places = {_head(record).get("id"): record for record in reversed(evidence.audit_events)}
        self._letters: dict[tuple[str, Place], list[Record]] = defaultdict(list)
        for letter in evidence.dead_letters:
            origin = origin_of(letter)
            if origin is not None:
                self._letters[origin].append(letter)
        self._closings = closings(evidence.dead_letters, self._operators(), settings.topic_prefix)
        self._explained: set[str] = set()
        self._is_decided_again = TEAM_EVENTS.name not in evidence.cut

    def explanation(self) -> Explanation:
        facts = [_Fact(each.record, _head(each.record), each) for each in self._replayed_facts()]
        for fact in facts:
            fact.entries = list(self._of_fact(fact))
        entries = [*self._of_webhooks(facts), *(entry for fact in facts for entry in fact.entries), *self._of_other_rows()]
        entries.sort(key=lambda entry: entry.at)
        evidence, current = self._evidence, self._evidence.current
        tier, since = (current["tier"], current["since"]) if current else (None, None)
        if evidence.team_id is not None and current is None:
            tier = self._settings.initial.label
        notes = [
            f"The log of {topic} no longer reaches back to its beginning: what it held before is known from the tables alone, "
            "and what left no row there is not known."
            for topic in sorted(evidence.cut)
        ]
        return Explanation(evidence.team_id, tier, since, entries, notes)

    def _replayed_facts(self) -> Iterable[Replayed]:
        return replay(ClassifyStage(self._settings), self._evidence.facts, self._settings.partitions)

    def _of_fact(self, fact: _Fact) -> Iterator[Entry]:
        """Yield what became of a record of ``team.events``: an entry for each audit event, or one that says why there is none."""
        record, head, (_, step, before, after) = fact.record, fact.head, fact.replayed
        data = head.get("data")
        data = data if isinstance(data, dict) else {}
        occurred = data.get("occurred_at")
        base = Entry(
            at=_at(record.timestamp),
            type=str(head.get("type") or "unknown"),
            stage="classify",
            outcome=step.reason.value,
            before=self._tier(before),
            after=self._tier(after if after is not None else before),
            event_id=data.get("event_id") or head.get("id"),
            subscription_id=data.get("subscription_id"),
            occurred_at=rfc3339(occurred) if isinstance(occurred, int) else head.get("time"),
            places=(_place_text(record),),
            error=step.error,
        )
        letter = self._letter("classify", record)
        if letter is not None:
            yield replace(base, **self._parked(letter))
            return
        if record.offset >= self._worked_in(record):
            yield replace(base, outcome=PENDING, before=None, after=None, error=None)
            return
        if not self._is_decided_again:
            yield from self._of_cut_fact(base, head)
            return
        emitted = [_loads(output.value) for output in step.outputs if output.topic == AUDIT_EVENTS.full_name(self._settings)]
        for event in emitted:
            yield self._with_audit(base, event)
        if not emitted:
            yield base

    def _of_cut_fact(self, base: Entry, head: Json) -> Iterator[Entry]:
        """What is recorded of a fact that can not be decided again: the audit events that it caused."""
        base = replace(base, outcome=NOT_KNOWN, before=None, after=None, error=None)
        caused = [record for record in self._evidence.audit_events if _head(record).get("causationid") == head.get("id")]
        ids = {str(_head(record)["id"]): _head(record) for record in caused}
        for event in ids.values():
            yield self._with_audit(base, event)
        rows = [row for row in self._rows.values() if str(row.id) not in ids and _loads(row.metadata).get("event_id") == base.event_id]
        for row in rows:
            yield self._with_row(base, row)
        if not ids and not rows:
            yield base

    def _with_audit(self, base: Entry, event: Json) -> Entry:
        """Return the entry with an audit event that was decided: its row, its mail, its place."""
        audit_id, metadata = str(event["id"]), event["data"]["metadata"]
        self._explained.add(audit_id)
        record = self._audit_places.get(audit_id)
        letters = [] if record is None else [letter for stage in ("audit", "forward") if (letter := self._letter(stage, record))]
        return replace(
            base,
            outcome=str(metadata.get("reason") or base.outcome),
            before=metadata.get("from") or base.before,
            after=metadata.get("to") or base.after,
            audit_id=audit_id,
            kind=event["type"],
            places=base.places if record is None else (*base.places, _place_text(record)),
            row_written=audit_id in self._rows,
            summary=event["data"].get("summary"),
            mail=self._mails.get(audit_id),
            dead_letters=(*base.dead_letters, *map(_letter_text, letters)),
            closings=(*base.closings, *self._closings_of(*letters)),
        )

    def _with_row(self, base: Entry, row: AuditRow) -> Entry:
        metadata = _loads(row.metadata)
        event = {"id": str(row.id), "type": row.kind, "data": {"metadata": metadata, "summary": row.summary}}
        return self._with_audit(base, event)

    def _of_webhooks(self, facts: Sequence[_Fact]) -> Iterator[Entry]:
        """Yield what became of webhooks that led to no fact of this team; note on its entries where those of the others came from."""
        by_cause: dict[str, list[_Fact]] = defaultdict(list)
        for fact in facts:
            if fact.cause is not None:
                by_cause[fact.cause].append(fact)
        stage = NormaliseStage(self._settings, self._rules)
        merged = sorted((*self._evidence.webhooks, *self._evidence.links), key=lambda record: record.timestamp)
        webhooks = {id(record) for record in self._evidence.webhooks}
        for each in replay(stage, merged, self._settings.partitions):
            record = each.record
            if id(record) not in webhooks or each.step.reason is Reason.REROUTED:
                continue
            event_id, _ = delivery_of(record)
            letter = self._letter("normalise", record)
            if letter is None and by_cause.get(event_id):
                fact = by_cause[event_id].pop(0)
                fact.entries = [replace(entry, at=_received(record), places=(_place_text(record), *entry.places)) for entry in fact.entries]
            elif self._concerns(each):
                yield self._unfruitful(each, event_id, letter)

    def _concerns(self, each: Replayed) -> bool:
        """Whether a webhook about one of the subscriptions is the team's: that subscription may have been others' too."""
        team_id = self._evidence.team_id
        webhook = _webhook(each.record)
        note = canonical_team_id(webhook.note(self._rules.team_note)) if webhook is not None else None
        owners = {
            output.key.decode() for output in each.step.outputs if output.key and output.topic == TEAM_EVENTS.full_name(self._settings)
        }
        return team_id is None or team_id in (note or team_id, *owners)

    def _unfruitful(self, each: Replayed, event_id: str, letter: Record | None) -> Entry:
        record, webhook = each.record, _webhook(each.record)
        reason, error = each.step.reason.value, each.step.error
        if letter is None:
            if record.offset >= self._worked_in(record):
                reason, error = PENDING, None
            elif each.step.reason is Reason.NORMALISED:
                reason, error = NOT_KNOWN, "Its fact is not on team.events: retention took it, or another setting of the plans decided it."
        entry = Entry(
            at=_received(record),
            type=(webhook.event if webhook else None) or "unknown",
            stage="normalise",
            outcome=reason,
            event_id=event_id,
            subscription_id=webhook.subscription.id if webhook and webhook.subscription else None,
            places=(_place_text(record),),
            error=error,
        )
        if letter is not None:
            entry = replace(entry, **self._parked(letter))
        row = next((row for row in self._rows.values() if row.kind == Kind.CHARGE_UNDELIVERABLE and _of_event(row, event_id)), None)
        if row is None or str(row.id) in self._explained:
            return entry
        return replace(self._with_row(entry, row), outcome=entry.outcome)

    def _of_other_rows(self) -> Iterator[Entry]:
        """Yield the audit rows that nothing on the log explains: what operators did, and what the log no longer holds."""
        for audit_id, row in self._rows.items():
            if audit_id in self._explained:
                continue
            metadata = _loads(row.metadata)
            stage = "operate" if row.kind in OPERATOR_KINDS else "classify"
            base = Entry(
                at=moment_text(row.created_at) or "",
                type=row.kind,
                stage=stage,
                outcome=NOT_KNOWN if stage == "classify" else row.kind.rpartition(".")[2],
                event_id=metadata.get("event_id"),
                subscription_id=metadata.get("subscription_id"),
                occurred_at=metadata.get("occurred_at"),
                error=metadata.get("because"),
            )
            yield self._with_row(base, row)

    def _letter(self, stage: str, record: Record) -> Record | None:
        letters = self._letters.get((stage, (record.topic, record.partition, record.offset)))
        return letters[-1] if letters else None

    def _parked(self, letter: Record) -> Json:
        headers = headers_of(letter)
        return {
            "outcome": headers.get("dlq-reason", "unknown"),
            "error": headers.get("dlq-error"),
            "dead_letters": (_letter_text(letter),),
            "closings": self._closings_of(letter),
            "before": None,
            "after": None,
        }

    def _closings_of(self, *letters: Record) -> tuple[Closing, ...]:
        entries = (read(letter, self._settings.topic_prefix) for letter in letters)
        return tuple(self._closings[entry.identity] for entry in entries if entry.identity in self._closings)

    def _operators(self) -> dict[str, Json]:
        """Return what operators said of dead letters, by decision: from the rows, and from the log for those not written yet."""
        said = [(row.kind, _loads(row.metadata)) for row in self._evidence.rows]
        for record in self._evidence.audit_events:
            head = _head(record)
            data = head.get("data")
            metadata = data.get("metadata") if isinstance(data, dict) else None
            said.append((str(head.get("type")), metadata if isinstance(metadata, dict) else {}))
        return {decision(metadata.get("at"), action): metadata for kind, metadata in said if (action := action_of(kind))}

    def _worked_in(self, record: Record) -> int:
        return self._evidence.worked_in.get((record.topic, record.partition), 0)

    def _tier(self, packed: bytes | None) -> str:
        return standing(EMPTY if packed is None else unpack(packed), self._settings.initial).tier.label


def origin_of(letter: Record) -> tuple[str, Place] | None:
    """Return the stage that gave a record up, and where that record stands; None when the dead letter's headers do not say so."""
    headers = headers_of(letter)
    try:
        return headers["dlq-stage"], (headers["dlq-topic"], int(headers["dlq-partition"]), int(headers["dlq-offset"]))
    except (KeyError, ValueError):
        return None


def headers_of(record: Record) -> dict[str, str]:
    """Return a record's headers as text, the last one of a name."""
    return {name: str(value, "utf-8", "replace") for name, value in record.headers if value is not None}


def _letter_text(letter: Record) -> str:
    return _place_text(letter)


def _place_text(record: Record) -> str:
    return f"{record.topic}:{record.partition}:{record.offset}"


def _of_event(row: AuditRow, event_id: str) -> bool:
    return bool(_loads(row.metadata).get("event_id") == event_id)


def _webhook(record: Record) -> RazorpayWebhook | None:
    try:
        return parse_webhook(record.value or b"")
    except MalformedWebhook:
        return None


def _head(record: Record) -> Json:
    return _loads(record.value)


def _loads(text: bytes | str | None) -> Json:
    try:
        found = orjson.loads(text or b"")
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _received(record: Record) -> str:
    """The gateway's receipt where it noted one that is a time, else the broker's."""
    received = headers_of(record).get("received-at", "")
    return _at(int(received) if received.isdigit() and int(received) <= _LAST_MS else record.timestamp)


def _at(milliseconds: int) -> str:
    return moment_text(datetime.fromtimestamp(milliseconds / 1000, UTC)) or ""
