"""Webhooks and events that come twice, through the gateway and all stages: two registered webhooks, and one id with two bodies."""

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import orjson

from agents.registry import stage_factory
from streams.cli.verify import verify_running
from streams.settings import Settings
from tests.faults.flow import flow
from tests.integration.test_gateway import RunningGateway
from tests.integration.test_gateway import running as gateway_running
from tests.topic_io import read_all
from tests.verdict import header, until_settled
from tests.webhooks import TEAM, body
from tests.workers import running

STAGES = ("normalise", "classify", "audit", "forward")


class Stack:
    """A gateway and all stages on a test's own topics and database, and what is in them once all has come to rest."""

    def __init__(self, settings: Settings, gateway: RunningGateway) -> None:
        self.settings, self.gateway = settings, gateway
        assert settings.postgres_dsn is not None
        self.postgres = settings.postgres_dsn.get_secret_value()

    async def webhook(self, document: dict[str, Any], *event_ids: str) -> None:
        for event_id in event_ids:
            assert (await self.gateway.webhook(orjson.dumps(document), event_id)).status_code == 200

    async def event(self, event: dict[str, Any]) -> None:
        headers = {"Authorization": "Bearer demo-ingest"}
        answer = await self.gateway.http.post(f"{self.gateway.url}/v1/events", json=event, headers=headers)
        assert answer.status_code == 202, answer.text

    async def rest(self) -> None:
        await until_settled(self.settings, self.postgres, 60)

    async def rows(self) -> list[tuple[str, dict[str, Any]]]:
        """Kind and metadata of each row of ``audit_log``, by the time of the fact."""
        connection = await asyncpg.connect(self.postgres)
        try:
            found = await connection.fetch("select kind, metadata from audit_log order by created_at, kind")
        finally:
            await connection.close()
        return [(row["kind"], json.loads(row["metadata"])) for row in found]

    async def mails(self) -> list[str]:
        async with httpx.AsyncClient(base_url=self.settings.loops_base_url, trust_env=False) as http:
            return [mail["eventName"] for mail in (await http.get("/_sent")).json()]

    def dead_letters(self) -> Counter[tuple[str, str]]:
        """How many there are by stage and reason."""
        letters = read_all(self.settings, "dead.letters")
        return Counter((header(letter, "dlq-stage"), header(letter, "dlq-reason")) for letter in letters)

    def tier(self) -> str:
        """The team's."""
        (*_, newest) = read_all(self.settings, "tier.current")
        return str(json.loads(newest.value() or b"")["data"]["tier"])


@contextlib.asynccontextmanager
async def stack(stage_settings: Settings) -> AsyncIterator[Stack]:
    async with (
        flow(stage_settings) as settings,
        running(settings, *(stage_factory(settings, name) for name in STAGES)) as run,
        gateway_running(settings.model_copy(update={"gateway_port": 0})) as gateway,
    ):
        await run.until(lambda: run.ready(len(STAGES)), "all stages at work")
        yield Stack(settings, gateway)


def charge(at: int, plan: str = "plan_pro", *, subscription: str = "sub_1", notes: object = None, number: int = 1) -> dict[str, Any]:
    payment = {"id": f"pay_{number}", "amount": 49_900, "currency": "INR", "email": "payer@example.com"}
    entity = {"id": subscription, "plan_id": plan, "paid_count": number}
    return body(notes=notes, payment=payment, created_at=at, subscription=entity)


