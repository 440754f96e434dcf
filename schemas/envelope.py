"""The CloudEvents 1.0 envelope, structured JSON mode, that every record on our topics carries.

``razorpay.webhooks`` and ``loops.webhooks`` alone hold a provider's raw bytes instead.
Source: the CloudEvents specification 1.0.2 and its Kafka protocol binding.
"""

import hashlib
import re
import uuid
from typing import Generic, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

CONTENT_TYPE = b"application/cloudevents+json"
HEADERS: list[tuple[str, bytes]] = [("content-type", CONTENT_TYPE)]
"""Kafka headers of every enveloped record."""

_NAMESPACE = uuid.UUID("7f1f2c38-6b4e-5d0e-9d53-7d8f0f0e5b1a")
_IN_NAMESPACE = hashlib.sha1(_NAMESPACE.bytes, usedforsecurity=False)
_TEAM_ID = re.compile(r"(?:urn:uuid:)?\{?(?:[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}|[0-9a-fA-F]{32})\}?")
USUAL_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}").fullmatch
"""Matches a UUID in the one form in which we write it."""

NIL_UUID = "00000000-0000-0000-0000-000000000000"
"""What software writes that was given no UUID. No team: all that nobody owns would meet in it."""

_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}

DataT = TypeVar("DataT", bound=BaseModel)


class Envelope(BaseModel, Generic[DataT]):
    """One event. ``source`` and ``id`` together name it; a redelivery has both the same."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    specversion: Literal["1.0"] = "1.0"
    id: str = Field(min_length=1, max_length=100)
    source: str = Field(min_length=1)
    type: str = Field(min_length=1)
    subject: str | None = Field(default=None, description="Team id: a lower-case hyphenated UUID; absent when unknown.")
    time: AwareDatetime = Field(description="When the fact happened, not when it was seen.")
    datacontenttype: Literal["application/json"] = "application/json"
    dataschema: str | None = Field(default=None, description="Path of the JSON Schema of ``data``, with its version.")
    causationid: str | None = Field(default=None, description="Id of the event that caused this one.")
    correlationid: str | None = Field(default=None, description="Id of the event that began it all (Razorpay's event id).")
    data: DataT


def derived_id(stage: str, source: str, input_id: str, team_id: str | None, kind: str) -> str:
    """Return the id of what ``stage`` derives from one input event, as UUIDv5 text.

    The same input gives the same id, always, so that a redelivery changes nothing; two sources that both call an
    event "1" do not collide, because source and team are part of the name. Parts are joined by a character that
    none of them can hold unescaped (unit separator).
    """
    name = f"{stage}\x1f{source}\x1f{input_id}\x1f{team_id or ''}\x1f{kind}"
    # uuid.uuid5 by hand: this is done for each event, and the UUID object in between costs twice as much as the hash.
    digest = _IN_NAMESPACE.copy()
    digest.update(name.encode())
    text = digest.hexdigest()
    return f"{text[:8]}-{text[8:12]}-5{text[13:16]}-{_VARIANT[text[16]]}{text[17:20]}-{text[20:32]}"


def canonical_team_id(value: object) -> str | None:
    """Return ``value`` as the text of a team key (lower-case hyphenated UUID), or None when it is no UUID, or the nil one.

    Every producer must use this one form: the key decides the partition, and with it the team's only owner.
    """
    if not isinstance(value, str):
        return None
    if USUAL_UUID(value):
        return value if value != NIL_UUID else None
    text = value.strip()
    # uuid.UUID alone also takes what int() takes: signs, underscores, other scripts' digits.
    team_id = str(uuid.UUID(text)) if _TEAM_ID.fullmatch(text) else None
    return team_id if team_id != NIL_UUID else None
