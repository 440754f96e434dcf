"""Feedback with the real PostgreSQL, and from the gateway's route to the ledger."""

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from prometheus_client import REGISTRY

from agents.feedback.decide import match
from agents.feedback.stage import FeedbackHandler
from agents.registry import stage_factory
from schemas.kinds import Kind
from schemas.reasons import Reason
from schemas.recipients import address_hash
from streams.runtime.waiting import Backoff
from streams.settings import Settings
from streams.stores.feedback import PostgresFeedback
from streams.stores.ledger import Classification, Entry, PostgresLedger
from streams.stores.migrate import migrate
from tests.feedback_factories import EMAIL, NOW, after, body, webhook
from tests.integration.databases import pool_of, query
from tests.stage_doubles import TEAM, Record, RecordingDeadLetters
from tests.topic_io import produce, read_all
from tests.workers import running


def counted(outcome: str) -> float:
    return REGISTRY.get_sample_value("tierstream_feedback_total", {"outcome": outcome}) or 0.0


IDS = [uuid.UUID(int=number) for number in range(1, 6)]


@dataclass
class World:
    dsn: str
    ledger: PostgresLedger
    handler: FeedbackHandler

    async def mail(
        self,
        audit_id: uuid.UUID = IDS[0],
        classification: Classification = Classification.SENT,
        *,
        at: datetime = NOW,
        kind: str = Kind.UPGRADED,
        email: str = EMAIL,
    ) -> None:
        """A mail as the forwarder leaves it: a call, and how it ended."""
        entry = Entry(audit_id, uuid.UUID(TEAM), kind, "a***@example.com", Classification.IN_FLIGHT, at, None, address_hash(email))
        await self.ledger.put(entry)
        if classification is not Classification.IN_FLIGHT:
            await self.ledger.put(entry._replace(classification=classification))

    async def row(self, audit_id: uuid.UUID = IDS[0]) -> dict[str, Any]:
        (row,) = await query(self.dsn, "select * from forwarder_sent where audit_id = $1", audit_id)
        return row

    async def says(self, audit_id: uuid.UUID = IDS[0]) -> str:
        return str((await self.row(audit_id))["classification"])

    async def reason(self, email: str = EMAIL) -> str | None:
        rows = await query(self.dsn, "select reason from address_feedback where address_hash = $1", address_hash(email))
        return rows[0]["reason"] if rows else None

    async def everything(self) -> list[dict[str, Any]]:
        """All that feedback has an influence on."""
        ledger = await query(self.dsn, "select audit_id, classification, delivered_at, provider_id from forwarder_sent order by audit_id")
        return [
            *ledger,
            *await query(self.dsn, "select * from loops_mails order by email_id"),
            *await query(self.dsn, "select * from address_feedback order by address_hash"),
        ]


@asynccontextmanager
async def world_on(dsn: str) -> AsyncIterator[World]:
    await migrate(dsn)
    async with pool_of(dsn) as pool:
        handler = FeedbackHandler(PostgresFeedback(pool, match), RecordingDeadLetters(), backoff=Backoff(0.01, 0.05))
        yield World(dsn, PostgresLedger(pool), handler)


@pytest.fixture
async def world(database: str) -> AsyncIterator[World]:
    async with world_on(database) as found:
        yield found


async def test_delivery_stands_in_the_ledger_with_its_time_and_loops_id(world: World) -> None:
    await world.mail()

    outcomes = await world.handler.handle([webhook("loop.email.sent", after(1)), webhook("email.delivered", after(4))])

    row = await world.row()
    assert outcomes == Counter({Reason.MATCHED: 2})
    assert (row["classification"], row["delivered_at"], row["provider_id"]) == ("delivered", after(4), "mail-1")
    assert row["sent_at"] == NOW


