"""Loops' webhooks as it sends them, for the tests of feedback."""

import itertools
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.stage_doubles import Record

NOW = datetime(2026, 7, 1, 12, 0, 0, tzinfo=UTC)
EMAIL = "asha@example.com"

_numbers = itertools.count()


def body(name: str, at: datetime = NOW, *, email: str | None = EMAIL, mail_id: str | None = "mail-1", **others: Any) -> dict[str, Any]:
    """The body of one webhook about a mail of a workflow, or about a contact."""
    value: dict[str, Any] = {
        "eventName": name,
        "eventTime": int(at.timestamp()),
        "webhookSchemaVersion": "1.0.0",
        "contactIdentity": {"id": "contact-1", "email": email, "userId": None},
    }
    if name.startswith(("email.", "loop.")):
        value["email"] = {"id": mail_id, "emailMessageId": "message-1", "subject": "Hello"}
        value |= {"loopId": "loop-1", "loopName": "Upgrades"} if name == "loop.email.sent" else {"sourceType": "loop", "loopId": "loop-1"}
    return {**value, **others}


def webhook(name: str, at: datetime = NOW, **others: Any) -> Record:
    """A record of ``loops.webhooks``."""
    return landed(body(name, at, **others))


def landed(value: Mapping[str, Any] | bytes) -> Record:
    """A record of ``loops.webhooks`` with this body."""
    number = next(_numbers)
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Record(raw, "loops.webhooks", offset=number, key=f"msg_{number}".encode())


def after(seconds: float) -> datetime:
    """A moment so long after ``NOW``."""
    return NOW + timedelta(seconds=seconds)
