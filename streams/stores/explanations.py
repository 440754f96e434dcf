"""What ``audit_log`` and ``forwarder_sent`` hold of one team, one event or one address. Reads only."""

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import asyncpg

from streams.stores.audit_log import AuditRow
from streams.stores.blocking import BlockingConnection
from streams.stores.pool import TIMEOUT_SECONDS
from streams.stores.tables import AUDIT_LOG, FORWARDER_SENT, check_table

_COLUMNS = ", ".join(AuditRow._fields)


class Mail(NamedTuple):
    """A row of ``forwarder_sent``; ``recipient`` is masked."""

    audit_id: uuid.UUID
    team_id: uuid.UUID | None
    recipient: str | None
    classification: str
    attempts: int
    first_attempt_at: datetime | None
    sent_at: datetime | None
    delivered_at: datetime | None
    last_error: str | None


_MAIL = f"select {', '.join(Mail._fields)} from forwarder_sent"


class Explanations(BlockingConnection):
    """Both tables, asked for single rows."""

    def __init__(self, dsn: str) -> None:
        """Connect. Raises PostgresUnavailable, ConfigurationError, DatabaseUnfit."""
        super().__init__(dsn, "tierstream-explain")

    def check(self) -> None:
        """Raise DatabaseUnfit when a table is missing, PostgresUnavailable."""
        for table in (AUDIT_LOG, FORWARDER_SENT):
            self._run(lambda table=table: check_table(self._connection, self._server, table))  # type: ignore[misc]

    def rows_of_team(self, team_id: uuid.UUID) -> list[AuditRow]:
        """Return the team's audit rows, the oldest fact first."""
        return self._rows("where team_id = $1 order by created_at, id", team_id)

    def rows_of_event(self, event_id: str) -> list[AuditRow]:
        """Return the audit rows that name this event."""
        return self._rows("where metadata->>'event_id' = $1 order by created_at, id", event_id)

    def row(self, audit_id: uuid.UUID) -> AuditRow | None:
        """Return one audit row."""
        return next(iter(self._rows("where id = $1", audit_id)), None)

    def mails(self, audit_ids: Sequence[uuid.UUID]) -> list[Mail]:
        """Return the ledger's rows of these mails; those that were never seen are absent."""
        return self._mails("where audit_id = any($1::uuid[])", list(audit_ids))

    def mails_to(self, recipient: str) -> list[Mail]:
        """Return the ledger's rows of a masked recipient."""
        return self._mails("where recipient = $1", recipient)

    def _rows(self, where: str, argument: object) -> list[AuditRow]:
        return [AuditRow(*row.values()) for row in self._fetch(f"select {_COLUMNS} from audit_log {where}", argument)]

    def _mails(self, where: str, argument: object) -> list[Mail]:
        return [Mail(*row.values()) for row in self._fetch(f"{_MAIL} {where}", argument)]

    def _fetch(self, query: str, argument: object) -> list[asyncpg.Record]:
        return self._run(lambda: self._connection.fetch(query, argument, timeout=TIMEOUT_SECONDS))
