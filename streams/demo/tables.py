"""What the demo prints. It is readable in 80 columns; nothing is cut off, long texts are folded."""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import orjson
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from schemas.reasons import DEAD_LETTER_REASONS, Reason
from schemas.team_events import SubscriptionEvent
from streams.demo.accounting import (
    Account,
    Accounting,
    Decided,
    Evidence,
    Json,
    derived_events,
    event_id_of,
    newest_tiers,
    replayed_events,
    type_of,
)
from streams.demo.deliveries import BAD_SIGNATURE, Delivery
from streams.demo.scenario import MISSING_PLAN, Scenario
from streams.kafka.dead_letters import is_dead_letter
from streams.logging import mask_email

_NOBODY = "-"
_BAD: frozenset[str] = frozenset({*DEAD_LETTER_REASONS, Reason.ENDED, BAD_SIGNATURE})
_MOVES: dict[str, str] = {
    Reason.UPGRADED: "green",
    Reason.GRACE_RECOVERED: "green",
    Reason.DOWNGRADED: "yellow",
    Reason.CANCELED: "yellow",
    Reason.PAUSED: "yellow",
    Reason.MOVED: "yellow",
    Reason.ADMIN_CHANGED: "cyan",
}
_DERIVED_BY: dict[str, str] = {SubscriptionEvent.DUE: "classify", SubscriptionEvent.MOVED: "normalise"}


def show(console: Console, scenario: Scenario, evidence: Evidence, accounting: Accounting) -> None:
    """Print all of it but the line of totals."""
    names = {team_id: name for name, team_id in scenario.team_ids.items()}
    teams = {str(row.id): names.get(str(row.team_id), _NOBODY) for row in evidence.rows}
    deliveries = {delivery.event_id: delivery for delivery in scenario.deliveries}
    handed_on = accounting.accounts[1].outcomes[Reason.NORMALISED]
    for title, table in (
        (f"What came in: {len(evidence.answers)} requests to the gateway, in the order of their arrival", _came_in(evidence)),
        (f"What followed by itself: {_derived_counts(evidence)}", _derived(scenario, evidence)),
        (f"Decisions, team by team ({handed_on} webhooks were normalised on their way to classify)", _decisions(scenario, accounting)),
        (f"Dead letters: {_dead_letter_counts(evidence)}", _dead_letters(evidence, deliveries)),
        (f"Audit rows: {len(evidence.rows)} in PostgreSQL, by the time of the fact", _audit_rows(evidence, teams)),
        (f"Mails: {len(evidence.mails)} accepted by the fake Loops (ids and times are left out here)", _mails(evidence, teams)),
        ("The tier of each team now, from tier.current", _tiers(evidence, names)),
        ("The accounting of each stage", _accounts(accounting.accounts)),
    ):
        console.print(title, style="bold", soft_wrap=True)
        console.print(table)
        console.print()


def totals(total: Account) -> str:
    """Return the line of totals: what was received (requests, and what followed by itself), and that it is the sum of the outcomes."""
    return f"received {total.received} = {_sum(total.outcomes)}"


def _came_in(evidence: Evidence) -> Table:
    table = _table("when", "team", "event", "what it is", "HTTP")
    for delivery, status in evidence.answers:
        style = "" if status < 400 else "red"
        table.add_row(_day(delivery.happened_at), delivery.team or _NOBODY, delivery.event, delivery.note, str(status), style=style)
    return table


def _derived_counts(evidence: Evidence) -> str:
    counts = derived_events(evidence.team_events)
    due, moved = counts[SubscriptionEvent.DUE], counts[SubscriptionEvent.MOVED]
    return f"{due} times that came due, {moved} subscription{'s' if moved != 1 else ''} that moved"


def _derived(scenario: Scenario, evidence: Evidence) -> Table:
    notes = {(each.event_id, each.event): each for delivery in scenario.deliveries for each in delivery.derived}
    table = _table("when", "team", "event", "what it is", "said by")
    for record in sorted(evidence.team_events, key=lambda record: (record.timestamp, record.partition, record.offset)):
        event = type_of(record)
        if event in _DERIVED_BY:
            derived = notes.get((event_id_of(record), event))
            at = orjson.loads(record.value or b"{}")["data"]["occurred_at"]
            team, note = (derived.team, derived.note) if derived is not None else (_NOBODY, _NOBODY)
            table.add_row(_day(at), team, event, note, _DERIVED_BY[event])
    return table


