"""What the stack left behind, compared with what the oracles expect: audit rows, ledger, mails, current tiers, outcomes.

The oracles are fed the logs that the stack itself read (``razorpay.webhooks``, ``team.events``), so any order in which the
events arrived is judged by the same rules.
"""

import asyncio
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import httpx
from confluent_kafka import Message

from schemas.envelope import derived_id
from schemas.kinds import GRACE_KINDS, Kind
from schemas.serialize import rfc3339
from streams.settings import Settings
from tests.accounting import outcomes
from tests.due_verdict import DueRecords, nothing_is_due_soon
from tests.load import NIL_TEAM, UNKNOWN_PLAN
from tests.oracle import Outcome, SequentialOracle, final_standings
from tests.topic_io import as_json, read_all, read_json
from tests.waiting import until

Json = dict[str, Any]
DELIVERED = ("sent", "already_sent", "delivered", "bounced_soft", "bounced_hard", "complaint", "unsubscribed")
"""What the ledger says of a mail that Loops accepted, whatever it reported since."""
SHOWN = 10
POISON = Outcome("malformed", (), None, None)


@dataclass
class Findings:
    """Every difference, in words; all empty when the stack is exact."""

    missing: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    duplicate_rows: list[str] = field(default_factory=list)
    duplicate_mails: list[str] = field(default_factory=list)
    events: int = 0
    due_records: int = 0
    rows: int = 0
    mails: int = 0

    def __str__(self) -> str:
        return "\n".join(self.lines()) or f"exact: {self.events} events ({self.due_records} due), {self.rows} rows, {self.mails} mails"

    def lines(self) -> Iterator[str]:
        """The first few differences of each sort."""
        for sort in ("missing", "wrong", "duplicate_rows", "duplicate_mails"):
            found = getattr(self, sort)
            yield from (f"{sort}: {difference}" for difference in found[:SHOWN])
            if len(found) > SHOWN:
                yield f"{sort}: and {len(found) - SHOWN} more"

    @property
    def exact(self) -> bool:
        """Whether there is no difference."""
        return not (self.missing or self.wrong or self.duplicate_rows or self.duplicate_mails)


def worked_in(settings: Settings) -> bool:
    """Whether both deciding stages have worked in all that their topics hold."""
    webhooks, events = len(read_all(settings, "razorpay.webhooks")), len(read_all(settings, "team.events"))
    return (outcomes(settings, "normalise").total(), outcomes(settings, "classify").total()) == (webhooks, events)


def decided(settings: Settings) -> bool:
    """Whether both deciding stages have worked in all, and no time will pass in the next moments that a row waits for."""
    # In this order: what came due meanwhile was worked in before, or is found to be still to come.
    return worked_in(settings) and nothing_is_due_soon(settings) and worked_in(settings)


def judged(events: Sequence[Message], due: DueRecords) -> list[tuple[Json, Outcome]]:
    """Each record of ``team.events`` with what the sequential oracle says of it, in the order of its log. ``due`` watches the oracle."""
    found: list[tuple[Json, Outcome]] = []
    for message in events:
        value = as_json(message)
        received_at = message.timestamp()[1] // 1000
        if value is None:
            found.append(({}, POISON))
        else:
            found.append((value, due.oracle.feed(value, received_at)))
            due.note(value, received_at)
    return found


def header(message: Message, wanted: str) -> str:
    """The value of the first header called ``wanted``."""
    headers: Any = message.headers() or []
    return str(next(value.decode() for name, value in headers if name == wanted))


def unplaced(webhooks: Sequence[Message]) -> dict[str, str | None]:
    """Audit id → team of each charge on a plan that nobody knows, or for nobody (None), which normalise itself emits."""
    found: dict[str, str | None] = {}
    for message in webhooks:
        body = as_json(message)
        if body is None:
            continue
        entity = body["payload"]["subscription"]["entity"]
        if body["event"] != "subscription.charged":
            continue
        notes = entity["notes"] or body["payload"]["payment"]["entity"]["notes"]
        team = None if notes["team_id"] == NIL_TEAM else notes["team_id"]
        if entity["plan_id"] == UNKNOWN_PLAN or team is None:
            event_id = header(message, "razorpay-event-id")
            found[derived_id("normalise", "razorpay", event_id, team, Kind.CHARGE_UNDELIVERABLE)] = team
    return found


