"""The forwarder with the real PostgreSQL, the real client and the fake Loops."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
import structlog
from prometheus_client import REGISTRY
from pydantic import SecretStr

from agents.forward.decide import Policy
from agents.forward.key import ApiKey
from agents.forward.retries import Tier
from agents.forward.stage import Forwarder
from agents.registry import stage_factory
from schemas.kinds import Kind
from schemas.reasons import Reason
from streams.loops.rate_limit import RateLimiter
from streams.runtime.waiting import Backoff, Waiting, describe_waits
from streams.settings import Settings, changed
from streams.stores.ledger import PostgresLedger
from streams.stores.migrate import migrate
from tests.forward_doubles import TOPICS, MemoryRetries
from tests.integration.databases import pool_of, query
from tests.sinks import ServedSink, served_sink
from tests.stage_doubles import Record, RecordingDeadLetters, id_of, record, team
from tests.waiting import eventually


def waits(service: str) -> bool:
    return REGISTRY.get_sample_value("tierstream_waiting", {"stage": "test", "service": service}) == 1.0


def mail(number: int = 0, kind: str = Kind.UPGRADED, email: str | None = "asha@example.com") -> Record:
    """A record of now, of the team of that number."""
    return record(kind, team=team(number), created_at=datetime.now(UTC), email=email)


@dataclass
class Stage:
    dsn: str
    sink: ServedSink
    dead_letters: RecordingDeadLetters
    retries: MemoryRetries = field(default_factory=MemoryRetries)

    @asynccontextmanager
    async def forwarder(
        self, *, per_second: float = 10_000, timeout_seconds: float = 0.5, api_key: str = "key"
    ) -> AsyncIterator[Forwarder]:
        """A worker's forwarder, with connections of its own."""
        client = self.sink.client(api_key=api_key, timeout_seconds=timeout_seconds)
        await client.open()
        async with pool_of(self.dsn) as pool:
            waiting, limiter = Waiting("test", "loops", backoff=Backoff(0.01, 0.1)), RateLimiter(per_second)
            tiers = [Tier(topic, 0.01) for topic in TOPICS]
            async with aclosing(ApiKey("test", client, limiter, backoff=Backoff(0.01, 0.05))) as key:
                yield Forwarder(PostgresLedger(pool), client, limiter, self.dead_letters, self.retries, tiers, Policy(), waiting, key)
        await client.close()

    async def handle(self, forwarder: Forwarder, batch: Sequence[Record]) -> Counter[Reason]:
        """Handle a batch, and what comes of it on the retry topics until nothing is left there; return the outcomes, without the waits."""
        outcomes = await forwarder.handle(batch)
        while self.retries.written:
            waiting, self.retries.written = self.retries.written, []
            for retried in await asyncio.gather(*(forwarder.handle([each]) for each in waiting)):
                outcomes.update(retried)
        del outcomes[Reason.WAITS]
        return outcomes

    async def ledger(self) -> dict[str, str]:
        return {str(row["audit_id"]): row["classification"] for row in await query(self.dsn, "select * from forwarder_sent")}


@pytest.fixture
async def stage(database: str) -> AsyncIterator[Stage]:
    await migrate(database)
    async with served_sink(api_key="key") as sink:
        yield Stage(database, sink, RecordingDeadLetters())


async def test_forwarder_mails_reach_loops_once_each_and_in_order_for_each_team(stage: Stage) -> None:
    batch = [mail(number % 20) for number in range(200)]

    async with stage.forwarder() as forwarder:
        assert await forwarder.handle(batch) == Counter({Reason.SENT: 200})
        assert await forwarder.handle(batch) == Counter({Reason.ALREADY_FINAL: 200})

    assert sorted(map(str, stage.sink.keys)) == sorted(str(id_of(sent)) for sent in batch)
    for number in range(20):
        mine = [str(id_of(sent)) for sent in batch[number::20]]
        assert [key for key in stage.sink.keys if key in mine] == mine
    assert set((await stage.ledger()).values()) == {"sent"}


