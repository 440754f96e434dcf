"""What a replay asks the audit log, and what it writes into the ledger before it begins."""

import uuid
from collections.abc import Sequence
from typing import Literal, NamedTuple

from streams.stores.blocking import BlockingConnection
from streams.stores.pool import TIMEOUT_SECONDS

Told = Literal["suppressed", "in_flight"]
_TELL = """
insert into forwarder_sent (audit_id, provider, team_id, template_kind, classification, attempts, last_error)
select audit_id, 'loops', team_id, kind, $4, 0, $5 from unnest($1::uuid[], $2::uuid[], $3::text[]) as given (audit_id, team_id, kind)
on conflict (audit_id) do nothing
"""


class ToldMail(NamedTuple):
    """A mail of which it is known beforehand what is to become."""

    audit_id: uuid.UUID
    team_id: uuid.UUID | None
    kind: str


class Replays(BlockingConnection):
    """Both tables, as far as a replay concerns them."""

    def __init__(self, dsn: str) -> None:
        """Connect. Raises PostgresUnavailable, ConfigurationError."""
        super().__init__(dsn, "tierstream-replay")

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
