"""All that each role of PostgreSQL is for, done with its login: what a stage writes and reads, and what commands ask and decide."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TypeVar

from agents.feedback.decide import match
from streams.loops.slots import Limit, Return
from streams.runtime.waiting import Waiting
from streams.stores.accounts import StoredAccounts
from streams.stores.audit_log import AuditRow, PostgresAuditLog, RowStatus
from streams.stores.deliveries import Decision, Filters, Resolution, StoredDeliveries
from streams.stores.explanations import Explanations
from streams.stores.feedback import AddressFact, MailFact, Matched, PostgresFeedback, Report
from streams.stores.ledger import Asked, Classification, Entry, PostgresLedger
from streams.stores.loops_slots import PostgresSlots
from streams.stores.mail_history import PostgresMailHistory
from streams.stores.pool import PostgresPool
from streams.stores.replays import Replays, ToldMail
from streams.stores.tables import AUDIT_LOG, FORWARDER_SENT, Table

T = TypeVar("T")
TEAM = uuid.UUID("3f1c1f0e-6a55-4c5c-9a39-0a4d3c1f7b01")
KIND = "subscription.upgraded"


class Impatient(Waiting):
    """Waits for nothing: what would be an outage to a stage is an error here."""

    async def until_available(self, operation: Callable[[], Awaitable[T]]) -> T:
        return await operation()


@asynccontextmanager
async def _pool(dsn: str, table: Table) -> AsyncIterator[PostgresPool]:
    pool = PostgresPool(dsn, Impatient("test", "postgres"), table=table)
    await pool.open()
    try:
        yield pool
    finally:
        await pool.close()


def a_row() -> AuditRow:
    return AuditRow(uuid.uuid4(), TEAM, None, "system", KIND, "subscription", None, "Upgraded", '{"to": "pro"}', datetime.now(UTC))


async def audit(dsn: str) -> None:
    """Rows that are new, which COPY writes, and rows that are there, which are compared."""
    old, new = a_row(), a_row()
    async with _pool(dsn, AUDIT_LOG) as pool:
        log = PostgresAuditLog(pool)
        assert [result.status for result in await log.write([old])] == [RowStatus.INSERTED]
        found = [result.status for result in await log.write([old, new, new._replace(summary="Another")])]
    assert found == [RowStatus.ALREADY_THERE, RowStatus.INSERTED, RowStatus.CONFLICT]


def _entry(address: bytes, audit_id: uuid.UUID | None = None) -> Entry:
    return Entry(audit_id or uuid.uuid4(), TEAM, KIND, "a***@example.com", Classification.IN_FLIGHT, datetime.now(UTC), None, address)


async def forward(dsn: str) -> None:
    """A mail from its first look at the ledger to its outcome, and a place in the account's limit."""
    entry = _entry(uuid.uuid4().bytes)
    async with _pool(dsn, FORWARDER_SENT) as pool:
        ledger, slots, limit = PostgresLedger(pool), PostgresSlots(pool), Limit(2, 1.0)
        assert await ledger.rows([Asked(entry.audit_id, TEAM)]) == {}
        assert await ledger.put(entry) is not None
        assert await ledger.put(entry._replace(classification=Classification.SENT)) is not None
        history = await PostgresMailHistory(pool).history([entry.audit_id], [TEAM])
        assert history.classifications == {entry.audit_id: "sent"}
        grant = await slots.take(limit, 60.0)
        assert grant is not None
        await slots.give_back(limit, [Return(grant.slot, grant.use, 0.0)], 0.0)


async def feedback(dsn: str, mailed: Callable[[bytes], Awaitable[uuid.UUID]]) -> None:
    """Two reports of one mail, the second of which also says something of its address. ``mailed`` leaves a mail to an address in the ledger."""
    address, mail = uuid.uuid4().bytes, uuid.uuid4().hex
    audit_id, at = await mailed(address), datetime.now(UTC)
    async with _pool(dsn, FORWARDER_SENT) as pool:
        store = PostgresFeedback(pool, match)
        sent = Report(address, at, mail, MailFact.SENT, KIND, None)
        bounced = Report(address, at, mail, MailFact.BOUNCED_HARD, KIND, AddressFact.BOUNCED_HARD)
        for report in (sent, bounced, bounced):
            assert await store.note(report) == Matched(audit_id)


async def mail_to(dsn: str, address: bytes) -> uuid.UUID:
    """Leave a mail that was sent in the ledger, as forward does; return its audit id."""
    entry = _entry(address)
    async with _pool(dsn, FORWARDER_SENT) as pool:
        for classification in (Classification.IN_FLIGHT, Classification.SENT):
            assert await PostgresLedger(pool).put(entry._replace(classification=classification)) is not None
    return entry.audit_id


def _read_whole(dsn: str) -> None:
    with StoredAccounts(dsn) as accounts:
        for _ in accounts.audit_rows():
            pass
        for _ in accounts.ledger():
            pass
    with Explanations(dsn) as explanations:
        explanations.check()
        explanations.rows_of_team(TEAM)
        explanations.mails([uuid.uuid4()])
    with Replays(dsn) as replays:
        replays.known([uuid.uuid4()])


async def reader(dsn: str) -> None:
    """What verify, explain, a replay that changes nothing, and ``deliveries list`` and ``show`` ask."""
    await asyncio.to_thread(_read_whole, dsn)
    async with _pool(dsn, FORWARDER_SENT) as pool:
        store = StoredDeliveries(pool)
        await store.counts(Filters())
        await store.rows(Filters(), 10)
        await store.feedback(uuid.uuid4())


async def operator(dsn: str) -> None:
    """That, and what a replay tells the ledger and ``deliveries resolve`` decides."""
    await reader(dsn)
    told = uuid.uuid4()

    def tell() -> None:
        with Replays(dsn) as replays:
            replays.tell([ToldMail(told, TEAM, KIND)], "suppressed", "a test")

    await asyncio.to_thread(tell)
    async with _pool(dsn, FORWARDER_SENT) as pool:
        store = StoredDeliveries(pool)
        await store.resolve([told], Decision(Resolution.SENT, "a test", "asha", datetime.now(UTC)))
        await store.published([row.audit_id for row in await store.open_resolutions()])


Logins = Mapping[str, str]
"""Role → the address with its login."""


async def use(role: str, logins: Logins) -> None:
    """Do all that ``role`` is for with its login. Raises PostgresUnavailable where it may not."""
    if role == "feedback":
        await feedback(logins[role], lambda address: mail_to(logins["forward"], address))
    else:
        await {"audit": audit, "forward": forward, "reader": reader, "operator": operator}[role](logins[role])
