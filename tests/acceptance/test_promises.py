"""Promises to the people who use the gateway, each shown through a running ``tierstream up``."""

import asyncio
import hashlib
import hmac
import json
import os
import random
import sys
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from tests import verdict
from tests.acceptance.conftest import Running
from tests.accounting import outcomes
from tests.forked import tierstream
from tests.load import TeamScenario, Webhook
from tests.topic_io import read_all, read_json
from tests.waiting import until

SECRET = "demo-secret"
TOKEN = {"authorization": "Bearer demo-ingest"}
SAMPLES = Path(__file__).parents[3] / "shared" / "samples" / "razorpay"


@pytest.fixture
async def client(up: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=up.url("gateway"), timeout=30, trust_env=False) as client:
        yield client


@pytest.fixture
def team_scenario() -> TeamScenario:
    team = str(uuid.uuid4())  # and subscriptions of its own: one that another test used would be that team's
    return TeamScenario(team, random.Random(team), int(time.time()) - 3_600, steps=(5,))


async def deliver(client: httpx.AsyncClient, webhook: Webhook) -> None:
    answer = await client.post("/webhooks/razorpay", content=webhook.body, headers=webhook.headers(SECRET))
    assert answer.status_code == 200, answer.text


async def send(client: httpx.AsyncClient, kind: str, team_scenario: TeamScenario, data: dict[str, object], **event: object) -> None:
    answer = await client.post("/v1/events", json={"kind": kind, "team_id": team_scenario.team, "data": data, **event}, headers=TOKEN)
    assert answer.status_code == 202, answer.text


async def rows(up: Running, team: str, count: int, seconds: float = 30) -> list[tuple[str, str, str]]:
    """Wait for ``count`` audit rows of ``team``; return kind, from and to of all, in the order of the facts."""
    connection = await asyncpg.connect(up.url("postgres"))
    try:
        deadline = time.monotonic() + seconds
        while True:
            found = await connection.fetch(
                "select kind, metadata from audit_log where team_id = $1 order by created_at, kind", uuid.UUID(team)
            )
            if len(found) >= count:
                return [(row["kind"], json.loads(row["metadata"]).get("from"), json.loads(row["metadata"]).get("to")) for row in found]
            assert time.monotonic() < deadline, f"{len(found)} of {count} rows; {up.tail()}"
    finally:
        await connection.close()


async def worked_in(up: Running) -> None:
    """Wait until both deciding stages have worked in all that was posted."""
    await until(lambda: verdict.worked_in(up.settings), f"everything worked in; {up.tail()}")


def tier_of(up: Running, team: str) -> str | None:
    """The tier that ``tier.current`` says of ``team`` last."""
    emitted = [event["data"]["tier"] for event in read_json(up.settings, "tier.current") if event["subject"] == team]
    return emitted[-1] if emitted else None


async def test_a_team_scenario_in_order_leaves_the_rows_that_anyone_would_write_by_hand(
    up: Running, client: httpx.AsyncClient, team_scenario: TeamScenario
) -> None:
    await send(
        client, "onboarding.claimed", team_scenario, {"email": team_scenario.email, "tier": "free"}, occurred_at=team_scenario.clock - 60
    )
    pro = team_scenario.subscribe("plan_pro")
    growth = team_scenario.subscribe("plan_growth")
    for webhook in (
        team_scenario.send("subscription.authenticated", pro),
        team_scenario.charge(pro),  # free → pro
        team_scenario.charge(pro),  # a renewal
        team_scenario.charge(pro, "plan_team"),  # pro → team
        team_scenario.charge(pro, "plan_hobby_plus"),  # team → hobby_plus
        team_scenario.charge(pro, "plan_pro"),  # hobby_plus → pro
        team_scenario.send("subscription.halted", pro, status="halted"),  # pro → hobby
        team_scenario.charge(pro),  # hobby → pro
        team_scenario.charge(growth),  # pro → growth, by a second subscription
        team_scenario.send("subscription.cancelled", pro, status="cancelled"),  # the old one: nothing
        team_scenario.send("subscription.cancelled", growth, status="cancelled"),  # growth → hobby
    ):
        await deliver(client, webhook)
        await worked_in(up)  # two subscriptions are two keys: only one subscription's webhooks keep their order by themselves

    assert await rows(up, team_scenario.team, 9) == [
        ("onboarding.claimed", "free", "free"),
        ("subscription.upgraded", "free", "pro"),
        ("subscription.upgraded", "pro", "team"),
        ("subscription.downgraded", "team", "hobby_plus"),
        ("subscription.upgraded", "hobby_plus", "pro"),
        ("subscription.canceled", "pro", "hobby"),
        ("subscription.upgraded", "hobby", "pro"),
        ("subscription.upgraded", "pro", "growth"),
        ("subscription.canceled", "growth", "hobby"),
    ]
    assert tier_of(up, team_scenario.team) == "hobby"