async def test_mails_to_one_address_are_told_apart_by_kind_and_by_time(world: World) -> None:
    await world.mail(IDS[0], kind=Kind.CLAIMED)
    await world.mail(IDS[1], kind=Kind.UPGRADED, at=after(60))
    await world.mail(IDS[2], kind=Kind.UPGRADED, at=after(7_200))
    batch = [
        webhook("loop.email.sent", after(61), mail_id="a", loopName="subscription.upgraded"),
        webhook("loop.email.sent", after(62), mail_id="b", loopName="welcome, onboarding.claimed"),
        webhook("loop.email.sent", after(7_201), mail_id="c"),
        *(webhook("email.delivered", after(80_000), mail_id=mail_id) for mail_id in "abc"),
    ]

    assert await world.handler.handle(batch) == Counter({Reason.MATCHED: 6})
    assert [(await world.row(audit_id))["provider_id"] for audit_id in IDS[:3]] == ["b", "a", "c"]
    assert {await world.says(audit_id) for audit_id in IDS[:3]} == {"delivered"}


async def test_report_that_could_be_about_two_mails_changes_neither_and_still_suppresses(world: World) -> None:
    await world.mail(IDS[0])
    await world.mail(IDS[1], at=after(60))

    assert await world.handler.handle([webhook("email.hardBounced", after(90))]) == Counter([Reason.AMBIGUOUS])
    assert (await world.says(IDS[0]), await world.says(IDS[1])) == ("sent", "sent")
    assert await world.reason() == "bounced_hard"


async def test_report_about_nobody_we_mailed_is_unmatched(world: World) -> None:
    await world.mail()
    batch = [webhook("email.delivered", email="other@example.com"), webhook("email.delivered", after(-3_600), mail_id="mail-2")]

    assert await world.handler.handle(batch) == Counter({Reason.UNMATCHED: 2})
    assert await world.says() == "sent"


@pytest.mark.parametrize("seed", range(3))
async def test_any_order_any_repetition_and_any_number_of_partitions_end_the_same(database: str, servers: object, seed: int) -> None:
    random_order = random.Random(seed)
    events = _history()
    async with world_on(database) as world:
        await _mails(world)
        await world.handler.handle(events)
        expected = await world.everything()
        await query(database, "truncate forwarder_sent, loops_mails, address_feedback")
        await _mails(world)
        again = [*events, *events]
        random_order.shuffle(again)

        await asyncio.gather(*(world.handler.handle(part) for part in (again[0::3], again[1::3], again[2::3])))

        assert await world.everything() == expected
        assert [row.get("classification") for row in expected[:4]] == ["complaint", "delivered", "bounced_hard", "delivered"]


async def _mails(world: World) -> None:
    await world.mail(IDS[0], kind=Kind.CLAIMED)
    await world.mail(IDS[1], Classification.IN_DOUBT, at=after(60))
    await world.mail(IDS[2], Classification.ALREADY_SENT, email="ravi@example.com")
    await world.mail(IDS[3], email="meera@example.com")


def _history() -> Sequence[Record]:
    return [
        webhook("loop.email.sent", after(61), mail_id="a", loopName="subscription.upgraded"),
        webhook("email.delivered", after(65), mail_id="a"),
        webhook("email.softBounced", after(63), mail_id="a"),
        webhook("loop.email.sent", after(2), mail_id="b", loopName="onboarding.claimed"),
        webhook("email.delivered", after(3), mail_id="b"),
        webhook("email.spamReported", after(4_000), mail_id="b"),
        webhook("email.unsubscribed", after(3_000), mail_id="b"),
        webhook("email.resubscribed", after(5_000)),
        webhook("email.hardBounced", after(9), mail_id="c", email="ravi@example.com"),
        webhook("contact.unsubscribed", after(10), email="ravi@example.com"),
        webhook("email.delivered", after(7), mail_id="d", email="meera@example.com"),
        webhook("loop.email.sent", after(6), mail_id="e", email="meera@example.com", loopName="payment.grace_started"),
        webhook("email.delivered", after(8), mail_id="e", email="meera@example.com"),
    ]


