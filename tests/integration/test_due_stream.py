"""Time passes by records, in a stream in which nothing breaks: what comes due is said once, in time, and nothing is left out."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator

from agents.registry import stage_factory
from streams.cli.verify import verify_running
from streams.operate.verify import Options
from streams.settings import Settings
from tests.faults.flow import flow
from tests.load import team_scenarios
from tests.verdict import compare, until_settled
from tests.workers import land, running

STAGES = ("normalise", "classify", "audit", "forward")
COMING_SECONDS = 5
WEBHOOKS = 600


@contextlib.asynccontextmanager
async def working(stage_settings: Settings) -> AsyncIterator[Settings]:
    """The four stages at work, with a fake Loops."""
    async with (
        flow(stage_settings) as settings,
        running(settings, *(stage_factory(settings, name) for name in STAGES)),
    ):
        yield settings


async def test_due_records_of_an_undisturbed_stream_come_once_and_in_time(stage_settings: Settings) -> None:
    async with working(stage_settings) as settings:
        assert settings.postgres_dsn is not None
        now = int(time.time())
        for team_scenario in team_scenarios(now, 12, WEBHOOKS, now - 3_600, range(now, now + COMING_SECONDS)):
            records = [
                (
                    json.loads(webhook.body)["payload"]["subscription"]["entity"]["id"].encode(),
                    webhook.body,
                    [("razorpay-event-id", webhook.event_id.encode()), ("received-at", b"%d" % (time.time() * 1000))],
                    -1,
                )
                for webhook in team_scenario.webhooks
            ]
            await asyncio.to_thread(land, settings, "razorpay.webhooks", records)
        postgres = settings.postgres_dsn.get_secret_value()
        await until_settled(settings, postgres, 120)

        findings = await compare(settings, postgres, settings.loops_base_url, undisturbed=True)
        report = await asyncio.to_thread(verify_running, settings, Options(orders=5))

    assert findings.exact, f"seed {now}\n{findings}"
    assert findings.due_records > 10
    assert report.clean, report.differences()
    assert not any(check.pending for check in report.checks)
