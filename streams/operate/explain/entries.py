"""What an explanation says: entries, the oldest first, and what is not known. Pure."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from schemas.loops import LOOPS_MAP, NeverMailed
from streams.stores.explanations import Mail

Json = dict[str, Any]

PENDING = "pending"
"""The stage has not worked it in yet."""

NOT_KNOWN = "not_known"
"""Nothing is recorded of it, and the log no longer reaches back far enough to decide it again."""


_MAILED = frozenset(kind.value for kind, mail in LOOPS_MAP.items() if not isinstance(mail, NeverMailed))


@dataclass(frozen=True, slots=True)
class Closing:
    """What an operator did with a dead letter: ``replayed`` or ``discarded``. Who and why are None until the audit row is written."""

    action: str
    at: str
    by: str | None = None
    because: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """What became of one event, at the stage that settled it. Times are RFC 3339. ``at`` is the receipt: the gateway's where it noted it,
    else the broker's, or the time of the fact where the log no longer holds the event."""

    at: str
    type: str
    stage: str
    outcome: str
    before: str | None = None
    after: str | None = None
    event_id: str | None = None
    audit_id: str | None = None
    kind: str | None = None
    subscription_id: str | None = None
    occurred_at: str | None = None
    places: tuple[str, ...] = ()
    error: str | None = None
    row_written: bool = False
    summary: str | None = None
    mail: Mail | None = None
    dead_letters: tuple[str, ...] = ()
    closings: tuple[Closing, ...] = ()

    @property
    def is_mailed(self) -> bool:
        """Whether its audit event is of a kind that goes to Loops."""
        return self.kind in _MAILED

    @property
    def delivery(self) -> str | None:
        """What the ledger says of the mail; ``pending`` where forward has not got to it, None where there is none to be sent."""
        if self.mail is not None:
            return self.mail.classification
        return PENDING if self.audit_id is not None and self.is_mailed and not self.dead_letters else None

    def as_json(self) -> Json:
        """Return the entry as ``--json`` prints it."""
        mail = self.mail
        return {
            "at": self.at,
            "type": self.type,
            "stage": self.stage,
            "outcome": self.outcome,
            "from": self.before,
            "to": self.after,
            "event_id": self.event_id,
            "audit_id": self.audit_id,
            "delivery": self.delivery,
            "kind": self.kind,
            "subscription_id": self.subscription_id,
            "occurred_at": self.occurred_at,
            "places": list(self.places),
            "error": self.error,
            "row_written": self.row_written,
            "mail": mail
            and {
                "recipient": mail.recipient,
                "attempts": mail.attempts,
                "first_attempt_at": moment_text(mail.first_attempt_at),
                "sent_at": moment_text(mail.sent_at),
                "delivered_at": moment_text(mail.delivered_at),
                "last_error": mail.last_error,
            },
            "dead_letters": list(self.dead_letters),
            "closings": [asdict(closing) for closing in self.closings],
        }


@dataclass(frozen=True, slots=True)
class Explanation:
    """A timeline, the oldest first. ``notes`` says what is not known, one sentence each."""

    team_id: str | None
    tier: str | None
    since: str | None
    entries: Sequence[Entry]
    notes: Sequence[str] = ()

    def as_json(self) -> Json:
        """Return what ``--json`` prints."""
        return {
            "team_id": self.team_id,
            "tier": self.tier,
            "since": self.since,
            "events": [entry.as_json() for entry in self.entries],
            "notes": list(self.notes),
        }


def moment_text(moment: datetime | None) -> str | None:
    """Return a time as RFC 3339 with milliseconds, in UTC."""
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
