"""``tierstream import-tiers`` with the real stages: nothing is emitted, the next charge is a renewal, a second run changes nothing."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from agents.registry import stage_factory
from schemas.reasons import Reason
from streams.embedded.stack import EXAMPLE_PLANS, environment_of
from streams.settings import Settings
from tests.accounting import outcomes
from tests.forked import operated
from tests.topic_io import read_all, read_json
from tests.waiting import until
from tests.workers import land, running

TEAMS = [f"7b0c54c8-2f55-4c1b-9f59-0d1c0c6c{number:04x}" for number in range(40)]
ADDRESS = "jane.doe@example.com"
HEADER = "team_id,tier,subscription_id,plan_id,email\n"


async def command(settings: Settings, file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return await operated(settings, "import-tiers", str(file), "--because", "moving in", "--json", *arguments)


async def imported(settings: Settings, file: Path, *arguments: str) -> tuple[int, int, int, int]:
    """Return the lines read, applied, unchanged and bad."""
    done = await command(settings, file, *arguments)
    assert ADDRESS not in done.stderr
    assert done.stdout, done.stderr
    result = json.loads(done.stdout)
    assert done.returncode == (1 if result["bad"] and "--skip-bad" not in arguments else 0), done.stderr
    return result["read"], result["applied"], result["unchanged"], len(result["bad"])


def charged(subscription: str, at: int, plan: str = "plan_pro") -> bytes:
    """A charge without a note: only the link says whose it is."""
    entity = {"id": subscription, "plan_id": plan, "status": "active", "paid_count": 5, "notes": []}
    return json.dumps({"event": "subscription.charged", "created_at": at, "payload": {"subscription": {"entity": entity}}}).encode()


async def test_import_is_silent_the_next_charge_is_a_renewal_and_a_second_run_changes_nothing(
    kafka_settings: Settings, tmp_path: Path
) -> None:
    settings, file = kafka_settings.model_copy(update={"plans": EXAMPLE_PLANS}), tmp_path / "teams.csv"
    rows = [f"{team},pro,sub_{number},plan_pro,{ADDRESS}\n" for number, team in enumerate(TEAMS)]
    file.write_text(HEADER + "".join(rows))

    assert await imported(settings, file, "--dry-run") == (40, 40, 0, 0)
    assert read_all(settings, "team.events") == []
    assert await imported(settings, file) == (40, 40, 0, 0)
    assert await imported(settings, file) == (40, 0, 40, 0), "nothing has been decided yet, and what was produced is known all the same"

    async with running(settings, *(stage_factory(settings, name) for name in ("normalise", "classify"))) as run:
        await run.decided(settings, "normalise", 40)
        now = int(time.time())
        land(settings, "razorpay.webhooks", [(f"sub_{n}".encode(), charged(f"sub_{n}", now), [], -1) for n in range(40)])
        await run.decided(settings, "classify", 80)
        assert await imported(settings, file) == (40, 0, 40, 0)

        file.write_text(HEADER + f"{TEAMS[0]},team,sub_0,plan_pro,{ADDRESS}\n" + "".join(rows[1:]))
        assert await imported(settings, file) == (40, 1, 39, 0)
        assert await imported(settings, file) == (40, 0, 40, 0)
        await run.decided(settings, "classify", 81)

    assert outcomes(settings, "classify") == {Reason.IMPORTED: 41, Reason.RENEWAL: 40}
    assert read_all(settings, "audit.events") == []
    tiers = {event["subject"]: event["data"]["tier"] for event in read_json(settings, "tier.current")}
    assert tiers == dict.fromkeys(TEAMS, "pro") | {TEAMS[0]: "team"}
    assert len(read_all(settings, "subscription.links")) == 40
    assert dict(read_all(settings, "team.events")[0].headers() or [])["because"] == b"moving in"


async def test_bad_lines_are_listed_none_is_applied_and_with_skip_bad_the_others_are(kafka_settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "teams.csv"
    file.write_text(HEADER + f"{TEAMS[0]},pro,,,{ADDRESS}\n{ADDRESS},pro,,,\n{TEAMS[1]},gold,,,\n{TEAMS[0]},team,,,\n{TEAMS[2]},free,,,\n")

    refused = await command(kafka_settings, file)

    assert refused.returncode == 1
    assert json.loads(refused.stdout) == {
        "read": 5,
        "applied": 0,
        "unchanged": 0,
        "bad": [
            {"line": 3, "problem": "team_id: is no UUID"},
            {"line": 4, "problem": "tier: is none; use one of anonymous, free, hobby, hobby_plus, pro, growth, team"},
            {"line": 5, "problem": "team_id: line 2 says something else of this team"},
        ],
    }
    assert read_all(kafka_settings, "team.events") == read_all(kafka_settings, "subscription.links") == []
    assert await imported(kafka_settings, file, "--skip-bad") == (5, 2, 0, 3)
    assert [event["subject"] for event in read_json(kafka_settings, "team.events")] in ([TEAMS[0], TEAMS[2]], [TEAMS[2], TEAMS[0]])


async def test_import_does_not_beat_what_razorpay_said_before_it(kafka_settings: Settings, tmp_path: Path) -> None:
    settings, file = kafka_settings.model_copy(update={"plans": EXAMPLE_PLANS}), tmp_path / "teams.jsonl"
    at = int(time.time()) - 1_000
    body = json.loads(charged("sub_0", at, "plan_hobby"))
    body["payload"]["subscription"]["entity"]["notes"] = {"team_id": TEAMS[0]}
    async with running(settings, *(stage_factory(settings, name) for name in ("normalise", "classify"))) as run:
        land(settings, "razorpay.webhooks", [(b"sub_0", json.dumps(body).encode(), [], -1)])
        await run.decided(settings, "classify", 1)
        emitted = len(read_all(settings, "audit.events"))
        file.write_text(json.dumps({"team_id": TEAMS[0], "tier": "team", "subscription_id": "sub_0", "plan_id": "plan_team"}))
        assert await imported(settings, file) == (1, 1, 0, 0)
        await run.decided(settings, "classify", 2)

    assert [event["data"]["tier"] for event in read_json(settings, "tier.current")] == ["hobby"]
    assert len(read_all(settings, "audit.events")) == emitted


async def test_interrupted_import_is_finished_by_the_same_command(kafka_settings: Settings, tmp_path: Path) -> None:
    file, count = tmp_path / "teams.csv", 40_000
    teams = [f"7b0c54c8-2f55-4c1b-9f59-0d1c{number:08x}" for number in range(count)]
    file.write_text(HEADER + "".join(f"{team},pro,sub_{team[-8:]},plan_pro,\n" for team in teams))
    environment = {**environment_of(kafka_settings), "PATH": "/usr/bin:/bin"}
    call = [sys.executable, "-m", "streams.cli", "import-tiers", str(file), "--because", "moving in"]
    process = await asyncio.create_subprocess_exec(*call, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    await until(lambda: bool(read_all(kafka_settings, "team.events")), "the first tiers", 60)

    process.send_signal(signal.SIGINT)
    _, said = await process.communicate()

    assert (process.returncode, said.decode()) == (
        130,
        "tierstream: Interrupted; what is imported stays, and the same command imports the rest.\n",
    )
    there = {message.key() for message in read_all(kafka_settings, "team.events")}
    linked = {json.loads(message.value() or b"")["data"]["team_id"].encode() for message in read_all(kafka_settings, "subscription.links")}
    assert 0 < len(there) < count
    assert there <= linked, "a link comes before its tier"
    assert await imported(kafka_settings, file) == (count, count - len(there), len(there), 0)
    keys = [message.key() for message in read_all(kafka_settings, "team.events")]
    assert sorted(key or b"" for key in keys) == sorted(team.encode() for team in teams), "each team once"
