"""The demo's accounting: what was received, each outcome, and whether everything that was written agrees. Pure.

Every figure is taken from what the stages wrote (position rows, topics, tables, Loops) and compared with a replay of the input
topics through the same pure decisions. Nothing is taken from the scenario but what it expected.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from agents.audit import decide as audit
from agents.audit.record import KINDS
from agents.classify.packing import unpack
from agents.classify.registers import EMPTY, standing
from agents.classify.stage import ClassifyStage
from agents.normalise.again import NormaliseAgain
from agents.normalise.plans import load_rules
from schemas.loops import LOOPS_MAP, NeverMailed
from schemas.reasons import Reason
from schemas.team_events import SubscriptionEvent
from schemas.tiers import Tier
from streams.demo.deliveries import BAD_SIGNATURE, Delivery
from streams.demo.scenario import Scenario
from streams.engine.replay import Replayed, replay
from streams.engine.transactions import Output
from streams.kafka.dead_letters import REPLAYS, is_dead_letter
from streams.kafka.records import Record
from streams.operate.actions import SOURCE as OPERATORS
from streams.settings import Settings
from streams.stores.audit_log import AuditRow
from streams.topics import AUDIT_EVENTS, TEAM_EVENTS, TIER_CURRENT

Json = dict[str, Any]

ACCEPTED = "accepted"
"""Outcome of a request that the gateway took: it is handed on, and has its outcome in a later stage."""

_DERIVED: frozenset[str] = frozenset({SubscriptionEvent.DUE, SubscriptionEvent.MOVED})

_ANSWERS: dict[int, str] = {200: ACCEPTED, 202: ACCEPTED, 401: BAD_SIGNATURE, 400: Reason.MALFORMED}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the system has written, as it was read back. Records stand by partition and offset.

    ``counted`` holds each deciding stage's own counts of outcomes, ``ledger`` the classification of each audit id.
    """

    answers: tuple[tuple[Delivery, int], ...]
    webhooks: tuple[Record, ...]
    team_events: tuple[Record, ...]
    audit_events: tuple[Record, ...]
    tiers: tuple[Record, ...]
    dead_letters: tuple[Record, ...]
    counted: Mapping[str, Counter[str]]
    rows: tuple[AuditRow, ...]
    ledger: Mapping[str, str]
    mails: tuple[Json, ...]


@dataclass(frozen=True, slots=True)
class Decided:
    """One decision. ``team`` is its team's name, None for a stranger's; the tiers are the team's before and after it, where a table
    holds them."""

    team: str | None
    event: str
    stage: str
    event_id: str
    reason: str
    before: Tier | None = None
    after: Tier | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """What one stage received, and what became of it."""

    stage: str
    received: int
    outcomes: Counter[str]


@dataclass(frozen=True, slots=True)
class Accounting:
    """Every decision in the order of the log, the accounts of the stages, and one sentence for each thing that does not agree."""

    decided: tuple[Decided, ...]
    accounts: tuple[Account, ...]
    total: Account
    faults: tuple[str, ...]


def balance(scenario: Scenario, evidence: Evidence, settings: Settings) -> Accounting:
    """Decide everything again and compare. ``settings`` are those that the stages ran with."""
    normalise = NormaliseAgain(settings, load_rules(settings))
    for record in evidence.dead_letters:
        normalise.note_dead_letter(record)
    normalised = tuple(replay(normalise, evidence.webhooks, settings.partitions))
    classified = tuple(replay(ClassifyStage(settings), evidence.team_events, settings.partitions))
    decided = _decisions(scenario, evidence, normalised, classified, settings.initial)
    accounts = _accounts(evidence)
    total = _total(accounts, derived_events(evidence.team_events).total() + len(replayed_events(evidence)))
    faults = (
        *_wrong_answers(evidence),
        *_wrong_outcomes(scenario, decided),
        *_unbalanced((*accounts, total)),
        *_replay_differs(evidence, "normalise", normalised),
        *_replay_differs(evidence, "classify", classified),
        *_records_differ(evidence, normalised, classified, settings),
        *_due_records_differ(classified, ClassifyStage(settings)),
        *_stores_differ(evidence),
        *_wrong_tiers(scenario, evidence),
    )
    return Accounting(decided, accounts, total, faults)


