"""Reading the tables whole, for a verification: every row of ``audit_log`` and of ``forwarder_sent`` as of one moment."""

import uuid
from collections.abc import Iterator
from typing import NamedTuple

import asyncpg

from streams.stores.audit_log import AuditRow
from streams.stores.blocking import BlockingConnection
from streams.stores.pool import TIMEOUT_SECONDS
from streams.stores.tables import check_encoding

_ROWS_AT_ONCE = 5_000
_AUDIT_LOG = f"select {', '.join(AuditRow._fields)} from audit_log"
_LEDGER = "select audit_id, template_kind, classification, waiting_topic is not null as waits from forwarder_sent"


class LedgerLine(NamedTuple):
    """What the ledger says of one mail."""

    audit_id: uuid.UUID
    kind: str
    classification: str
    waits: bool = False
    """Whether it stands on a retry topic."""


class StoredAccounts(BlockingConnection):
    """Both tables, in one read-only transaction.

    They are as of the moment at which the first row is asked for: what the groups had committed before is in them. Rows come in no order,
    some thousands in memory at a time. They are read inside of the transaction, so a pool that gives each transaction a session may stand
    between; it has one session less until the end.
    """

    def __init__(self, dsn: str) -> None:
        """Connect. Raises PostgresUnavailable, ConfigurationError, DatabaseUnfit."""
        super().__init__(dsn, "tierstream-verify")
        try:
            self._run(lambda: check_encoding(self._connection, self._server))
            self._transaction = self._connection.transaction(isolation="repeatable_read", readonly=True)
            self._run(self._transaction.start)
        except BaseException:
            self.close()
            raise

    def audit_rows(self) -> Iterator[AuditRow]:
        """Yield every row of ``audit_log``. Raises PostgresUnavailable."""
        return (AuditRow(*row.values()) for row in self._rows(_AUDIT_LOG))

    def ledger(self) -> Iterator[LedgerLine]:
        """Yield what ``forwarder_sent`` says of every mail. Raises PostgresUnavailable."""
        return (LedgerLine(*row.values()) for row in self._rows(_LEDGER))

    def _rows(self, query: str) -> Iterator[asyncpg.Record]:
        # A cursor of SQL's: asyncpg's own takes a named statement, which would stay behind in the session.
        self._run(lambda: self._connection.execute(f"declare account no scroll cursor for {query}", timeout=TIMEOUT_SECONDS))
        while rows := self._run(lambda: self._connection.fetch(f"fetch {_ROWS_AT_ONCE} from account", timeout=TIMEOUT_SECONDS)):
            yield from rows
        self._run(lambda: self._connection.execute("close account", timeout=TIMEOUT_SECONDS))
