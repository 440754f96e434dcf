"""Loops' webhook body, as far as it matters here.

Source: Loops documentation, "Webhooks" (schema version 1.0.0): ``eventName``; ``eventTime`` in Unix seconds; ``contactIdentity`` with
``id``, ``email``, ``userId``; on events about a mail ``email`` with ``id``, ``emailMessageId``, ``subject``. A workflow says ``loop`` by its
former name: ``loop.email.sent`` holds ``loopId`` and ``loopName``, the other ``email.*`` events ``sourceType`` (``campaign``, ``loop``,
``transactional``) and ``loopId``. Neither the Idempotency-Key nor the event that began a workflow is given back.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from schemas.json_text import decode
from schemas.kinds import Kind
from schemas.team_events import MAX_SECONDS

MAX_ID_CHARACTERS = 200


class MalformedReport(ValueError):
    """The body is not what Loops sends. The message repeats nothing of it."""


@dataclass(frozen=True, slots=True)
class LoopsReport:
    """One webhook. ``name`` is the event's. ``email`` is None where Loops knows the contact by a user id alone. ``mail_id`` is Loops' own id of the
    mail, ``is_workflow`` whether a workflow sent it, ``kind`` the one kind that the workflow's name holds."""

    name: str
    at: datetime
    email: str | None
    mail_id: str | None
    is_workflow: bool
    kind: Kind | None
    is_subscribed: bool
    """The contact as a whole, where the event says so (``contact.created``)."""


def read_loops_report(body: bytes | None) -> LoopsReport:
    """Return what a body says. Raises MalformedReport."""
    try:
        value = decode(body or b"")
    except (ValueError, RecursionError):
        raise MalformedReport("The body is no JSON.") from None
    if not isinstance(value, dict):
        raise MalformedReport("The body is no JSON object.")
    name, seconds = value.get("eventName"), value.get("eventTime")
    if not isinstance(name, str) or not name:
        raise MalformedReport("eventName is missing.")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= MAX_SECONDS:
        raise MalformedReport("eventTime is no number of Unix seconds.")
    email = _text(_object(value, "contactIdentity").get("email"))
    mail_id = _text(_object(value, "email").get("id"))
    if mail_id is not None and len(mail_id) > MAX_ID_CHARACTERS:
        raise MalformedReport(f"email.id is longer than {MAX_ID_CHARACTERS} characters.")
    return LoopsReport(
        name,
        datetime.fromtimestamp(seconds, UTC),
        email,
        mail_id,
        value.get("sourceType") in (None, "loop"),
        kind_named(_text(value.get("loopName"))),
        _object(value, "contact").get("subscribed") is True,
    )


def kind_named(workflow: str | None) -> Kind | None:
    """Return the kind that a workflow's name holds, such as ``Welcome (onboarding.claimed)``; None where it holds none or several."""
    named = [kind for kind in Kind if workflow is not None and kind.value in workflow]
    return named[0] if len(named) == 1 else None


def _object(value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = value.get(name)
    return found if isinstance(found, dict) else {}


def _text(value: object) -> str | None:
    """The text without what PostgreSQL can not hold; None where it is none or empty."""
    if not isinstance(value, str):
        return None
    return value.replace("\0", "").encode("utf-8", "replace").decode().strip() or None
