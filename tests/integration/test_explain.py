"""``tierstream explain`` through the command line, on what the real stages leave on a real broker and in a real database."""

import json
import random
import subprocess
import time
import uuid
from typing import Any

from streams.settings import Settings
from tests.accounting import outcomes
from tests.forked import operated
from tests.integration.test_verify import dsn_of, falsify, headers_of, working
from tests.load import TeamScenario
from tests.workers import land

Json = dict[str, Any]


async def command(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    return await operated(settings, "explain", *arguments)


async def explained(settings: Settings, subject: str) -> Json:
    result = await command(settings, subject, "--json")
    assert (result.returncode, result.stderr) == (0, "")
    found: Json = json.loads(result.stdout)
    return found


async def test_explain_a_team_an_event_a_mail_and_an_address_and_what_did_not_happen(stage_settings: Settings) -> None:
    team = TeamScenario(str(uuid.uuid4()), random.Random(3), int(time.time()) - 600)
    subscription = team.subscribe("plan_pro")
    first, renewal = team.charge(subscription), team.charge(subscription)
    unknown = team.charge(team.subscribe("plan_of_nobody"))
    webhooks = [
        (first, first.event_id),
        (first, first.event_id),
        (first, "sent_again"),
        (renewal, renewal.event_id),
        (unknown, unknown.event_id),
    ]
    records = [
        (json.loads(webhook.body)["payload"]["subscription"]["entity"]["id"].encode(), webhook.body, headers_of(event_id), -1)
        for webhook, event_id in webhooks
    ]
    async with working(stage_settings) as (settings, run):
        land(settings, "razorpay.webhooks", records)
        await run.decided(settings, "normalise", len(records))
        await run.decided(settings, "classify", outcomes(settings, "normalise")["normalised"])
        found: Json = {"events": [{"delivery": "pending"}]}
        deadline = time.monotonic() + 30
        while any(event["delivery"] == "pending" or (event.get("audit_id") and not event["row_written"]) for event in found["events"]):
            assert time.monotonic() < deadline
            found = await explained(settings, team.team)

    assert (found["team_id"], found["tier"], found["notes"]) == (team.team, "pro", [])
    told = [(event["event_id"], event["outcome"], event["from"], event["to"], event["delivery"]) for event in found["events"]]
    assert sorted(told) == sorted([
        (first.event_id, "upgraded", "free", "pro", "sent"),
        (first.event_id, "duplicate", "pro", "pro", None),
        ("sent_again", "duplicate", None, None, None),
        (renewal.event_id, "renewal", "pro", "pro", None),
        (unknown.event_id, "unknown_plan", None, None, None),
    ])  # fmt: skip
    upgrade = next(event for event in found["events"] if event["outcome"] == "upgraded")
    assert [place.split(":")[0].removeprefix(settings.topic_prefix) for place in upgrade["places"]] == [
        "razorpay.webhooks",
        "team.events",
        "audit.events",
    ]
    assert upgrade["mail"]["recipient"].startswith("p***@")

    assert (await explained(settings, upgrade["audit_id"]))["events"] == [upgrade]
    assert [event["outcome"] for event in (await explained(settings, "sent_again"))["events"]] == ["duplicate"]
    assert (await explained(settings, f"payer-{team.team[:8]}@example.com"))["team_id"] == team.team
    parked = (await explained(settings, unknown.event_id))["events"]
    assert [(event["outcome"], event["stage"], event["kind"]) for event in parked] == [
        ("unknown_plan", "normalise", "billing.charge_undeliverable")
    ]
    assert len(parked[0]["dead_letters"]) == 1

    text = await command(settings, team.team)
    assert text.returncode == 0
    assert f"Team {team.team} is on pro since" in text.stdout
    assert "A renewal of the plan that is in force: the tier stays as it was." in text.stdout
    assert f"payer-{team.team[:8]}" not in text.stdout

    await falsify(settings, f"update forwarder_sent set classification = 'bounced_hard' where audit_id = '{upgrade['audit_id']}'")
    assert "refused it for good" in (await command(settings, upgrade["audit_id"])).stdout
    nothing = await command(settings, "evt_of_nobody")
    assert (nothing.returncode, nothing.stdout) == (1, "")
    assert nothing.stderr.startswith("tierstream: There is no team, subscription, event or audit row evt_of_nobody")
    assert len(nothing.stderr.splitlines()) == 1
    stranger = await command(settings, "stranger@example.com")
    assert stranger.returncode == 1
    assert "stranger@" not in stranger.stderr
    assert dsn_of(settings) not in nothing.stderr
