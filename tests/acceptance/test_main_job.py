"""The main job through ``tierstream up``: 2,000 signed webhooks for 200 teams, against oracles that share no code with it."""

import asyncio
import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import asyncpg
import httpx
from confluent_kafka import Message

from schemas.envelope import derived_id
from schemas.kinds import Kind
from tests.acceptance.conftest import Running
from tests.accounting import outcomes
from tests.load import UNKNOWN_PLAN, Life, Webhook, lives
from tests.oracle import Outcome, SequentialOracle, final_standings
from tests.topic_io import read_all, read_json, until

SECRET = "demo-secret"
TOKEN = {"authorization": "Bearer demo-ingest"}


SEED = 11


async def claim(client: httpx.AsyncClient, teams: Iterable[Life]) -> None:
    events = [{"kind": "onboarding.claimed", "team_id": life.team, "id": "claim", "occurred_at": life.clock - 900, "data": {"email": life.email}} for life in teams]
    answer = await client.post("/v1/events", json=events, headers=TOKEN)
    assert answer.status_code == 202, answer.text


async def post(client: httpx.AsyncClient, webhooks: Sequence[Webhook], at_once: int) -> None:
    """Post in order, ``at_once`` at a time; each must get its 200."""
    for start in range(0, len(webhooks), at_once):
        some = webhooks[start : start + at_once]
        answers = await asyncio.gather(*(client.post("/webhooks/razorpay", content=webhook.body, headers=webhook.headers(SECRET)) for webhook in some))
        assert {answer.status_code for answer in answers} == {200}


async def settled(up: Running) -> list[Message]:
    """Wait until every record has been worked through by every stage; return those of ``team.events``."""
    settings = up.settings

    def done() -> bool:
        webhooks, events = read_all(settings, "razorpay.webhooks"), read_all(settings, "team.events")
        return outcomes(settings, "normalise").total() == len(webhooks) and outcomes(settings, "classify").total() == len(events)

    await until(done, f"the end of the load; {up.tail()}", seconds=90)
    return read_all(settings, "team.events")


async def rows_of(up: Running, count: int) -> list[dict[str, Any]]:
    """Wait for ``count`` rows in ``audit_log`` and as many in the ledger but for those never mailed; return the former."""
    connection = await asyncpg.connect(up.url("postgres"))
    try:
        deadline = time.monotonic() + 60
        while True:
            written = await connection.fetchval("select count(*) from audit_log")
            open_mails = await connection.fetchval(
                "select count(*) from audit_log a left join forwarder_sent f on f.audit_id = a.id"
                " where a.kind <> 'billing.charge_undeliverable' and (f.audit_id is null or f.classification = 'in_flight')"
            )
            if written >= count and not open_mails:
                break
            assert time.monotonic() < deadline, f"{written} of {count} rows, {open_mails} mails open; {up.tail()}"
            await asyncio.sleep(0.1)
        rows = await connection.fetch("select id, team_id, kind, actor, metadata from audit_log")
        return [{**row, "metadata": json.loads(row["metadata"])} for row in rows]
    finally:
        await connection.close()


def judged(events: Sequence[Message]) -> list[tuple[dict[str, Any], Outcome]]:
    """Each event of ``team.events`` with what the sequential oracle says of it, in the order of its log."""
    oracle = SequentialOracle()
    found = []
    for message in events:
        value = json.loads(message.value() or b"")
        found.append((value, oracle.feed(value, message.timestamp()[1] // 1000)))
    return found


def expected_mails(verdicts: Sequence[tuple[dict[str, Any], Outcome]]) -> dict[str, list[tuple[str, str, str]]]:
    """By team, in order: (audit id, address, event name). The owner's address once the team is claimed, else the payer's."""
    owners: dict[str, str] = {}
    mails: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
    for value, outcome in verdicts:
        if value["type"] == Kind.CLAIMED:
            owners[value["subject"]] = value["data"]["email"]
        row = outcome.row
        if row is not None and row.kind != Kind.CHARGE_UNDELIVERABLE:
            address = owners.get(row.team) or value["data"].get("email")
            if address:
                mails[row.team].append((row.id, address, row.kind))
    return mails


async def check_everything(up: Running, unplaced: set[str]) -> None:
    """Compare audit rows, mails, current tiers and the accounting with the oracles. ``unplaced``: ids of normalise's own rows."""
    verdicts = judged(await settled(up))
    expected = {row.id: (row.team, row.kind, row.from_tier, row.to_tier, row.reason) for _, outcome in verdicts if (row := outcome.row)}

    rows = await rows_of(up, len(expected) + len(unplaced))
    told = {str(row["id"]): (str(row["team_id"]), row["kind"], row["metadata"]["from"], row["metadata"]["to"], row["metadata"]["reason"]) for row in rows}
    assert {key: value for key, value in told.items() if key not in unplaced} == expected
    assert set(told) == set(expected) | unplaced

    async with httpx.AsyncClient(base_url=up.url("loops"), timeout=30, trust_env=False) as loops:
        sent = (await loops.get("/_sent")).json()
    mails: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
    teams = {key: value[0] for key, value in expected.items()}
    for mail in sent:
        mails[teams[mail["idempotency_key"]]].append((mail["idempotency_key"], mail["email"], mail["eventName"]))
    assert mails == expected_mails(verdicts)

    events = [(json.loads(message.value() or b""), message.timestamp()[1] // 1000) for message in read_all(up.settings, "team.events")]
    current = {event["subject"]: (event["data"]["tier"], event["data"]["subscription_id"]) for event in read_json(up.settings, "tier.current")}  # type: ignore[index]
    assert current == {team: (standing.tier, standing.subscription) for team, standing in final_standings(events).items()}
    assert outcomes(up.settings, "classify") == Counter(outcome.reason for _, outcome in verdicts)


def undeliverable(webhooks: Iterable[Webhook]) -> set[str]:
    """The ids of the audit rows for charges on a plan that nobody knows."""
    charges = (webhook for webhook in webhooks if webhook.plan == UNKNOWN_PLAN and webhook.event == "subscription.charged")
    return {derived_id("normalise", "razorpay", webhook.event_id, webhook.team, Kind.CHARGE_UNDELIVERABLE) for webhook in charges}


async def test_shuffled_and_doubled_webhooks_with_workers_killed_leave_exactly_the_oracles_rows_and_mails(up: Running) -> None:
    teams = lives(seed=SEED, teams=200, webhooks=2_000, start=int(time.time()) - 7_200)
    webhooks = [webhook for life in teams for webhook in life.webhooks]
    assert len(webhooks) == 2_000
    chance = random.Random(SEED)
    deliveries = webhooks + chance.sample(webhooks, 200)
    chance.shuffle(deliveries)

    async with httpx.AsyncClient(base_url=up.url("gateway"), timeout=30, trust_env=False) as client:
        await claim(client, teams)
        for part, victim in enumerate(("normalise", "classify", "classify", "normalise")):
            posting = asyncio.create_task(post(client, deliveries[part * 550 : (part + 1) * 550], at_once=16))
            await up.kill(victim)
            await posting

    await check_everything(up, undeliverable(webhooks))