async def test_forwarder_every_outcome_stands_in_the_ledger(stage: Stage) -> None:
    batch = {
        "sent": mail(0),
        "no_recipient": mail(1, email=None),
        "placeholder_recipient": mail(2, email="void@razorpay.com"),
        "refused": mail(3, email="no address"),
        "expired": record(team=team(4), created_at=datetime.now(UTC) - timedelta(hours=25)),
    }

    async with stage.forwarder() as forwarder:
        outcomes = await forwarder.handle([*batch.values(), mail(5, Kind.CHARGE_UNDELIVERABLE)])

    assert outcomes == Counter({**{Reason(name): 1 for name in batch}, Reason.NEVER_MAILED: 1})
    assert await stage.ledger() == {str(id_of(sent)): name for name, sent in batch.items()}
    assert stage.dead_letters.reasons == [Reason.REFUSED]
    recipients = await query(stage.dsn, "select recipient from forwarder_sent where recipient is not null")
    assert {row["recipient"] for row in recipients} == {"a***@example.com", "v***@razorpay.com", "***"}


async def test_forwarder_accepted_but_unanswered_mail_is_sent_once(stage: Stage) -> None:
    stage.sink.break_it(accept_then_timeout=2)
    batch = [mail(number) for number in range(5)]

    async with stage.forwarder() as forwarder:
        outcomes = await stage.handle(forwarder, batch)

    assert outcomes == Counter({Reason.SENT: 3, Reason.ALREADY_SENT: 2})
    assert sorted(map(str, stage.sink.keys)) == sorted(str(id_of(sent)) for sent in batch)


async def test_forwarder_loops_down_and_back_sends_everything_soon(stage: Stage) -> None:
    stage.sink.break_it(down=True)
    async with stage.forwarder() as forwarder:
        sending = asyncio.create_task(forwarder.handle([mail(number) for number in range(50)]))
        await eventually(lambda: waits("loops"))
        stage.sink.break_it(down=False)

        assert await asyncio.wait_for(sending, 3) == Counter({Reason.SENT: 50})
    assert len(set(stage.sink.keys)) == len(stage.sink.keys) == 50


async def test_forwarder_failures_of_single_calls_cost_no_mail(stage: Stage) -> None:
    stage.sink.break_it(fail_next=20, status=500)

    async with stage.forwarder() as forwarder:
        assert await stage.handle(forwarder, [mail(number) for number in range(50)]) == Counter({Reason.SENT: 50})
    assert len(stage.sink.keys) == 50


async def test_forwarder_stays_below_the_limit_of_loops(stage: Stage) -> None:
    stage.sink.break_it(rate=40)

    async with stage.forwarder(per_second=40) as forwarder:
        await forwarder.handle([mail(number) for number in range(100)])

    stats = stage.sink.sink.stats()
    assert stats["statuses"] == {"200": 100}
    assert stats["peak_per_second"] <= 40


async def test_forwarder_limit_lower_than_it_was_reported_is_learned_and_costs_no_mail(stage: Stage) -> None:
    stage.sink.break_it(rate=30)

    async with stage.forwarder(per_second=1_000) as forwarder:
        assert await forwarder.handle([mail(number) for number in range(60)]) == Counter({Reason.SENT: 60})
    assert len(stage.sink.keys) == 60


async def test_forwarder_wrong_key_sends_nothing_and_the_same_worker_goes_on_when_it_works(stage: Stage) -> None:
    batch = [mail(number) for number in range(40)]
    stage.sink.sink.valid_key = "another"

    async with stage.forwarder() as forwarder:
        sending = asyncio.create_task(forwarder.handle(batch))
        await eventually(lambda: waits("loops api key"))
        await eventually(lambda: stage.sink.sink.stats()["statuses"]["401"] > 40)
        assert stage.sink.keys == []
        assert set((await stage.ledger()).values()) == {"in_flight"}

        stage.sink.sink.valid_key = "key"
        assert await asyncio.wait_for(sending, 10) == Counter({Reason.SENT: 40})
    assert (stage.dead_letters.written, stage.retries.written) == ([], [])


async def test_stage_with_a_wrong_key_starts_paused_and_says_so(stage: Stage, kafka_settings: Settings) -> None:
    settings = kafka_settings.model_copy(update=addresses(stage, api_key="wrong"))

    async with stage_factory(settings, "forward")():
        (sentence,) = describe_waits("forward")
        assert sentence.startswith("waits for loops api key: Loops rejects the API key (401), and no mail is sent")
        assert "TIERSTREAM_LOOPS_API_KEY" in sentence
        assert REGISTRY.get_sample_value("tierstream_forward_paused", {"reason": "key_rejected"}) == 1.0
    assert describe_waits("forward") == []