def newest_tiers(tiers: Iterable[Record]) -> dict[str, Json]:
    """Return the newest ``data`` of ``tier.current`` by team id."""
    newest = {record.key.decode(): record.value for record in tiers if record.key is not None and record.value is not None}
    return {team_id: orjson.loads(value)["data"] for team_id, value in newest.items()}


def event_id_of(record: Record) -> str:
    """Return the id by which the outside knows the event of a record of ``razorpay.webhooks`` or ``team.events``; nobody outside knows
    of a time that came due, which is called by what it is about."""
    for name, value in record.headers:
        if name == "razorpay-event-id":
            return str(value, "ascii")
    envelope = orjson.loads(record.value or b"{}")
    if envelope["type"] == SubscriptionEvent.DUE:
        return f"{envelope['data']['subscription_id']}@{envelope['data']['occurred_at']}"
    return str(envelope.get("correlationid") or envelope["id"])


def type_of(record: Record) -> str:
    """Return what kind of event a record of ``team.events`` is."""
    return str(orjson.loads(record.value or b"{}")["type"])


def derived_events(team_events: Iterable[Record]) -> Counter[str]:
    """Count, by kind, the events that follow from another event, or from a time that has passed: nobody sent them."""
    return Counter(event for event in map(type_of, team_events) if event in _DERIVED)


def replayed_events(evidence: Evidence) -> tuple[str, ...]:
    """Return the event ids of the webhooks that an operator has replayed, one for each replay."""
    return tuple(event_id_of(record) for record in evidence.webhooks if any(name == REPLAYS for name, _ in record.headers))


def _decisions(
    scenario: Scenario, evidence: Evidence, normalised: Sequence[Replayed], classified: Sequence[Replayed], initial: Tier
) -> tuple[Decided, ...]:
    turned_away = [
        Decided(delivery.team, delivery.event, "gateway", delivery.event_id, _answered(status))
        for delivery, status in evidence.answers
        if status >= 400
    ]
    names = {team_id.encode(): name for name, team_id in scenario.team_ids.items()}
    deliveries = {delivery.event_id: delivery for delivery in scenario.deliveries}
    at: list[tuple[int, int, Decided]] = []
    for record, step, _, _ in normalised:
        delivery = deliveries[event_id_of(record)]
        decided = Decided(delivery.team, delivery.event, "normalise", delivery.event_id, step.reason)
        at.append((record.timestamp, record.offset, decided))
    for record, step, before, after in classified:
        tiers = _tier(before, initial), _tier(after, initial)
        decided = Decided(names.get(record.key or b""), type_of(record), "classify", event_id_of(record), step.reason, *tiers)
        at.append((record.timestamp, record.offset, decided))
    return (*turned_away, *(decided for _, _, decided in sorted(at, key=lambda entry: entry[:2])))


def _answered(status: int) -> str:
    return _ANSWERS.get(status, f"answered_{status}")


def _tier(row: bytes | None, initial: Tier) -> Tier:
    return standing(EMPTY if row is None else unpack(row), initial).tier


