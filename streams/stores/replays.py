"""What a replay asks the audit log, and what it tells the ledger before it begins."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, NamedTuple, TypeVar

import asyncpg

from streams.stores.pool import TIMEOUT_SECONDS, connect, describe_server, translate

Told = Literal["suppressed", "in_flight"]
_FAULTS = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError, EOFError)
_TELL = """
insert into forwarder_sent (audit_id, provider, team_id, template_kind, classification, attempts, last_error)
select audit_id, 'loops', team_id, kind, $4, 0, $5 from unnest($1::uuid[], $2::uuid[], $3::text[]) as told (audit_id, team_id, kind)
on conflict (audit_id) do nothing
"""

T = TypeVar("T")


class ToldMail(NamedTuple):
    """A mail of which it is known beforehand what is to become."""

    audit_id: uuid.UUID
    team_id: uuid.UUID | None
    kind: str


class Replays:
    """A connection of its own. Blocking, with an event loop of its own: use it in a thread of its own."""

    def __init__(self, dsn: str) -> None:
        """Connect. Raises PostgresUnavailable, ConfigurationError."""
        self._server = describe_server(dsn)
        self._runner = asyncio.Runner()
        try:
            self._connection = self._run(lambda: connect(dsn, "tierstream-replay"))
        except BaseException:
            self._runner.close()
            raise

    def __enter__(self) -> "Replays":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.terminate()
        self._runner.close()

    def known(self, audit_ids: Sequence[uuid.UUID]) -> set[uuid.UUID]:
        """Return which of these have a row in ``audit_log``. Raises PostgresUnavailable."""
        rows = self._run(
            lambda: self._connection.fetch("select id from audit_log where id = any($1::uuid[])", list(audit_ids), timeout=TIMEOUT_SECONDS)
        )
        return {row["id"] for row in rows}

    def tell(self, mails: Sequence[ToldMail], classification: Told, why: str) -> None:
        """Write the ledger's rows of mails that forward has not seen: ``suppressed``, so that none goes out, or ``in_flight`` without an
        attempt, so that each goes out whatever its age. Rows that are there stay as they are. Raises PostgresUnavailable.
        """
        if mails:
            ids, teams, kinds = (list(column) for column in zip(*mails, strict=True))
            self._run(lambda: self._connection.execute(_TELL, ids, teams, kinds, classification, why, timeout=TIMEOUT_SECONDS))

    def _run(self, call: Callable[[], Awaitable[T]]) -> T:
        async def made() -> T:
            return await call()

        try:
            return self._runner.run(made())
        except _FAULTS as error:
            raise translate(error, self._server) from error