def _decisions(scenario: Scenario, accounting: Accounting) -> Table:
    by_team: dict[str | None, list[Decided]] = {team: [] for team in (*scenario.team_ids, None)}
    for decided in accounting.decided:
        if decided.reason != Reason.NORMALISED:
            by_team[decided.team].append(decided)
    table = _table("team", "event", "stage", "reason", "from -> to")
    for team, decisions in by_team.items():
        for decided in decisions:
            tiers = "" if decided.before is None or decided.after is None else _move(decided.before.label, decided.after.label)
            table.add_row(team or _NOBODY, decided.event, decided.stage, Text(decided.reason, _style(decided.reason)), tiers)
        table.add_section()
    return table


def _dead_letter_counts(evidence: Evidence) -> str:
    parked, replayed = sum(map(is_dead_letter, evidence.dead_letters)), len(replayed_events(evidence))
    return f"{parked}, kept whole; {replayed} replayed once {MISSING_PLAN} was in the plan file"


def _dead_letters(evidence: Evidence, deliveries: Mapping[str, Delivery]) -> Table:
    table = _table("team", "stage", "reason", "now", "error")
    replayed = frozenset(replayed_events(evidence))
    for record in filter(is_dead_letter, evidence.dead_letters):
        headers = {name: str(value, "utf-8", "replace") for name, value in record.headers}
        delivery = deliveries[event_id_of(record)]
        now = Text("replayed", "green") if delivery.event_id in replayed else "open"
        table.add_row(delivery.team or _NOBODY, headers["dlq-stage"], Text(headers["dlq-reason"], "red"), now, headers["dlq-error"])
    return table


def _audit_rows(evidence: Evidence, teams: Mapping[str, str]) -> Table:
    table = _table("when", "team", "kind", "summary")
    for row in evidence.rows:
        table.add_row(_day(row.created_at.timestamp()), teams[str(row.id)], row.kind, row.summary)
    return table


def _mails(evidence: Evidence, teams: Mapping[str, str]) -> Table:
    table = _table("team", "to", "event", "properties")
    for mail in evidence.mails:
        team = teams.get(mail["idempotency_key"], _NOBODY)
        table.add_row(team, mask_email(mail["email"]), mail["eventName"], _properties(mail["eventProperties"]))
    return table


def _tiers(evidence: Evidence, names: Mapping[str, str]) -> Table:
    tiers = newest_tiers(evidence.tiers)
    table = _table("team", "tier", "since", "subscription")
    for team_id, name in names.items():
        if team_id in tiers:
            data = tiers[team_id]
            table.add_row(name, data["tier"], data["since"], data["subscription_id"] or _NOBODY)
    return table


def _accounts(accounts: Iterable[Account]) -> Table:
    table = _table("stage", "received", "outcomes")
    for account in accounts:
        table.add_row(account.stage, str(account.received), _sum(account.outcomes))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%d %b %y")


def _move(before: str, after: str) -> str:
    return f"{before} -> {after}" if before != after else f"stays {after}"


def _style(reason: str) -> str:
    return "red" if reason in _BAD else _MOVES.get(reason, "")


def _properties(properties: Json) -> str:
    """The properties without ids and times; where a tier changes, how."""
    move = [_move(str(properties["from"]), str(properties["to"]))] if {"from", "to"} <= properties.keys() else []
    hidden = {"from", "to", "occurred_at", "expires_at", "ends_at", "subscription_id", "plan_id", "resource_id"}
    return ", ".join(move + [f"{name}={value}" for name, value in properties.items() if name not in hidden])


def _sum(outcomes: Counter[str]) -> str:
    """The commonest first."""
    return " + ".join(f"{count} {reason}" for reason, count in sorted(outcomes.items(), key=lambda entry: (-entry[1], entry[0])))