async def test_the_kinds_that_services_send_pass_through_and_are_mailed(
    up: Running, client: httpx.AsyncClient, team_scenario: TeamScenario
) -> None:
    in_a_week = "2031-01-08T10:00:00+05:30"
    await send(client, "onboarding.claimed", team_scenario, {"email": team_scenario.email}, occurred_at=team_scenario.clock)
    events: list[tuple[str, dict[str, object]]] = [
        ("near_quota_wall", {"resource_type": "api_calls", "used": 9, "limit": 10}),
        ("experiment.conversion", {"experiment": "pricing", "variant": "b"}),
        ("admin.tier_changed", {"to": "Growth_Yearly", "admin": "ops", "reason": "goodwill"}),
        ("admin.promo_issued", {"code": "SPRING", "admin": "ops", "percent_off": 20}),
        ("resource.expiry_imminent", {"resource_type": "domain", "resource_id": "example", "expires_at": in_a_week}),
    ]
    for number, (kind, data) in enumerate(events, start=1):
        await send(client, kind, team_scenario, data, occurred_at=team_scenario.clock + number)

    assert [row[0] for row in await rows(up, team_scenario.team, 6)] == [
        "onboarding.claimed",
        "near_quota_wall",
        "experiment.conversion",
        "admin.tier_changed",
        "admin.promo_issued",
        "resource.expiry_imminent",
    ]
    async with httpx.AsyncClient(base_url=up.url("loops"), trust_env=False) as loops:
        mailed: list[str] = []
        deadline = time.monotonic() + 20
        while len(mailed) < 6:
            assert time.monotonic() < deadline, mailed
            mailed = [mail["eventName"] for mail in (await loops.get("/_sent")).json() if mail["email"] == team_scenario.email]
    assert len(mailed) == 6
    assert tier_of(up, team_scenario.team) == "growth"


async def test_audit_log_dropped_in_mid_run_fails_no_webhook_reverts_no_tier_and_loses_no_row(
    up: Running, client: httpx.AsyncClient, team_scenario: TeamScenario
) -> None:
    subscription = team_scenario.subscribe("plan_pro")
    await deliver(client, team_scenario.send("subscription.authenticated", subscription))
    connection = await asyncpg.connect(up.url("postgres"))
    await connection.execute("drop table audit_log")

    await deliver(client, team_scenario.charge(subscription))
    await until(lambda: tier_of(up, team_scenario.team) == "pro", f"the tier flips to pro; {up.tail()}", seconds=20)
    assert await connection.fetchval("select to_regclass('audit_log')") is None  # no stage makes tables

    migrated = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "streams.cli", "migrate"), env={**os.environ, "TIERSTREAM_POSTGRES_DSN": up.url("postgres")}
    )
    assert await migrated.wait() == 0
    await connection.close()
    assert await rows(up, team_scenario.team, 1) == [("subscription.upgraded", "free", "pro")]


def sample_files() -> list[Any]:
    if not SAMPLES.is_dir():
        return [pytest.param(None, marks=pytest.mark.skip(reason="the folder of Razorpay samples is not there"))]
    return [pytest.param(path, id=path.stem) for path in sorted(SAMPLES.glob("*.json"))]


