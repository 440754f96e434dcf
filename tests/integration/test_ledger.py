"""The ledger keeps the same rules in PostgreSQL and in the tests' memory."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from prometheus_client import REGISTRY

from schemas.recipients import address_hash
from streams.errors import RowRejected
from streams.runtime.waiting import Backoff
from streams.stores.ledger import Asked, Classification, Entry, Ledger, LedgerRow, PostgresLedger, Wait
from streams.stores.migrate import migrate
from tests.integration.databases import pool_of, query
from tests.stage_doubles import NOW, TEAM, MemoryLedger
from tests.waiting import eventually

ID, OTHER = uuid.UUID(int=1), uuid.UUID(int=2)
IN_FLIGHT, SENT = Classification.IN_FLIGHT, Classification.SENT
HASH = address_hash("asha@example.com")
LATER = NOW + timedelta(minutes=1)


def entry(classification: Classification, audit_id: uuid.UUID = ID, *, later: bool = False, error: str | None = None) -> Entry:
    return Entry(
        audit_id, uuid.UUID(TEAM), "subscription.upgraded", "a***@example.com", classification, LATER if later else NOW, error, HASH
    )


def asked(*audit_ids: uuid.UUID) -> list[Asked]:
    return [Asked(audit_id, None) for audit_id in audit_ids]


@pytest.fixture(params=["memory", "postgres"])
async def ledger(request: pytest.FixtureRequest, database: str) -> AsyncIterator[Ledger]:
    if request.param == "memory":
        yield MemoryLedger()
        return
    await migrate(database)
    async with pool_of(database) as pool:
        yield PostgresLedger(pool)


async def test_put_first_attempt_is_in_flight_since_then(ledger: Ledger) -> None:
    assert await ledger.rows(asked(ID)) == {}

    assert await ledger.put(entry(IN_FLIGHT)) == LedgerRow(ID, "in_flight", 1, NOW, uuid.UUID(TEAM))
    assert await ledger.rows(asked(ID, OTHER)) == {ID: LedgerRow(ID, "in_flight", 1, NOW, uuid.UUID(TEAM))}


async def test_put_retry_counts_and_keeps_the_time_of_the_first(ledger: Ledger) -> None:
    await ledger.put(entry(IN_FLIGHT))

    assert await ledger.put(entry(IN_FLIGHT, later=True)) == LedgerRow(ID, "in_flight", 2, NOW, uuid.UUID(TEAM))
    assert await ledger.put(entry(SENT, later=True)) == LedgerRow(ID, "sent", 2, NOW, uuid.UUID(TEAM))


@pytest.mark.parametrize("final", [classification for classification in Classification if classification is not IN_FLIGHT])
async def test_put_final_row_is_never_changed(ledger: Ledger, final: Classification) -> None:
    assert await ledger.put(entry(final)) == LedgerRow(ID, final.value, 0, None, uuid.UUID(TEAM))

    for classification in Classification:
        assert await ledger.put(entry(classification)) is None
    assert (await ledger.rows(asked(ID)))[ID].classification == final.value


async def test_put_mail_that_waits_is_found_by_its_team_until_it_is_final_and_a_wait_of_before_changes_nothing(ledger: Ledger) -> None:
    team = uuid.UUID(TEAM)

    def wait(number: int) -> Wait:
        return Wait("forward.retry.30s", LATER, number, 3, 2**40)

    await ledger.put(entry(IN_FLIGHT))
    assert await ledger.put(entry(IN_FLIGHT)._replace(wait=wait(1))) == LedgerRow(ID, "in_flight", 1, NOW, team, wait(1)), "no attempt"
    behind = await ledger.put(entry(IN_FLIGHT, OTHER)._replace(wait=wait(1)))
    assert behind == LedgerRow(OTHER, "in_flight", 0, None, team, wait(1)), "nor a first one"
    assert await ledger.put(entry(IN_FLIGHT, later=True)) == LedgerRow(ID, "in_flight", 2, NOW, team, wait(1)), "it waits on meanwhile"
    assert await ledger.put(entry(IN_FLIGHT)._replace(wait=wait(2))) == LedgerRow(ID, "in_flight", 2, NOW, team, wait(2))
    assert await ledger.put(entry(IN_FLIGHT)._replace(wait=wait(1))) is None
    assert (await ledger.rows([Asked(uuid.UUID(int=9), team)])).keys() == {ID, OTHER}
    assert await ledger.rows([Asked(uuid.UUID(int=9), None)]) == {}

    assert await ledger.put(entry(SENT)) == LedgerRow(ID, "sent", 2, NOW, team)
    assert (await ledger.rows([Asked(uuid.UUID(int=9), team)])).keys() == {OTHER}


async def test_put_same_mail_at_once_is_written_one_after_the_other(ledger: Ledger) -> None:
    rows = await asyncio.gather(*(ledger.put(entry(IN_FLIGHT)) for _ in range(5)), ledger.put(entry(SENT)), ledger.put(entry(IN_FLIGHT)))

    assert [row and (row.classification, row.attempts) for row in rows] == [
        *(("in_flight", number) for number in range(1, 6)),
        ("sent", 5),
        None,
    ]


async def test_put_many_at_once_are_all_written(ledger: Ledger) -> None:
    ids = [uuid.UUID(int=number + 1) for number in range(300)]

    await asyncio.gather(*(ledger.put(entry(IN_FLIGHT, audit_id)) for audit_id in ids))

    assert set(await ledger.rows(asked(*ids))) == set(ids)


@pytest.fixture
async def postgres(database: str) -> AsyncIterator[PostgresLedger]:
    await migrate(database)
    async with pool_of(database) as pool:
        yield PostgresLedger(pool)


async def test_put_row_emits_the_whole_scenario(postgres: PostgresLedger, database: str) -> None:
    await postgres.put(entry(IN_FLIGHT))
    await postgres.put(entry(IN_FLIGHT, later=True, error="answer 500"))
    await postgres.put(entry(SENT, later=True))

    (stored,) = await query(database, "select * from forwarder_sent")
    assert stored.pop("recorded_at") is not None
    assert stored == {
        "audit_id": ID,
        "provider": "loops",
        "provider_id": None,
        "recipient": "a***@example.com",
        "template_kind": "subscription.upgraded",
        "classification": "sent",
        "attempts": 2,
        "first_attempt_at": NOW,
        "sent_at": LATER,
        "delivered_at": None,
        "last_error": "answer 500",
        "team_id": uuid.UUID(TEAM),
        "address_hash": HASH,
        "forwarded_as": None,
        "resolution": None,
        "resolution_open": False,
        "resends": 0,
        **dict.fromkeys(("waiting_topic", "waiting_due", "waiting_round", "origin_partition", "origin_offset")),
    }


async def test_put_no_call_for_an_address_that_gets_no_more_mail_and_the_row_says_why(postgres: PostgresLedger, database: str) -> None:
    await query(database, "insert into address_feedback (address_hash, complaint_at) values ($1, $2)", HASH, NOW)

    assert await postgres.put(entry(IN_FLIGHT)) == LedgerRow(ID, "suppressed", 0, None, uuid.UUID(TEAM))
    assert await postgres.put(entry(IN_FLIGHT, OTHER)._replace(address_hash=address_hash("other@example.com"))) == LedgerRow(
        OTHER, "in_flight", 1, NOW, uuid.UUID(TEAM)
    )

    (stored,) = await query(database, "select last_error from forwarder_sent where audit_id = $1", ID)
    assert stored["last_error"] == "Mail to this address is suppressed: complaint."


async def test_put_a_call_that_was_begun_goes_on_when_its_address_is_suppressed(postgres: PostgresLedger, database: str) -> None:
    await postgres.put(entry(IN_FLIGHT))
    await query(database, "insert into address_feedback (address_hash, bounced_hard_at) values ($1, $2)", HASH, NOW)

    assert await postgres.put(entry(IN_FLIGHT, later=True)) == LedgerRow(ID, "in_flight", 2, NOW, uuid.UUID(TEAM))
    assert await postgres.put(entry(SENT, later=True)) == LedgerRow(ID, "sent", 2, NOW, uuid.UUID(TEAM))


async def test_put_nul_in_a_recipient_does_not_stop_the_mail(postgres: PostgresLedger, database: str) -> None:
    await postgres.put(entry(Classification.REFUSED, error="no\0body")._replace(recipient="a***@exa\0mple.com"))

    assert await query(database, "select recipient, last_error from forwarder_sent") == [
        {"recipient": "a***@example.com", "last_error": "nobody"}
    ]


async def test_put_outcome_of_a_row_that_was_dropped_meanwhile_is_written_all_the_same(postgres: PostgresLedger, database: str) -> None:
    await postgres.put(entry(IN_FLIGHT))
    await query(database, "drop table forwarder_sent")
    await migrate(database)

    assert await postgres.put(entry(SENT)) == LedgerRow(ID, "sent", 0, None, uuid.UUID(TEAM))


async def test_put_caller_that_gives_up_does_not_take_the_others_along(postgres: PostgresLedger) -> None:
    first = asyncio.create_task(postgres.put(entry(IN_FLIGHT, ID)))
    second = asyncio.create_task(postgres.put(entry(IN_FLIGHT, OTHER)))
    await asyncio.sleep(0)

    first.cancel()

    assert await second == LedgerRow(OTHER, "in_flight", 1, NOW, uuid.UUID(TEAM))
    assert set(await postgres.rows(asked(ID, OTHER))) == {ID, OTHER}


async def test_put_row_that_postgresql_refuses_is_refused_alone(postgres: PostgresLedger, database: str) -> None:
    await query(database, "alter table forwarder_sent alter column recipient type varchar(16)")
    ids = [uuid.UUID(int=number + 1) for number in range(40)]
    entries = [entry(IN_FLIGHT, audit_id) for audit_id in ids]
    entries[7] = entries[7]._replace(recipient="a***@a-long-name.example.com")

    written = await asyncio.gather(*map(postgres.put, entries), return_exceptions=True)

    assert isinstance(written[7], RowRejected)
    assert "example.com" not in str(written[7])
    assert set(await postgres.rows(asked(*ids))) == {audit_id for number, audit_id in enumerate(ids) if number != 7}


async def test_put_half_a_surrogate_pair_in_a_recipient_does_not_stop_the_mail(postgres: PostgresLedger, database: str) -> None:
    await asyncio.gather(postgres.put(entry(IN_FLIGHT)), postgres.put(entry(IN_FLIGHT, OTHER)._replace(recipient="\ud800***@example.com")))

    assert await query(database, "select recipient from forwarder_sent order by audit_id") == [
        {"recipient": "a***@example.com"},
        {"recipient": "?***@example.com"},
    ]


async def test_put_constraint_of_others_is_waited_for_by_the_mails_that_it_refuses(postgres: PostgresLedger, database: str) -> None:
    await query(database, "alter table forwarder_sent add constraint audited foreign key (audit_id) references audit_log")
    await query(database, "insert into audit_log (id, kind, summary, metadata, created_at) values ($1, 'x', 'x', '{}', now())", OTHER)

    waiting = asyncio.create_task(postgres.put(entry(IN_FLIGHT)))
    assert await postgres.put(entry(IN_FLIGHT, OTHER)) == LedgerRow(OTHER, "in_flight", 1, NOW, uuid.UUID(TEAM))
    await eventually(waits)
    assert not waiting.done()
    await query(database, "insert into audit_log (id, kind, summary, metadata, created_at) values ($1, 'x', 'x', '{}', now())", ID)

    assert await asyncio.wait_for(waiting, 10) == LedgerRow(ID, "in_flight", 1, NOW, uuid.UUID(TEAM))
    assert not waits()


async def test_put_missing_reference_that_never_comes_is_refused_once_others_were_taken(database: str) -> None:
    await migrate(database)
    await query(database, "alter table forwarder_sent add constraint audited foreign key (audit_id) references audit_log")
    await query(database, "insert into audit_log (id, kind, summary, metadata, created_at) values ($1, 'x', 'x', '{}', now())", OTHER)

    async with pool_of(database) as pool:
        ledger = PostgresLedger(pool, constraint_wait_seconds=0.2, backoff=Backoff(0.01, 0.05))
        waiting = asyncio.create_task(ledger.put(entry(IN_FLIGHT)))
        await eventually(waits)
        await asyncio.wait({waiting}, timeout=0.5)
        assert not waiting.done(), "nothing of anybody was taken: the fault may be the constraint's"
        await ledger.put(entry(IN_FLIGHT, OTHER))
        with pytest.raises(RowRejected, match="constraint audited of forwarder_sent"):
            await asyncio.wait_for(waiting, 10)


def waits() -> bool:
    return REGISTRY.get_sample_value("tierstream_waiting", {"stage": "test", "service": "constraint audited of forwarder_sent"}) == 1.0
