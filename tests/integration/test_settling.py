"""Changes that settle and welcomes, with the real ledger and real calls."""

import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from agents.forward.settling import Settling
from schemas.kinds import Kind
from schemas.reasons import Reason
from streams.loops.rate_limit import RateLimiter
from streams.runtime.waiting import Backoff, Waiting
from streams.stores.ledger import PostgresLedger
from streams.stores.mail_history import PostgresMailHistory
from streams.stores.migrate import migrate
from tests.forward_doubles import forwarder_of
from tests.integration.databases import pool_of, query
from tests.sinks import ServedSink, served_sink
from tests.stage_doubles import Record, RecordingDeadLetters, id_of, record, team

SECONDS = 0.5


@contextlib.asynccontextmanager
async def settling(dsn: str, sink: ServedSink, seconds: float = SECONDS) -> AsyncIterator[Settling]:
    client = sink.client()
    await client.open()
    async with pool_of(dsn) as pool:
        ledger, dead_letters = PostgresLedger(pool), RecordingDeadLetters()
        waiting = Waiting("test", "loops", backoff=Backoff(0.01, 0.1))
        forwarder = forwarder_of(ledger, client, RateLimiter(1_000), waiting)
        yield Settling(forwarder, ledger, PostgresMailHistory(pool), dead_letters, "audit.events", seconds, idle_seconds=0.2)
    await client.close()


def event(kind: Kind, offset: int, number: int = 0, **metadata: Any) -> Record:
    sent = record(kind, team=team(number), created_at=datetime.now(UTC), metadata=metadata, offset=offset)
    return replace(sent, timestamp=int(time.time() * 1000))


def change(kind: Kind, offset: int, before: str, after: str, number: int = 0) -> Record:
    return event(kind, offset, number, **{"from": before, "to": after})


@pytest.fixture
async def sink(database: str) -> AsyncIterator[ServedSink]:
    await migrate(database)
    async with served_sink() as served:
        yield served


async def handled(settling: Settling, records: list[Record]) -> Counter[Reason]:
    return await settling.handle(records)


async def ledger(dsn: str) -> dict[str, tuple[str, str | None]]:
    rows = await query(dsn, "select * from forwarder_sent")
    return {str(row["audit_id"]): (row["classification"], row["last_error"]) for row in rows}


async def test_changes_in_the_window_are_one_mail_and_the_ledger_says_which(database: str, sink: ServedSink) -> None:
    batch = [
        change(Kind.UPGRADED, 0, "hobby", "pro"),
        change(Kind.DOWNGRADED, 1, "pro", "hobby_plus"),
        change(Kind.UPGRADED, 2, "free", "pro", number=1),
        change(Kind.CANCELED, 3, "pro", "free", number=1),
        event(Kind.NEAR_QUOTA_WALL, 4),
    ]

    async with settling(database, sink) as stage:
        outcomes = await handled(stage, batch)
    async with settling(database, sink) as stage:
        again = await handled(stage, batch)

    assert outcomes == Counter({Reason.SENT: 2, Reason.SUPPRESSED: 3})
    assert again == Counter({Reason.ALREADY_FINAL: 5})
    mails = [(mail["eventName"], mail["eventProperties"].get("from"), mail["eventProperties"].get("to")) for mail in sink.sink.sent]
    assert mails == [("subscription.upgraded", "hobby", "hobby_plus"), ("near_quota_wall", None, None)]
    ids = [str(id_of(each)) for each in batch]
    assert await ledger(database) == {
        ids[0]: ("suppressed", f"settled into {ids[1]}"),
        ids[1]: ("sent", None),
        ids[2]: ("suppressed", "settled: no net change"),
        ids[3]: ("suppressed", "settled: no net change"),
        ids[4]: ("sent", None),
    }


async def test_team_is_welcomed_once_in_its_life(database: str, sink: ServedSink) -> None:
    first, second, third = (event(Kind.CLAIMED, offset) for offset in range(3))
    async with settling(database, sink, 0.0) as stage:
        assert await handled(stage, [first, second, event(Kind.CLAIMED, 2, number=1)]) == Counter({Reason.SENT: 2, Reason.SUPPRESSED: 1})
    async with settling(database, sink, 0.0) as stage:
        assert await handled(stage, [third]) == Counter({Reason.SUPPRESSED: 1})
        assert await handled(stage, [first, second]) == Counter({Reason.ALREADY_FINAL: 2})

    assert [mail["eventName"] for mail in sink.sink.sent] == ["onboarding.claimed"] * 2
    rows = await ledger(database)
    assert rows[str(id_of(third))] == ("suppressed", f"the team was welcomed by {id_of(first)}")


async def test_claim_whose_mail_never_went_out_leaves_the_welcome_to_the_next(database: str, sink: ServedSink) -> None:
    nobody = replace(record(Kind.CLAIMED, team=team(0), created_at=datetime.now(UTC), email=None), timestamp=int(time.time() * 1000))

    async with settling(database, sink, 0.0) as stage:
        assert await handled(stage, [nobody, event(Kind.CLAIMED, 1)]) == Counter({Reason.NO_RECIPIENT: 1, Reason.SENT: 1})
