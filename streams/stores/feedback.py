"""What Loops reports, in PostgreSQL: the tables ``loops_mails`` and ``address_feedback``, and what follows for ``forwarder_sent``.

The steps for one report are one transaction: it is merged into what is known of its mail and its address; the mail's ledger row is looked for;
the row is made anew of what the forwarder said and of all that is known of its mails. So reports may come in any order, any number of times.
"""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

import asyncpg
import orjson

from schemas.reasons import Reason
from streams.stores.classification import MATCHABLE, Classification, after_feedback
from streams.stores.pool import Connection, PostgresPool

LOOK_BACK = timedelta(days=7)
"""How much earlier than a report the first attempt of its mail may be: more than any match allows."""


class MailFact(StrEnum):
    """What is reported of a mail, by the column that holds its earliest time."""

    SENT = "sent_at"
    DELIVERED = "delivered_at"
    BOUNCED_SOFT = "bounced_soft_at"
    BOUNCED_HARD = "bounced_hard_at"
    COMPLAINT = "complaint_at"
    UNSUBSCRIBED = "unsubscribed_at"


class AddressFact(StrEnum):
    """What is reported of an address, by the column that holds its latest time."""

    BOUNCED_HARD = "bounced_hard_at"
    COMPLAINT = "complaint_at"
    UNSUBSCRIBED = "unsubscribed_at"
    RESUBSCRIBED = "resubscribed_at"


_SAYS: dict[MailFact, Classification] = {fact: Classification[fact.name] for fact in MailFact}


class Report(NamedTuple):
    """One report. ``mail_id`` is Loops' id of the mail; ``mail`` and ``address`` are what it says of each (None: nothing)."""

    address_hash: bytes
    at: datetime
    mail_id: str
    mail: MailFact | None
    kind: str | None
    address: AddressFact | None


class MailFacts(NamedTuple):
    """What a mail of Loops is matched by. ``since`` is when it was sent, or else the earliest of what is known of it."""

    kind: str | None
    since: datetime
    is_sent_known: bool


class Candidate(NamedTuple):
    """A mail of the ledger to the same address. ``sent_at`` is None where the ledger does not know when it was accepted."""

    audit_id: uuid.UUID
    kind: str
    first_attempt_at: datetime
    sent_at: datetime | None


@dataclass(frozen=True, slots=True)
class Matched:
    """The mail of the ledger that was found."""

    audit_id: uuid.UUID


@dataclass(frozen=True, slots=True)
class Unmatched:
    """No mail of the ledger can be named: UNMATCHED or AMBIGUOUS."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class InFlight:
    """The mail that was found is being called for: what is reported of it is kept, and its row is the forwarder's until then."""

    audit_id: uuid.UUID


Match = Callable[[MailFacts, Sequence[Candidate]], Matched | Unmatched]
Noted = Matched | Unmatched | InFlight | None

_MAIL = """
insert into loops_mails as known (email_id, address_hash, kind, {column}) values ($1, $2, $3, $4)
on conflict (email_id) do update set
    {column} = least(known.{column}, excluded.{column}), kind = coalesce(known.kind, excluded.kind)
returning *
"""
_ADDRESS = """
insert into address_feedback as known (address_hash, {column}) values ($1, $2)
on conflict (address_hash) do update set {column} = greatest(known.{column}, excluded.{column})
"""
_CANDIDATES = """
select audit_id, template_kind, first_attempt_at, sent_at from forwarder_sent
where address_hash = $1 and first_attempt_at between $2 and $3 and classification = any($4::text[])
order by audit_id
"""
_SET_MATCH = "update loops_mails set audit_id = $2, matched_by = $3 where email_id = $1"
_LOCK_ROW = "select classification, forwarded_as from forwarder_sent where audit_id = $1 for update"
_MAILS_OF = "select * from loops_mails where audit_id = $1"
_SET_ROW = """
update forwarder_sent set classification = $2, forwarded_as = coalesce(forwarded_as, classification), delivered_at = $3, provider_id = $4
where audit_id = $1
"""


class PostgresFeedback:
    """Where reports are kept. Waits while PostgreSQL is away."""

    def __init__(self, pool: PostgresPool, match: Match) -> None:
        """``match`` says which mail of the ledger a mail of Loops is; it is pure."""
        self._pool = pool
        self._match = match

    async def note(self, report: Report) -> Noted:
        """Take one report in, and return which mail it is about (None: it says nothing of a mail) once all is committed. Idempotent."""
        return await self._pool.run(lambda connection: self._note(connection, report))

    async def _note(self, connection: Connection, report: Report) -> Noted:
        async with connection.transaction():
            if report.address is not None:
                await connection.execute(_ADDRESS.format(column=report.address.value), report.address_hash, report.at)
            if report.mail is None:
                return None
            statement = _MAIL.format(column=report.mail.value)
            mail = await connection.fetchrow(statement, report.mail_id, report.address_hash, report.kind, report.at)
            assert mail is not None
            return await self._settle(connection, mail)

    async def _settle(self, connection: Connection, mail: asyncpg.Record) -> Noted:
        """Find the mail's row, unless it was found by the same facts before, and bring it up to date."""
        facts = _facts(mail)
        basis = orjson.dumps([facts.kind, facts.since, facts.is_sent_known]).decode()
        before: uuid.UUID | None = mail["audit_id"]
        if before is not None and mail["matched_by"] is not None and orjson.loads(mail["matched_by"]) == orjson.loads(basis):
            found: Matched | Unmatched = Matched(before)
        else:
            earliest, latest = facts.since - LOOK_BACK, facts.since + timedelta(minutes=5)
            rows = await connection.fetch(_CANDIDATES, mail["address_hash"], earliest, latest, [one.value for one in MATCHABLE])
            found = self._match(facts, [Candidate(*row.values()) for row in rows])
        after = found.audit_id if isinstance(found, Matched) else None
        await connection.execute(_SET_MATCH, mail["email_id"], after, basis if after else None)
        is_in_flight = False
        for audit_id in sorted({one for one in (before, after) if one is not None}):
            is_in_flight |= not await _renew(connection, audit_id) and audit_id == after
        return InFlight(after) if is_in_flight and after is not None else found


async def _renew(connection: Connection, audit_id: uuid.UUID) -> bool:
    """Make a ledger row anew of what the forwarder said and what is known of its mails; return False when it is in flight, and so is not ours."""
    row = await connection.fetchrow(_LOCK_ROW, audit_id)
    if row is None:
        return True
    if row["classification"] == Classification.IN_FLIGHT:
        return False
    # In a statement of its own, behind the lock: what others have matched with this row is in it.
    mails = sorted(await connection.fetch(_MAILS_OF, audit_id), key=lambda mail: (_facts(mail).since, mail["email_id"]))
    said = [_SAYS[fact] for mail in mails for fact in MailFact if mail[fact.value] is not None]
    delivered_at = min((mail["delivered_at"] for mail in mails if mail["delivered_at"] is not None), default=None)
    provider_id = next((mail["email_id"] for mail in mails if not mail["email_id"].startswith("webhook:")), None)
    became = after_feedback(Classification(row["forwarded_as"] or row["classification"]), said)
    await connection.execute(_SET_ROW, audit_id, became.value, delivered_at, provider_id)
    return True


def _facts(mail: asyncpg.Record) -> MailFacts:
    times = [mail[fact.value] for fact in MailFact if mail[fact.value] is not None]
    return MailFacts(mail["kind"], mail["sent_at"] or min(times), mail["sent_at"] is not None)
