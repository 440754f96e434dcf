"""The CloudEvents 1.0 envelope, structured JSON mode, that every record on our topics carries.

``razorpay.webhooks`` and ``loops.webhooks`` alone hold a provider's raw bytes instead.
Source: the CloudEvents specification 1.0.2 and its Kafka protocol binding.
"""

import uuid
from typing import Generic, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

CONTENT_TYPE = b"application/cloudevents+json"
HEADERS: list[tuple[str, bytes]] = [("content-type", CONTENT_TYPE)]
"""Kafka headers of every enveloped record."""

_NAMESPACE = uuid.UUID("7f1f2c38-6b4e-5d0e-9d53-7d8f0f0e5b1a")

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
    return str(uuid.uuid5(_NAMESPACE, "\x1f".join((stage, source, input_id, team_id or "", kind))))


def canonical_team_id(value: object) -> str | None:
    """Return ``value`` as the text of a team key (lower-case hyphenated UUID), or None when it is no UUID.

    Every producer must use this one form: the key decides the partition, and with it the team's only owner.
    """
    if not isinstance(value, str) or len(value) > 45:
        return None
    try:
        return str(uuid.UUID(value.strip()))
    except ValueError:
        return None