def expected_mails(
    verdicts: Sequence[tuple[Json, Outcome]], refuses: Callable[[str], bool]
) -> tuple[dict[str, list[tuple[str, str | None, str]]], set[str]]:
    """By team, in order: (audit id, address, event name); and the ids of the claims whose team has been welcomed before. The owner's address
    once the team is claimed, else the payer's. A record that a broker's restart has put on the log twice has one id, and one mail."""
    owners: dict[str, str] = {}
    mailed: set[str] = set()
    welcomed: set[str] = set()
    suppressed: set[str] = set()
    mails: dict[str, list[tuple[str, str | None, str]]] = defaultdict(list)
    for value, outcome in verdicts:
        for row in outcome.rows:
            if row.kind == Kind.CLAIMED:
                owners[row.team] = value["data"]["email"]
            if row.kind != Kind.CHARGE_UNDELIVERABLE and row.id not in mailed:
                mailed.add(row.id)
                address = owners.get(row.team) or value["data"].get("email")
                if row.kind == Kind.CLAIMED and row.team in welcomed:
                    suppressed.add(row.id)
                    continue
                mails[row.team].append((row.id, address, row.kind))
                if row.kind == Kind.CLAIMED and address and not refuses(address):
                    welcomed.add(row.team)
    return mails, suppressed


async def accepted_mails(loops: str) -> list[Json]:
    """Return the mails that the fake Loops has accepted since it was started, in their order."""
    async with httpx.AsyncClient(base_url=loops, timeout=120, trust_env=False) as client:
        found: list[Json] = (await client.get("/_sent")).json()
    return found


async def delivered_mails(postgres: str) -> set[str]:
    """Return the ids of the audit rows whose mail Loops has accepted, as the ledger says."""
    connection = await asyncpg.connect(postgres)
    try:
        rows = await connection.fetch("select audit_id from forwarder_sent where classification = any($1)", DELIVERED)
    finally:
        await connection.close()
    return {str(row["audit_id"]) for row in rows}


async def compare(
    settings: Settings,
    postgres: str,
    loops: str | Sequence[Json],
    refuses: Callable[[str], bool] = lambda address: False,
    *,
    undisturbed: bool = False,
    forgotten: Collection[str] = (),
) -> Findings:
    """Compare all that is there now; call it once everything has settled. ``loops`` is its address, or the mails that it accepted;
    ``refuses`` says whether Loops refuses an address, ``undisturbed`` that no worker died or lost a partition, so that no due record may
    have come twice. The mails of ``forgotten``, ids of audit rows, need not be listed: Loops has been restarted, and the ledger speaks for them."""
    due = DueRecords(SequentialOracle())
    events, webhooks = read_all(settings, "team.events"), read_all(settings, "razorpay.webhooks")
    verdicts = judged(events, due)
    findings = Findings(events=len(events), due_records=due.came.total(), missing=due.missing(), wrong=due.wrong)
    if undisturbed:
        findings.wrong += due.repeated()
    connection = await asyncpg.connect(postgres)
    try:
        rows = await connection.fetch("select id, team_id, kind, metadata from audit_log")
        ledger = {
            str(row["audit_id"]): row["classification"]
            for row in await connection.fetch("select audit_id, classification from forwarder_sent")
        }
    finally:
        await connection.close()
    sent = await accepted_mails(loops) if isinstance(loops, str) else loops
    findings.rows, findings.mails = len(rows), len(sent)

    _compare_rows(findings, verdicts, unplaced(webhooks), rows)
    mails, suppressed = expected_mails(verdicts, refuses)
    _compare_mails(findings, mails, sent, refuses, forgotten)
    _compare_ledger(findings, mails, suppressed, ledger, refuses)
    _compare_tiers(findings, settings, events)
    _compare_outcomes(findings, settings, verdicts, len(webhooks))
    return findings


def _compare_rows(findings: Findings, verdicts: Sequence[tuple[Json, Outcome]], others: dict[str, str | None], rows: Sequence[Any]) -> None:
    expected: dict[str, tuple[str | None, ...]] = {
        row.id: (row.team, row.kind, row.from_tier, row.to_tier, row.reason, None if row.ends_at is None else rfc3339(row.ends_at))
        for _, outcome in verdicts
        for row in outcome.rows
    }
    emitted: dict[str, tuple[str | None, ...]] = {}
    for row in rows:
        metadata = json.loads(row["metadata"])
        if str(row["id"]) in emitted:
            findings.duplicate_rows.append(f"audit row {row['id']}")
        ends_at = metadata.get("ends_at") if row["kind"] in GRACE_KINDS else None  # a service may call a field of its own so
        tiers = metadata.get("from"), metadata.get("to")
        emitted[str(row["id"])] = (str(row["team_id"]), row["kind"], *tiers, metadata["reason"], ends_at)
    for key in (expected.keys() | others.keys()) - emitted.keys():
        findings.missing.append(f"audit row {key} {expected.get(key, others.get(key))}")
    for key, content in emitted.items():
        if key in others:
            continue
        want = expected.get(key)
        if want is not None and content[2] is None:  # a kind that only passes through says nothing of tiers
            content = (*content[:2], *want[2:4], *content[4:])
        if content != want:
            findings.wrong.append(f"audit row {key} says {content} instead of {want}")


