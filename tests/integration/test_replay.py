"""``tierstream replay`` through the command line, beside the real stages on a real broker and a real database."""

import asyncio
import contextlib
import json
import random
import subprocess
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from agents.registry import stage_factory
from streams.kafka.partitioner import partition_of
from streams.settings import Settings
from streams.stores.pool import connect
from tests.conftest import PARTITIONS
from tests.forked import operated
from tests.integration.test_verify import STAGES, dsn_of, headers_of
from tests.load import Subscription, TeamScenario
from tests.sinks import served_sink
from tests.topic_io import read_all
from tests.workers import Run, committed, land, running

Json = dict[str, Any]
NEW_PLAN = "plan_of_tomorrow"


@contextlib.asynccontextmanager
async def working(settings: Settings) -> AsyncIterator[tuple[Settings, Run]]:
    """The four stages at work with the plan file as it is, and a fake Loops."""
    async with served_sink() as loops:
        changes = {"loops_base_url": loops.url, "loops_api_key": SecretStr("key"), "loops_rate_per_second": 1_000.0}
        settings = settings.model_copy(update=changes)
        async with running(settings, *(stage_factory(settings, name) for name in STAGES)) as run:
            yield settings, run


async def command(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    return await operated(settings, "replay", *arguments)


async def replayed(settings: Settings, *arguments: str) -> Json:
    result = await command(settings, *arguments, "--json")
    assert (result.returncode, result.stderr) == (0, "")
    found: Json = json.loads(result.stdout)
    return found


async def ledger_of(settings: Settings, team: str) -> list[tuple[str, str]]:
    """Kind and classification of the team's mails that are settled, once there is one."""
    connection = await connect(dsn_of(settings), "test")
    try:
        deadline = time.monotonic() + 30
        while True:
            rows = await connection.fetch(
                "select a.kind, f.classification from audit_log a join forwarder_sent f on f.audit_id = a.id"
                " where a.team_id = $1 and f.classification <> 'in_flight' order by a.created_at",
                uuid.UUID(team),
            )
            if rows:
                return [tuple(row) for row in rows]
            assert time.monotonic() < deadline, "no mail was settled"
            await asyncio.sleep(0.1)
    finally:
        await connection.close()


async def operators(settings: Settings, team: str) -> list[str]:
    """Why operators replayed something of the team's."""
    connection = await connect(dsn_of(settings), "test")
    try:
        rows = await connection.fetch(
            "select metadata->>'because' from audit_log where team_id = $1 and kind = 'operator.replayed' and actor = 'cli'",
            uuid.UUID(team),
        )
        return [row[0] for row in rows]
    finally:
        await connection.close()


def subscribed(team: TeamScenario, plan: str, partition: int) -> Subscription:
    """Begin a subscription that belongs to a partition of its own, so that a place names its webhooks alone."""
    while partition_of((subscription := team.subscribe(plan)).id.encode(), PARTITIONS) != partition:
        pass
    return subscription


@pytest.fixture
def plans(tmp_path: Path) -> Path:
    path = tmp_path / "plans.toml"
    path.write_text('plan_pro = "pro"\n')
    return path


async def test_replay_of_charges_of_a_plan_that_was_added_since(stage_settings: Settings, plans: Path) -> None:
    settings = stage_settings.model_copy(update={"plans": plans})
    now = int(time.time())
    silent, old, mailed, usual = (TeamScenario(str(uuid.uuid4()), random.Random(n), now - 3 * 86_400) for n in range(4))
    webhooks = [team.charge(subscribed(team, NEW_PLAN, number)) for number, team in enumerate((silent, old, mailed))]
    webhooks.append(usual.charge(subscribed(usual, "plan_pro", 3)))
    keys = [json.loads(webhook.body)["payload"]["subscription"]["entity"]["id"].encode() for webhook in webhooks]
    async with working(settings) as (settings, run):
        land(
            settings,
            "razorpay.webhooks",
            [(key, webhook.body, headers_of(webhook.event_id), -1) for key, webhook in zip(keys, webhooks, strict=True)],
            transactional_id=settings.topic_prefix + "operator",
        )
        await run.decided(settings, "normalise", 4)
        await run.decided(settings, "classify", 1)
        assert await ledger_of(settings, usual.team) == [("subscription.upgraded", "expired")]
        nothing = await replayed(settings, "--from", "2020-01-01T00:00:00Z")
        assert (nothing["webhooks"], nothing["differ"], nothing["parked"], nothing["tiers"]) == (4, 0, {"unknown_plan": 3}, [])
        assert nothing["pending"] == 0  # although the marker of the transaction stands behind the last webhook

    plans.write_text(f'plan_pro = "pro"\n{NEW_PLAN} = "team"\n')
    places = {message.key(): (message.partition(), message.offset()) for message in read_all(settings, "razorpay.webhooks")}
    async with working(settings) as (settings, run):
        whole = await replayed(settings, "--from", "2020-01-01T00:00:00Z", "--apply", "full", "--because", "x", "--dry-run")
        assert (whole["differ"], whole["published"], whole["mails"]) == (3, 0, {"expired": 3})
        assert whole["tiers"] == sorted(
            ({"team_id": each.team, "from": "free", "to": "team"} for each in (silent, old, mailed)), key=lambda row: row["team_id"]
        )
        assert len(read_all(settings, "razorpay.webhooks")) == 4

        for number, (team, options, settled) in enumerate([
            (silent, ("--apply", "state"), "suppressed"),
            (old, ("--apply", "full"), "expired"),
            (mailed, ("--apply", "full", "--mail"), "sent"),
        ]):  # fmt: skip
            start = ":".join(map(str, ("razorpay.webhooks", *places[keys[number]])))
            found = await replayed(settings, "--from", start, *options, "--because", "the plan was missing", "--yes")
            assert (found["differ"], found["published"]) == (1, 1)
            assert await ledger_of(settings, team.team) == [("subscription.upgraded", settled)]
        again = await replayed(settings, "--from", "2020-01-01T00:00:00Z")
        assert (again["differ"], again["parked"], again["rows"]) == (0, {}, {})
        assert await operators(settings, mailed.team) == ["the plan was missing"]
        position = committed(settings, "normalise", "razorpay.webhooks")

    late = [(key, webhooks[0].body, headers_of("late"), -1) for key in keys[:2]]
    land(settings, "razorpay.webhooks", late, transactional_id=settings.topic_prefix + "operator")
    behind = await replayed(settings, *(f"--from=razorpay.webhooks:{number}:{position[number]}" for number in (0, 1, 3)))
    assert (behind["webhooks"], behind["pending"]) == (0, 2)