async def test_an_earlier_guess_is_taken_back_when_the_workflow_says_that_it_was_another_mail(world: World) -> None:
    await world.mail(kind=Kind.UPGRADED)

    await world.handler.handle([webhook("email.hardBounced", after(5))])
    assert await world.says() == "bounced_hard"

    outcomes = await world.handler.handle([webhook("loop.email.sent", after(2), loopName="payment.grace_started")])

    row = await world.row()
    assert outcomes == Counter([Reason.UNMATCHED])
    assert (row["classification"], row["provider_id"]) == ("sent", None)


async def test_a_mail_that_is_in_doubt_is_settled_by_its_delivery(world: World) -> None:
    await world.mail(classification=Classification.IN_DOUBT)

    await world.handler.handle([webhook("email.delivered", after(5))])

    assert await world.says() == "delivered"


async def test_a_mail_in_flight_is_the_forwarders_until_its_call_has_an_answer(world: World) -> None:
    await world.mail(classification=Classification.IN_FLIGHT)
    let_go = asyncio.Event()
    handling = asyncio.create_task(world.handler.handle([webhook("email.delivered", after(5))], let_go.set))

    await asyncio.wait_for(let_go.wait(), 10)
    assert (await world.says(), (await world.row())["forwarded_as"]) == ("in_flight", None)

    await world.mail(classification=Classification.ALREADY_SENT)
    assert await asyncio.wait_for(handling, 10) == Counter([Reason.MATCHED])
    assert await world.says() == "delivered"


@pytest.mark.parametrize("classification", [Classification.SUPPRESSED, Classification.EXPIRED, Classification.REFUSED])
async def test_a_mail_that_was_not_accepted_is_never_meant(world: World, classification: Classification) -> None:
    await world.mail(classification=classification)

    assert await world.handler.handle([webhook("email.delivered", after(5))]) == Counter([Reason.UNMATCHED])
    assert await world.says() == classification.value


async def test_unsubscribed_address_gets_no_mail_until_it_is_resubscribed_and_a_bounce_stays(world: World) -> None:
    await world.handler.handle([webhook("email.unsubscribed", after(1))])
    await world.mail(IDS[0], at=after(10))
    assert (await world.says(IDS[0]), await world.reason()) == ("suppressed", "unsubscribed")

    await world.handler.handle([webhook("email.resubscribed", after(20))])
    await world.mail(IDS[1], at=after(30))
    assert (await world.says(IDS[1]), await world.reason()) == ("sent", None)

    await world.handler.handle([webhook("email.hardBounced", after(40), mail_id="x"), webhook("email.resubscribed", after(50))])
    await world.mail(IDS[2], at=after(60), email=EMAIL.upper())
    assert (await world.says(IDS[2]), await world.reason()) == ("suppressed", "bounced_hard")
    assert (await world.row(IDS[2]))["last_error"] == "Mail to this address is suppressed: bounced_hard."


async def test_no_address_is_kept(world: World) -> None:
    await world.mail()
    await world.handler.handle([webhook("email.unsubscribed", after(1))])

    for table in ("forwarder_sent", "loops_mails", "address_feedback"):
        assert EMAIL not in str(await query(world.dsn, f"select * from {table}"))


async def test_stage_reads_its_topic_and_parks_what_is_none_of_loops(stage_settings: Settings) -> None:
    assert stage_settings.postgres_dsn is not None
    dsn = stage_settings.postgres_dsn.get_secret_value()
    now, matched = datetime.now(UTC), counted("matched")
    async with world_on(dsn) as world:
        await world.mail(at=now)
        delivered = orjson.dumps(body("email.delivered", now + timedelta(seconds=1)))
        produce(stage_settings, "loops.webhooks", [(b"msg_1", delivered), (b"msg_2", b"[]")])

        async with running(stage_settings, stage_factory(stage_settings, "feedback")) as run:
            await run.until(lambda: bool(read_all(stage_settings, "dead.letters")) and counted("matched") == matched + 1, "both worked in")

        assert await world.says() == "delivered"
    (letter,) = read_all(stage_settings, "dead.letters")
    assert {"dlq-stage": b"feedback", "dlq-reason": b"malformed"}.items() <= dict(letter.headers() or []).items()
