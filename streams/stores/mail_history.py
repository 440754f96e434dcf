"""What the ledger ``forwarder_sent`` says of mails that belong together: their own outcomes, and which teams have been welcomed."""

import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from schemas.kinds import Kind
from streams.stores.ledger import Classification
from streams.stores.pool import PostgresPool

NEVER_WENT_OUT = frozenset(
    {
        Classification.SUPPRESSED,
        Classification.NO_RECIPIENT,
        Classification.PLACEHOLDER_RECIPIENT,
        Classification.EXPIRED,
        Classification.REFUSED,
    }
)
"""A claim with one of these did not welcome its team. With any other its mail went out, or may have."""


@dataclass(frozen=True, slots=True)
class History:
    """``classifications`` by audit id; ``welcomes`` by team: the id of the claim whose mail went out first, or may have."""

    classifications: Mapping[uuid.UUID, str] = field(default_factory=dict)
    welcomes: Mapping[uuid.UUID, uuid.UUID] = field(default_factory=dict)


class MailHistory(Protocol):
    """Where it is asked for."""

    async def history(self, audit_ids: Collection[uuid.UUID], teams: Collection[uuid.UUID]) -> History:
        """Return the rows of these mails, and the welcomes of these teams; those that are not there are absent."""


_HISTORY = """
select audit_id, team_id, classification, template_kind = $3 and team_id = any($2::uuid[]) and classification <> all($4::text[]) as welcomes
from forwarder_sent
where audit_id = any($1::uuid[]) or (template_kind = 'onboarding.claimed' and team_id = any($2::uuid[]))
order by first_attempt_at desc nulls first, recorded_at desc
"""


class PostgresMailHistory:
    """The ledger in PostgreSQL. Waits while that is away."""

    def __init__(self, pool: PostgresPool) -> None:
        self._pool = pool

    async def history(self, audit_ids: Collection[uuid.UUID], teams: Collection[uuid.UUID]) -> History:
        """See ``MailHistory.history``."""
        arguments = (list(audit_ids), list(teams), Kind.CLAIMED.value, [each.value for each in NEVER_WENT_OUT])
        rows = await self._pool.run(lambda connection: connection.fetch(_HISTORY, *arguments))
        return History(
            {row["audit_id"]: row["classification"] for row in rows},
            {row["team_id"]: row["audit_id"] for row in rows if row["welcomes"]},
        )
