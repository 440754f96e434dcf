"""The main job through ``tierstream up``: 2,000 signed webhooks for 200 teams, against oracles that share no code with it."""

import asyncio
import random
import time
from collections.abc import Iterable, Sequence

import httpx

from tests.acceptance.conftest import Running
from tests.load import TeamScenario, Webhook, team_scenarios
from tests.verdict import compare, until_settled

SECRET = "demo-secret"
TOKEN = {"authorization": "Bearer demo-ingest"}


SEED = 11


async def claim(client: httpx.AsyncClient, teams: Iterable[TeamScenario]) -> None:
    events = [
        {
            "kind": "onboarding.claimed",
            "team_id": team_scenario.team,
            "id": "claim",
            "occurred_at": team_scenario.clock - 900,
            "data": {"email": team_scenario.email},
        }
        for team_scenario in teams
    ]
    answer = await client.post("/v1/events", json=events, headers=TOKEN)
    assert answer.status_code == 202, answer.text


async def post(client: httpx.AsyncClient, webhooks: Sequence[Webhook], at_once: int) -> None:
    """Post in order, ``at_once`` at a time; each must get its 200."""
    for start in range(0, len(webhooks), at_once):
        some = webhooks[start : start + at_once]
        answers = await asyncio.gather(
            *(client.post("/webhooks/razorpay", content=webhook.body, headers=webhook.headers(SECRET)) for webhook in some)
        )
        assert {answer.status_code for answer in answers} == {200}


async def test_shuffled_and_doubled_webhooks_with_workers_killed_leave_exactly_the_oracles_rows_and_mails(up: Running) -> None:
    teams = team_scenarios(seed=SEED, teams=200, webhooks=2_000, start=int(time.time()) - 7_200)
    webhooks = [webhook for team_scenario in teams for webhook in team_scenario.webhooks]
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

    await until_settled(up.settings, up.url("postgres"), 150, up.tail)
    findings = await compare(up.settings, up.url("postgres"), up.url("loops"))
    assert findings.exact, findings
    assert findings.rows > 500