def _compare_mails(
    findings: Findings,
    mails: dict[str, list[tuple[str, str | None, str]]],
    sent: Sequence[Json],
    refuses: Callable[[str], bool],
    forgotten: Collection[str],
) -> None:
    teams = {audit_id: team for team, of_team in mails.items() for audit_id, _, _ in of_team}
    accepted: dict[str, list[tuple[str, str | None, str]]] = defaultdict(list)
    seen: Counter[str] = Counter()
    for mail in sent:
        key = mail["idempotency_key"]
        seen[key] += 1
        if key not in teams:
            findings.wrong.append(f"mail {key} ({mail['eventName']}) that no event asks for")
        else:
            accepted[teams[key]].append((key, mail["email"], mail["eventName"]))
    findings.duplicate_mails += [f"mail {key}" for key, count in seen.items() if count > 1]
    for team, of_team in mails.items():
        wanted = [mail for mail in of_team if mail[1] and not refuses(mail[1])]
        findings.missing += [f"mail {mail[0]} ({mail[2]})" for mail in wanted if mail[0] not in seen and mail[0] not in forgotten]
        if accepted[team] != wanted and {mail[0] for mail in wanted} == {mail[0] for mail in accepted[team]}:
            findings.wrong.append(f"mails of team {team}: {accepted[team]} instead of {wanted}")


def _compare_ledger(
    findings: Findings,
    mails: dict[str, list[tuple[str, str | None, str]]],
    suppressed: set[str],
    ledger: dict[str, str],
    refuses: Callable[[str], bool],
) -> None:
    def allowed_for(address: str | None) -> tuple[str, ...]:
        if not address:
            return ("no_recipient",)
        return ("refused",) if refuses(address) else DELIVERED

    wanted = {audit_id: allowed_for(address) for of_team in mails.values() for audit_id, address, _ in of_team}
    wanted |= dict.fromkeys(suppressed, ("suppressed",))
    for audit_id, allowed in wanted.items():
        if ledger.get(audit_id) not in allowed:
            findings.wrong.append(f"ledger row {audit_id} says {ledger.get(audit_id)} instead of one of {allowed}")
    findings.wrong += [f"ledger row {audit_id} that no event asks for" for audit_id in ledger.keys() - wanted.keys()]


def _compare_tiers(findings: Findings, settings: Settings, events: Sequence[Message]) -> None:
    values = [(value, message.timestamp()[1] // 1000) for message in events if (value := as_json(message)) is not None]
    expected = {team: (standing.tier, standing.subscription) for team, standing in final_standings(values).items()}
    current: dict[str, tuple[str, str | None]] = {}
    for message in read_all(settings, "tier.current"):
        data = json.loads(message.value() or b"")["data"]
        current[data["team_id"]] = (data["tier"], data["subscription_id"])
    for team in expected.keys() | current.keys():
        if expected.get(team) != current.get(team):
            findings.wrong.append(f"tier.current of {team} is {current.get(team)} instead of {expected.get(team)}")


def _compare_outcomes(findings: Findings, settings: Settings, verdicts: Sequence[tuple[Json, Outcome]], webhooks: int) -> None:
    counted, wanted = outcomes(settings, "classify"), Counter(outcome.reason for _, outcome in verdicts)
    if counted != wanted:
        findings.wrong.append(f"classify counted {dict(counted)} instead of {dict(wanted)}")
    normalised = outcomes(settings, "normalise").total()
    if normalised != webhooks:
        findings.wrong.append(f"normalise counted {normalised} outcomes of {webhooks} webhooks")


async def until_settled(settings: Settings, postgres: str, seconds: float, explain: Callable[[], str] = lambda: "") -> None:
    """Return once every stage has worked in everything, and nothing comes due any more; fail, with what ``explain`` says, after ``seconds``."""
    deadline = time.monotonic() + seconds
    await until(lambda: decided(settings), f"the deciding stages at the end of their topics, and nothing due; {explain()}", seconds)
    expected = len({event["id"] for event in await asyncio.to_thread(read_json, settings, "audit.events")})
    while (state := await _written_and_open(postgres)) != (expected, 0):
        assert time.monotonic() < deadline, f"{state[0]} of {expected} audit rows, {state[1]} mails open; {explain()}"
        await asyncio.sleep(0.2)


async def _written_and_open(postgres: str) -> tuple[int, int]:
    """Return how many audit rows there are, and how many mails are still open."""
    connection = await asyncpg.connect(postgres)
    try:
        written = await connection.fetchval("select count(*) from audit_log")
        waiting = await connection.fetchval(
            "select count(*) from audit_log a left join forwarder_sent f on f.audit_id = a.id"
            " where a.kind <> 'billing.charge_undeliverable' and (f.audit_id is null or f.classification = 'in_flight')"
        )
        return written, waiting
    finally:
        await connection.close()
