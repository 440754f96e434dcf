"""Hand-written doubles for the stages that end the flow, audit and forward: records, dead letters, the two stores, Loops."""

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from schemas.kinds import Kind
from schemas.loops import LoopsPayload
from schemas.reasons import Reason
from streams.errors import ConstraintRefuses, TierstreamError
from streams.kafka.dead_letters import ConsumedRecord, Headers
from streams.loops.client import Accepted, AlreadyAccepted, Answer, Reply
from streams.runtime.waiting import Backoff, Waiting
from streams.stores.audit_log import AuditRow, RowResult, RowStatus
from streams.stores.ledger import Asked, Classification, Entry, LedgerRow

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
TEAM = "3f1c1f0e-6a55-4c5c-9a39-0a4d3c1f7b01"


@dataclass(frozen=True, slots=True)
class Record:
    """A consumed record."""

    value: bytes | None
    topic: str = "audit.events"
    partition: int = 0
    offset: int = 0
    key: bytes | None = b"key"
    headers: Headers = ()
    timestamp: int = 0


def audit_event(
    kind: str = Kind.UPGRADED,
    *,
    id: str | None = None,
    team: str | None = TEAM,
    email: str | None = "asha@example.com",
    created_at: datetime = NOW,
    metadata: dict[str, Any] | None = None,
    **data: Any,
) -> dict[str, Any]:
    """Return the envelope of one audit event, with a fresh id unless one is given. Further arguments are fields of its data."""
    body = {
        "actor": "system",
        "resource_type": "subscription",
        "summary": "Upgraded from free to pro",
        "metadata": {"from": "free", "to": "pro", "plan_id": "plan_pro"} if metadata is None else metadata,
        "created_at": created_at.isoformat(),
        **({"contact": {"email": email}} if email is not None else {}),
        **data,
    }
    head = {
        "specversion": "1.0",
        "id": id or str(uuid.uuid4()),
        "source": "tierstream/classify",
        "type": kind,
        "time": created_at.isoformat(),
    }
    return {**head, **({"subject": team} if team is not None else {}), "data": body}


def record(kind: str = Kind.UPGRADED, *, offset: int = 0, **event: Any) -> Record:
    """Return ``audit_event(...)`` as a record of audit.events."""
    return Record(orjson.dumps(audit_event(kind, **event)), offset=offset)


def id_of(consumed: Record) -> uuid.UUID:
    """The audit id in a record."""
    assert consumed.value is not None
    return uuid.UUID(orjson.loads(consumed.value)["id"])


def team(number: int) -> str:
    """A team id for each number."""
    return str(uuid.UUID(int=number + 1))


class Clock:
    """A clock that a test sets forward."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **delta: float) -> None:
        self.now += timedelta(**delta)


class Sleeps:
    """Instead of ``asyncio.sleep``: notes the seconds and lets the others run."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        await asyncio.sleep(0)


def impatient(service: str = "service", sleep: Sleeps | None = None) -> Waiting:
    """A Waiting that does not really wait."""
    return Waiting("test", service, backoff=Backoff(1.0, 8.0), sleep=sleep or Sleeps())


@dataclass
class RecordingDeadLetters:
    """Keeps what is written to it."""

    written: list[tuple[ConsumedRecord, Reason, str]] = field(default_factory=list)

    async def write(self, record: ConsumedRecord, reason: Reason, error: str) -> None:
        self.written.append((record, reason, error))

    @property
    def reasons(self) -> list[Reason]:
        return [reason for _, reason, _ in self.written]


