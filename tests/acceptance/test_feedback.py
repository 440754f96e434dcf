"""From a mail that the fake Loops accepted, over its signed webhook, to the ledger, beside a running ``up``."""

import json
import uuid
from typing import Any

import httpx

from tests.acceptance.conftest import Running
from tests.acceptance.test_running_up import tierstream
from tests.waiting import blocked_until


def claim(up: Running, team: str, email: str) -> None:
    event = {"kind": "onboarding.claimed", "team_id": team, "data": {"email": email}}
    answer = httpx.post(f"{up.url('gateway')}/v1/events", json=event, headers={"authorization": "Bearer demo-ingest"})
    assert answer.status_code == 202, answer.text


def deliveries(up: Running, team: str) -> list[dict[str, Any]]:
    ran = tierstream(up, "deliveries", "list", "--team", team, "--json")
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)["deliveries"]  # type: ignore[no-any-return]


def test_bounce_that_loops_reports_stands_in_the_ledger_and_suppresses_the_next_mail(up: Running) -> None:
    team, other, email = str(uuid.uuid4()), str(uuid.uuid4()), f"{uuid.uuid4()}@example.com"
    reports = {
        "to": f"{up.url('gateway')}/webhooks/loops",
        "secret": "whsec_ZGVtby1sb29wcy13ZWJob29rLXNlY3JldA==",
        "events": ["loop.email.sent", "email.hardBounced"],
    }
    try:
        httpx.post(f"{up.url('loops')}/_reports", json=reports).raise_for_status()
        claim(up, team, email)
        blocked_until(lambda: [row["classification"] for row in deliveries(up, team)] == ["bounced_hard"], seconds=60)
    finally:
        httpx.post(f"{up.url('loops')}/_reports")

    claim(up, other, email.upper())
    blocked_until(lambda: [row["classification"] for row in deliveries(up, other)] == ["suppressed"], seconds=60)

    (row,) = deliveries(up, other)
    assert row["last_error"] == "Mail to this address is suppressed: bounced_hard."
    assert email not in str(deliveries(up, team)).lower()
    assert up.ready()["pids"]["feedback"] == up.ready()["pids"]["forward"]