def _accounts(evidence: Evidence) -> tuple[Account, ...]:
    answered = Counter(_answered(status) for _, status in evidence.answers)
    audited: Counter[str] = Counter()
    forwarded: Counter[str] = Counter()
    written = {str(row.id) for row in evidence.rows}
    seen: set[str] = set()
    for record in evidence.audit_events:
        envelope = orjson.loads(record.value or b"{}")
        id, is_first = envelope["id"], envelope["id"] not in seen
        seen.add(id)
        if id in written:
            audited[Reason.WRITTEN if is_first else Reason.ALREADY_WRITTEN] += 1
        if isinstance(LOOPS_MAP[KINDS[envelope["type"]]], NeverMailed):
            forwarded[Reason.NEVER_MAILED] += 1
        elif id in evidence.ledger:
            forwarded[evidence.ledger[id] if is_first else Reason.ALREADY_FINAL] += 1
    return (
        Account("gateway", len(evidence.answers), answered),
        Account("normalise", len(evidence.webhooks), evidence.counted["normalise"]),
        Account("classify", len(evidence.team_events), evidence.counted["classify"]),
        Account("audit", len(evidence.audit_events), audited),
        Account("forward", len(evidence.audit_events), forwarded),
    )


def _total(accounts: Sequence[Account], beside: int) -> Account:
    """Every request to the gateway with the one outcome that it had in the end: there, in normalise, or in classify. And every event that
    came ``beside`` them, derived by a stage or replayed by an operator, with its own."""
    gateway, normalise, classify = accounts[:3]
    outcomes = gateway.outcomes + normalise.outcomes + classify.outcomes
    for handed_on in (ACCEPTED, Reason.NORMALISED):
        del outcomes[handed_on]
    return Account("tierstream", gateway.received + beside, outcomes)


def _wrong_answers(evidence: Evidence) -> Iterator[str]:
    for delivery, status in evidence.answers:
        if status != delivery.status:
            yield f"{delivery.event} of {delivery.team or 'a stranger'} was answered {status} instead of {delivery.status}."


def _wrong_outcomes(scenario: Scenario, decided: Iterable[Decided]) -> Iterator[str]:
    """An event that comes twice has two outcomes, in the order of arrival."""
    found: defaultdict[tuple[str, str, str | None], list[str]] = defaultdict(list)
    for decision in decided:
        if decision.reason != Reason.NORMALISED:
            found[decision.event_id, decision.event, decision.team].append(decision.reason)
    expected: defaultdict[tuple[str, str, str | None], list[str]] = defaultdict(list)
    for delivery in scenario.deliveries:
        outcomes = [delivery.reason, *([delivery.replayed] if delivery.replayed else ())]
        expected[delivery.event_id, delivery.event, delivery.team] += outcomes
        for derived in delivery.derived:
            expected[derived.event_id, derived.event, derived.team].append(derived.reason)
    for key in expected | found:
        if found[key] != expected[key]:
            _, event, team = key
            yield f"{event} of {team or 'a stranger'} ended as {_listed(found[key])} instead of {_listed(expected[key])}."


def _unbalanced(accounts: Iterable[Account]) -> Iterator[str]:
    for account in accounts:
        if account.received != account.outcomes.total():
            yield f"{account.stage} received {account.received} and has outcomes for {account.outcomes.total()} ({_counts(account.outcomes)})."


def _replay_differs(evidence: Evidence, stage: str, replayed: Iterable[Replayed]) -> Iterator[str]:
    again, counted = Counter[str](decision.step.reason for decision in replayed), evidence.counted[stage]
    if again != counted:
        yield f"{stage} counted {_counts(counted)}, and its input decided again gives {_counts(again)}."