async def test_two_registered_webhooks_lead_to_one_transition_one_undeliverable_charge_and_one_mail_of_each(
    stage_settings: Settings,
) -> None:
    async with stack(stage_settings) as running_stack:
        at = int(time.time()) - 1_000
        await running_stack.webhook(charge(at), "first1", "second1")
        await running_stack.webhook(charge(at + 1, subscription="sub_nobodys", notes=[]), "first2", "second2")
        await running_stack.webhook(charge(at + 2, "plan_of_nobody", subscription="sub_2"), "first3", "second3")
        cancelled = body(
            "subscription.cancelled",
            created_at=at + 3,
            subscription={"id": "sub_1", "status": "cancelled", "customer_email": "payer@example.com"},
        )
        await running_stack.webhook(cancelled, "first4", "second4")
        await running_stack.webhook(charge(at + 4, number=2), "first5", "second5")
        await running_stack.rest()

        rows, mails, dead = await running_stack.rows(), await running_stack.mails(), running_stack.dead_letters()
        report = await asyncio.to_thread(verify_running, running_stack.settings)

    assert [(kind, metadata["reason"], metadata["event_id"]) for kind, metadata in rows] == [
        ("subscription.upgraded", "upgraded", "first1"),
        ("billing.charge_undeliverable", "unknown_team", "first2"),
        ("billing.charge_undeliverable", "unknown_plan", "first3"),
        ("subscription.canceled", "canceled", "first4"),
        ("billing.charge_undeliverable", "ended", "first5"),
    ]
    assert mails == ["subscription.upgraded", "subscription.canceled"]
    assert dead == {("normalise", "unknown_team"): 1, ("normalise", "unknown_plan"): 1}
    assert report.clean, report.differences()


async def test_two_webhooks_with_one_event_id_and_different_bodies_move_the_tier_once(stage_settings: Settings) -> None:
    async with stack(stage_settings) as running_stack:
        at = int(time.time()) - 1_000
        await running_stack.webhook(charge(at, "plan_hobby"), "one")
        await running_stack.webhook(charge(at + 10, "plan_team", number=2), "one")
        await running_stack.webhook(charge(at, "plan_hobby"), "one")
        await running_stack.rest()

        rows, mails, dead, tier = (
            await running_stack.rows(),
            await running_stack.mails(),
            running_stack.dead_letters(),
            running_stack.tier(),
        )
        report = await asyncio.to_thread(verify_running, running_stack.settings)

    assert [(kind, metadata["to"]) for kind, metadata in rows] == [("subscription.upgraded", "hobby")]
    assert (mails, tier) == (["subscription.upgraded"], "hobby")
    assert dead == {("normalise", "id_conflict"): 1}
    assert report.clean, report.differences()


async def test_two_events_of_a_service_with_one_id_and_different_data_move_the_tier_once(stage_settings: Settings) -> None:
    async with stack(stage_settings) as running_stack:
        at = int(time.time()) - 1_000
        event = {"kind": "admin.tier_changed", "team_id": TEAM, "id": "one", "occurred_at": at, "data": {"to": "pro", "admin": "ada"}}
        await running_stack.event(event)
        await running_stack.event({**event, "occurred_at": at + 10, "data": {"to": "team", "admin": "ada"}})
        await running_stack.event(event)
        await running_stack.rest()

        rows, dead, tier = await running_stack.rows(), running_stack.dead_letters(), running_stack.tier()
        report = await asyncio.to_thread(verify_running, running_stack.settings)

    assert [(kind, metadata["to"]) for kind, metadata in rows] == [("admin.tier_changed", "pro")]
    assert tier == "pro"
    assert dead == {("classify", "id_conflict"): 1}
    assert report.clean, report.differences()


async def test_a_services_event_that_is_sent_again_without_a_time_counts_once(stage_settings: Settings) -> None:
    """The gateway gives each attempt the time of its receipt, and what was decided in between stays."""
    async with stack(stage_settings) as running_stack:
        to_pro = {"kind": "admin.tier_changed", "team_id": TEAM, "id": "one", "data": {"to": "pro", "admin": "ada"}}
        await running_stack.event(to_pro)
        await running_stack.event({**to_pro, "id": "two", "data": {"to": "team", "admin": "ada"}})
        await running_stack.event(to_pro)
        await running_stack.rest()

        rows, dead, tier = await running_stack.rows(), running_stack.dead_letters(), running_stack.tier()

    assert [(kind, metadata["to"]) for kind, metadata in rows] == [("admin.tier_changed", "pro"), ("admin.tier_changed", "team")]
    assert (tier, dead) == ("team", {})
