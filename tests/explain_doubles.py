"""Topics and tables in memory, as an explanation reads them."""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from streams.kafka.records import Record
from streams.logging import mask_email
from streams.operate.logs import Search
from streams.stores.audit_log import AuditRow
from streams.stores.explanations import Mail
from streams.topics import Topic
from tests.pretended_stack import Pretended
from tests.verify_doubles import PretendedLogs, read_from


@dataclass
class SearchedLogs(PretendedLogs):
    """The topics of a pretended stack, which can be searched. What a search reads is noted in ``searched``."""

    searched: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)

    def search(self, *searches: Search) -> dict[Topic, list[Record]]:
        found: dict[Topic, list[Record]] = {}
        for search in searches:
            self.searched.append((search.topic.name, tuple(search.partitions)))
            records = found.setdefault(search.topic, [])
            for number in search.partitions:
                for record in self.read(search.topic, number):
                    if (search.needles is None or _holds(record, search.needles)) and search.passes(record):
                        records.append(record)
        return found


@dataclass
class SearchedStores:
    """``audit_log`` and ``forwarder_sent``."""

    rows: list[AuditRow]
    ledger: list[Mail]

    def rows_of_team(self, team_id: uuid.UUID) -> list[AuditRow]:
        return sorted((row for row in self.rows if row.team_id == team_id), key=lambda row: row.created_at)

    def rows_of_event(self, event_id: str) -> list[AuditRow]:
        return [row for row in self.rows if f'"event_id":"{event_id}"' in row.metadata.replace('": "', '":"')]

    def row(self, audit_id: uuid.UUID) -> AuditRow | None:
        return next((row for row in self.rows if row.id == audit_id), None)

    def mails(self, audit_ids: Sequence[uuid.UUID]) -> list[Mail]:
        return [mail for mail in self.ledger if mail.audit_id in audit_ids]

    def mails_to(self, recipient: str) -> list[Mail]:
        return [mail for mail in self.ledger if mail.recipient == recipient]


def mail(row: AuditRow, classification: str, recipient: str | None = None, **fields: Any) -> Mail:
    """Return a row of the ledger."""
    sent_at: datetime | None = row.created_at if classification == "sent" else None
    values = {"attempts": 1, "first_attempt_at": sent_at, "sent_at": sent_at, "delivered_at": None, "last_error": None, **fields}
    return Mail(row.id, row.team_id, recipient, classification, **values)


def searched(pretended: Pretended) -> tuple[SearchedLogs, SearchedStores]:
    """Return what a pretended stack left, to be explained."""
    logs, stores = read_from(pretended)
    recipients = {sent["idempotency_key"]: mask_email(sent["email"]) for sent in pretended.mails}
    ledger = [mail(row, pretended.ledger[id], recipients.get(id)) for id, row in pretended.rows.items() if id in pretended.ledger]
    return SearchedLogs(logs.topics, logs.partitions, logs.offsets), SearchedStores(list(stores.rows.values()), ledger)


def _holds(record: Record, needles: Iterable[bytes]) -> bool:
    parts = (record.key or b"", record.value or b"", *(value or b"" for _, value in record.headers))
    return any(needle in part for needle in needles for part in parts)