def _records_differ(
    evidence: Evidence, normalised: Sequence[Replayed], classified: Sequence[Replayed], settings: Settings
) -> Iterator[str]:
    """What the stages produced is what their decisions say, byte for byte; the rest of ``team.events`` came from services, and from
    times that came due."""
    outputs: defaultdict[str, list[Output]] = defaultdict(list)
    for decision in (*normalised, *classified):
        for output in decision.step.outputs:
            outputs[output.topic].append(output)
    audit_events = Counter((output.key, output.value) for output in outputs[AUDIT_EVENTS.full_name(settings)])
    operated = [record for record in evidence.audit_events if orjson.loads(record.value or b"{}")["source"] == OPERATORS]
    if len(operated) != len(replayed_events(evidence)):
        yield f"audit.events says of {len(operated)} replays, and there were {len(replayed_events(evidence))}."
    audit_events.update((record.key, record.value) for record in operated)
    if audit_events != Counter((record.key, record.value) for record in evidence.audit_events):
        yield f"audit.events holds {len(evidence.audit_events)} records, which are not the {audit_events.total()} that were decided."
    facts = Counter((output.key, output.value) for output in outputs[TEAM_EVENTS.full_name(settings)])
    others = Counter((record.key, record.value) for record in evidence.team_events)
    others.subtract(facts)
    sent = sum(status == 202 for _, status in evidence.answers)
    due = derived_events(evidence.team_events)[SubscriptionEvent.DUE]
    if min(others.values(), default=0) < 0 or others.total() != sent + due:
        yield (
            f"team.events holds {others.total()} records beside the {facts.total()} of normalise; services sent {sent}, "
            f"and {due} say that a time has come."
        )
    tiers = {output.key: output.value for output in outputs[TIER_CURRENT.full_name(settings)]}
    if tiers != {record.key: record.value for record in evidence.tiers}:
        yield "tier.current does not hold the tiers that were decided last."
    parked = sum(decision.step.error is not None for decision in (*normalised, *classified)) + sum(
        status == 400 for _, status in evidence.answers
    )
    dead_letters = sum(map(is_dead_letter, evidence.dead_letters))
    if parked != dead_letters:
        yield f"dead.letters holds {dead_letters} dead letters, and {parked} were parked."


def _due_records_differ(classified: Sequence[Replayed], stage: ClassifyStage) -> Iterator[str]:
    """A record that says that a time has come is what classify says of its team's row, and did not come before that time."""
    for record, _, before, _ in classified:
        if type_of(record) == SubscriptionEvent.DUE:
            key, now = record.key or b"", record.timestamp // 1000
            due = () if before is None else stage.due_records(key, before, now)
            if record.value not in [output.value for output in due]:
                yield f"team.events holds a {SubscriptionEvent.DUE} of {event_id_of(record)}, which the row of its team did not wait for."


def _stores_differ(evidence: Evidence) -> Iterator[str]:
    """``audit_log`` holds each audit event once, as it was decided; Loops has accepted what the ledger calls sent, once each."""
    decided = [row for record in evidence.audit_events if isinstance(row := audit.decide(record.value), AuditRow)]
    if {_content(row) for row in decided} != {_content(row) for row in evidence.rows}:
        yield f"audit_log holds {len(evidence.rows)} rows, which are not those of the {len(evidence.audit_events)} audit events."
    sent = Counter((id, kind) for id, kind in ((str(row.id), row.kind) for row in evidence.rows) if evidence.ledger.get(id) == Reason.SENT)
    if sent != Counter((mail["idempotency_key"], mail["eventName"]) for mail in evidence.mails):
        yield f"Loops has accepted {len(evidence.mails)} mails, which are not the {sent.total()} that the ledger calls sent."


def _content(row: AuditRow) -> AuditRow:
    return row._replace(metadata=orjson.dumps(orjson.loads(row.metadata), option=orjson.OPT_SORT_KEYS).decode())


def _wrong_tiers(scenario: Scenario, evidence: Evidence) -> Iterator[str]:
    tiers = newest_tiers(evidence.tiers)
    for team, expected in scenario.last_tiers.items():
        found = tiers.get(scenario.team_ids[team], {}).get("tier")
        if found != expected.label:
            yield f"{team} ends on {found or 'no tier'} instead of {expected.label}."


def _counts(outcomes: Counter[str]) -> str:
    return " + ".join(f"{reason} {count}" for reason, count in sorted(outcomes.items())) or "nothing"


def _listed(reasons: Sequence[str]) -> str:
    return " and ".join(reasons) or "nothing"