@pytest.mark.parametrize("path", sample_files())
async def test_a_body_as_razorpay_sends_it_gets_200_and_one_outcome(up: Running, client: httpx.AsyncClient, path: Path) -> None:
    await worked_in(up)
    before = outcomes(up.settings, "normalise").total()
    body = path.read_bytes()

    signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    answer = await client.post("/webhooks/razorpay", content=body, headers={"x-razorpay-signature": signature})

    assert answer.status_code == 200
    await worked_in(up)
    assert outcomes(up.settings, "normalise").total() == before + 1


async def test_what_is_wrong_is_answered_in_one_sentence_and_nothing_of_it_is_lost(up: Running, client: httpx.AsyncClient) -> None:
    def signed(body: bytes) -> dict[str, str]:
        return {"x-razorpay-signature": hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()}

    dead = len(read_all(up.settings, "dead.letters"))
    webhook, events = "/webhooks/razorpay", "/v1/events"
    too_far = {
        "kind": "near_quota_wall",
        "team_id": str(uuid.uuid4()),
        "occurred_at": int(time.time()) + 3_600,
        "data": {"resource_type": "x", "used": 1, "limit": 2},
    }
    answers = [
        (await client.post(webhook, content=b"{}", headers={"x-razorpay-signature": "0" * 64}), 401),
        (await client.post(webhook, content=b"{}"), 401),
        (await client.post(webhook, content=b"[1,2,3]", headers=signed(b"[1,2,3]")), 400),
        (await client.post(webhook, content=b'{"event":"sub', headers=signed(b'{"event":"sub')), 400),
        (await client.post(webhook, content=b"x" * 1_048_577, headers=signed(b"x" * 1_048_577)), 413),
        (await client.post(events, json=too_far, headers={"authorization": "Bearer nobody"}), 401),
        (await client.post(events, json=too_far, headers=TOKEN), 422),
        (await client.post(events, json={**too_far, "kind": "no.such"}, headers=TOKEN), 422),
        (await client.post("/webhooks/loops", content=b"{}"), 401),
        (await client.get("/metrics"), 404),
        (await client.get("/readyz"), 404),
    ]

    assert [answer.status_code for answer, _ in answers] == [status for _, status in answers]
    assert all("Traceback" not in answer.text and len(answer.text) < 600 for answer, _ in answers)
    assert len(read_all(up.settings, "dead.letters")) == dead + 2


@pytest.mark.parametrize(
    ("command", "environment", "code", "sentence"),
    [
        (["gateway"], {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9"}, 2, "TIERSTREAM_RAZORPAY_WEBHOOK_SECRETS"),
        (
            ["worker", "forward"],
            {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9", "POSTGRES_DSN": "postgresql://127.0.0.1:9/x"},
            2,
            "TIERSTREAM_LOOPS_API_KEY",
        ),
        (["worker", "normalise"], {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9", "PLANS": "/no/such/plans.toml"}, 2, "/no/such/plans.toml"),
        (["worker", "classify"], {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9"}, 1, "Kafka does not answer at 127.0.0.1:9"),
        (["topics", "check"], {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9"}, 1, "Kafka does not answer at 127.0.0.1:9"),
        (["migrate"], {"POSTGRES_DSN": "postgresql://127.0.0.1:9/x"}, 1, "PostgreSQL at 127.0.0.1:9"),
        (["check-config"], {"INITIAL_TIER": "gold"}, 2, "gold"),
        (["worker", "nonsense"], {}, 2, "nonsense"),
        (["worker", "audit", "--accept-initial-tier"], {}, 2, "--accept-initial-tier is for classify"),
        (["up", "--workers", "classify=many"], {}, 2, "STAGE=N"),
    ],
)
def test_a_wrong_setting_or_an_absent_service_is_one_sentence_and_no_traceback(
    command: list[str], environment: dict[str, str], code: int, sentence: str
) -> None:
    own = {**os.environ, **{f"TIERSTREAM_{name}": value for name, value in environment.items()}}

    finished = tierstream(*command, env=own)

    assert finished.returncode == code, finished.stderr
    assert sentence in finished.stderr
    assert "Traceback" not in finished.stdout + finished.stderr