async def test_stage_with_a_key_and_an_address_as_people_paste_them_reaches_loops(
    stage: Stage, kafka_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIERSTREAM_LOOPS_API_KEY", "key\n")
    monkeypatch.setenv("TIERSTREAM_LOOPS_BASE_URL", f"{stage.sink.url}/api/v1/ ")
    settings = changed(kafka_settings, postgres_dsn=stage.dsn)

    with structlog.testing.capture_logs() as lines:
        async with stage_factory(settings, "forward")() as built:
            assert built.name == "forward"

    assert lines == [], "the key was asked for, and is right"


async def test_stage_starts_while_loops_is_away(stage: Stage, kafka_settings: Settings) -> None:
    stage.sink.break_it(down=True)

    async with stage_factory(kafka_settings.model_copy(update=addresses(stage, api_key="wrong")), "forward")() as built:
        assert built.name == "forward"


def addresses(stage: Stage, api_key: str) -> dict[str, object]:
    return {"postgres_dsn": SecretStr(stage.dsn), "loops_base_url": stage.sink.url, "loops_api_key": SecretStr(api_key)}


async def test_forwarder_killed_between_call_and_outcome_sends_no_second_mail(stage: Stage) -> None:
    stage.sink.break_it(accept_then_timeout=1)
    unlucky = mail()
    async with stage.forwarder(timeout_seconds=30) as forwarder:
        sending = asyncio.create_task(forwarder.handle([unlucky]))
        await eventually(lambda: len(stage.sink.keys) == 1)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    assert await stage.ledger() == {str(id_of(unlucky)): "in_flight"}

    async with stage.forwarder() as forwarder:
        assert await forwarder.handle([unlucky]) == Counter({Reason.ALREADY_SENT: 1})
    assert stage.sink.keys == [str(id_of(unlucky))]


async def test_forwarder_without_its_ledger_sends_nothing_until_it_is_back(stage: Stage) -> None:
    await query(stage.dsn, "drop table forwarder_sent")
    async with stage.forwarder() as forwarder:
        sending = asyncio.create_task(forwarder.handle([mail(number) for number in range(10)]))
        await eventually(lambda: waits("postgres"))
        assert stage.sink.keys == []

        await migrate(stage.dsn)
        assert await asyncio.wait_for(sending, 5) == Counter({Reason.SENT: 10})


async def test_forwarder_row_that_the_ledger_refuses_costs_that_mail_alone(stage: Stage) -> None:
    await query(stage.dsn, "alter table forwarder_sent alter column recipient type varchar(16)")
    batch = [mail(number) for number in range(20)]
    batch[7] = mail(7, email="asha@a-long-name.example.com")

    async with stage.forwarder() as forwarder:
        assert await forwarder.handle(batch) == Counter({Reason.SENT: 19, Reason.REJECTED: 1})

    assert sorted(map(str, stage.sink.keys)) == sorted(str(id_of(sent)) for sent in batch if sent is not batch[7])
    ((dead_letter, reason, error),) = stage.dead_letters.written
    assert (dead_letter, reason) == (batch[7], Reason.REJECTED)
    assert "refuses the row (SQLSTATE 22001" in error
    assert "@" not in error


async def test_forwarder_ledger_lost_between_call_and_outcome_is_written_when_it_is_back(stage: Stage) -> None:
    stage.sink.break_it(accept_then_timeout=1)
    unlucky = mail()
    async with stage.forwarder() as forwarder:
        sending = asyncio.create_task(forwarder.handle([unlucky]))
        await eventually(lambda: len(stage.sink.keys) == 1)
        await query(stage.dsn, "drop table forwarder_sent")
        await eventually(lambda: waits("postgres"))
        await migrate(stage.dsn)

        assert await asyncio.wait_for(sending, 5) == Counter({Reason.ALREADY_SENT: 1})
    assert stage.sink.keys == [str(id_of(unlucky))]
    assert await stage.ledger() == {str(id_of(unlucky)): "already_sent"}


async def test_forwarder_two_workers_with_the_same_batch_send_each_mail_once(stage: Stage) -> None:
    batch = [mail(number % 10) for number in range(100)]

    async with stage.forwarder() as one, stage.forwarder() as other:
        outcomes = await asyncio.gather(one.handle(batch), other.handle(batch))

    assert sum((counted.total() for counted in outcomes), 0) == 200
    assert sorted(map(str, stage.sink.keys)) == sorted(str(id_of(sent)) for sent in batch)
    assert set((await stage.ledger()).values()) <= {"sent", "already_sent"}