class MemoryAuditLog:
    """``audit_log`` in memory: keeps the first row of each id, refuses what holds a NUL, as PostgreSQL does, and holds the rows of the
    teams in ``held``. Tries of held rows raise ``failure``."""

    def __init__(self) -> None:
        self.rows: dict[uuid.UUID, AuditRow] = {}
        self.held: dict[str, ConstraintRefuses] = {}
        self.failure: TierstreamError | None = None

    async def write(self, rows: Sequence[AuditRow]) -> list[RowResult]:
        return [
            RowResult(RowStatus.HELD, refusal=self.held[str(row.team_id)]) if str(row.team_id) in self.held else self._write(row)
            for row in rows
        ]

    async def write_again(self, rows: Sequence[AuditRow]) -> list[RowResult]:
        if self.failure is not None:
            raise self.failure
        return await self.write(rows)

    def _write(self, row: AuditRow) -> RowResult:
        if "\\u0000" in row.metadata or "\0" in row.summary:
            return RowResult(RowStatus.REJECTED, "The store refuses the row.")
        held = self.rows.setdefault(row.id, row)
        if held is row:
            return RowResult(RowStatus.INSERTED)
        return RowResult(RowStatus.ALREADY_THERE if held == row else RowStatus.CONFLICT)


class MemoryLedger:
    """The ledger in memory, with the rules of the one in PostgreSQL."""

    def __init__(self) -> None:
        self.held: dict[uuid.UUID, LedgerRow] = {}
        self.entries: list[Entry] = []

    def classification(self, consumed: Record) -> str:
        return self.held[id_of(consumed)].classification

    async def rows(self, mails: Sequence[Asked]) -> dict[uuid.UUID, LedgerRow]:
        ids, teams = {mail.audit_id for mail in mails}, {mail.team_id for mail in mails}
        return {row.audit_id: row for row in self.held.values() if row.audit_id in ids or (row.wait is not None and row.team_id in teams)}

    async def put(self, entry: Entry) -> LedgerRow | None:
        held = self.held.get(entry.audit_id)
        if held is not None and held.classification != Classification.IN_FLIGHT:
            return None
        if held is not None and held.wait is not None and entry.wait is not None and entry.wait.round <= held.wait.round:
            return None
        self.entries.append(entry)
        is_open = entry.classification is Classification.IN_FLIGHT
        attempt = is_open and entry.wait is None
        row = LedgerRow(
            entry.audit_id,
            entry.classification,
            (held.attempts if held else 0) + attempt,
            (held and held.first_attempt_at) or (entry.at if attempt else None),
            entry.team_id,
            (entry.wait or (held and held.wait) or None) if is_open else None,
        )
        self.held[entry.audit_id] = row
        return row


class ScriptedLoops:
    """Loops as a script: ``answers`` for one key, or for all, are given in turn; after them calls are accepted.

    Like Loops it answers 409 to a key that it accepted before.
    """

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self._for_key: dict[str, list[Answer]] = {}
        self.default: Answer | None = None
        """The answer to every call that no script is left for; None accepts it."""
        self.calls: list[tuple[str, LoopsPayload]] = []
        self.accepted: list[str] = []
        self.under_way = 0
        self.most_under_way = 0
        self.key_checks = 0
        self.key_error: TierstreamError | None = None

    def script(self, consumed: Record, *answers: Answer) -> None:
        self._for_key[str(id_of(consumed))] = list(answers)

    async def send(self, payload: LoopsPayload, idempotency_key: str) -> Reply:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        self.calls.append((idempotency_key, payload))
        script = self._for_key.get(idempotency_key, self._answers)
        unscripted = self.default or (AlreadyAccepted() if idempotency_key in self.accepted else Accepted())
        answer = script.pop(0) if script else unscripted
        if isinstance(answer, Accepted):
            self.accepted.append(idempotency_key)
        return Reply(answer, rate_limit=10.0, rate_remaining=9.0)

    async def check_key(self) -> None:
        self.key_checks += 1
        await asyncio.sleep(0)
        if self.key_error is not None:
            raise self.key_error


@dataclass
class OpenLimiter:
    """A limiter that lets everything through and records its calls."""

    starts: int = 0
    answered: list[bool] = field(default_factory=list)
    rejections: list[float | None] = field(default_factory=list)
    observed: list[tuple[float | None, float | None]] = field(default_factory=list)

    async def start(self) -> float:
        self.starts += 1
        return 0.0

    def finish(self, started: float, *, answered: bool = True) -> None:
        self.answered.append(answered)

    def observe(self, limit: float | None, remaining: float | None) -> None:
        self.observed.append((limit, remaining))

    def reject(self, retry_after: float | None) -> None:
        self.rejections.append(retry_after)
