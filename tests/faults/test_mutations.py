"""The comparison can fail: with a commit order broken on purpose, one crash leaves a difference, and it is named."""

import signal
import uuid
from dataclasses import dataclass

import httpx
import pytest

from streams.embedded.process import free_port
from streams.settings import Settings
from tests.faults.flow import Crashing, charges, flow, judged, land, named_in, work
from tests.faults.traffic import SECRET
from tests.load import team_scenarios
from tests.topic_io import read_all
from tests.verdict import header

TEAMS = [str(uuid.UUID(int=number, version=4)) for number in range(6)]
STAGES = ("classify", "audit", "forward")


@dataclass(frozen=True)
class Case:
    """A stage with one order broken, the point at which it is killed, and how the difference begins."""

    mutation: str
    stage: str
    point: str
    difference: str


CASES = (
    Case("position_first", "classify", "committed:1", "missing: audit row"),
    Case("position_last", "classify", "committed:1", "wrong: classify counted"),
    Case("ack_first", "audit", "offset committed", "missing: audit row"),
    Case("final_first", "forward", "final", "missing: mail"),
    Case("new_key", "forward", "accepted", "wrong: mail"),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.mutation)
async def test_one_crash_in_a_broken_commit_order_leaves_a_difference_that_is_named(stage_settings: Settings, case: Case) -> None:
    before, after = STAGES[: STAGES.index(case.stage)], STAGES[STAGES.index(case.stage) :]
    async with flow(stage_settings) as settings:
        await land(settings, charges(TEAMS, turns=range(10)))
        if before:
            await work(settings, *before)
        async with Crashing(settings, case.stage, "--kill", case.point, "--mutate", case.mutation) as process:
            assert await process.status() == -signal.SIGKILL, str(process)
        await work(settings, *after)

        findings = await judged(settings)

    assert named_in(findings, case.difference), str(findings)


async def test_an_answer_ahead_of_kafkas_acknowledgement_loses_what_it_acknowledged(stage_settings: Settings) -> None:
    (team_scenario,) = team_scenarios(1, teams=1, webhooks=1, start=1_700_000_000)
    (webhook,) = team_scenario.webhooks
    async with flow(stage_settings, gateway_port=free_port()) as settings:
        async with Crashing(settings, "gateway", "--kill", "answered", "--mutate", "answer_first") as process:
            gateway = f"http://127.0.0.1:{settings.gateway_port}"
            await process.until(lambda: listens(gateway), "it listens")
            async with httpx.AsyncClient(base_url=gateway, trust_env=False) as client:
                answer = await client.post("/webhooks/razorpay", content=webhook.body, headers=webhook.headers(SECRET))
            assert await process.status() == -signal.SIGKILL, str(process)

        assert answer.status_code == 200
        assert webhook.event_id not in {header(message, "razorpay-event-id") for message in read_all(settings, "razorpay.webhooks")}


def listens(gateway: str) -> bool:
    try:
        return httpx.get(f"{gateway}/healthz", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
