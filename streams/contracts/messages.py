"""Every kind of message on our topics, with the JSON Schema of its value. Pure: it follows from ``schemas`` and ``streams.topics`` alone."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from pydantic import BaseModel

from schemas.audit import TIER_CURRENT as TIER_CURRENT_TYPE
from schemas.envelope import Envelope
from schemas.kinds import MAY_LACK_TEAM, RETIRING
from schemas.published import PUBLISHED, Published, PublishedEnvelope, PublishedTier
from schemas.serialize import AUDIT_SCHEMA, TIER_SCHEMA
from schemas.team_events import IMPORTED, LINKED, SERVICE_DATA, ImportedTier, SubscriptionEvent, SubscriptionFact, SubscriptionLink
from streams.topics import AUDIT_EVENTS, SUBSCRIPTION_LINKS, TEAM_EVENTS, TIER_CURRENT, Topic

Json = dict[str, Any]

Direction = Literal["out", "in"]
"""``out``: tierstream writes it and others read it. ``in``: tierstream reads it, whoever wrote it, and however long ago."""

TEAM_ID: Json = {"type": "string", "format": "uuid", "description": "Team id: a lower-case hyphenated UUID."}


@dataclass(frozen=True, slots=True)
class Message:
    """One kind of message on a topic. ``kind`` is its CloudEvents type, ``schema`` describes the value."""

    topic: Topic
    kind: str
    direction: Direction
    title: str
    description: str
    schema: Json
    by_services: bool = False
    retiring: str | None = None

    @property
    def name(self) -> str:
        """The message's name, which is also that of its file: the topic's and the kind's, or one where they are the same."""
        return self.kind if self.kind == self.topic.name else f"{self.topic.name}.{self.kind}"


@cache
def messages() -> Sequence[Message]:
    """Return every message, by topic and kind."""
    found = [*_published(), _tier_current(), *_sent_by_services(), *_facts(), _imported(), _link()]
    return tuple(sorted(found, key=lambda message: message.name))


def _published() -> Iterator[Message]:
    for kind, metadata in PUBLISHED.items():
        model = PublishedEnvelope[Published[metadata]]  # type: ignore[valid-type]  # the model is chosen at run time
        schema = _value(model, kind, "serialization", team=kind not in MAY_LACK_TEAM, dataschema=AUDIT_SCHEMA)
        yield _message(AUDIT_EVENTS, kind, "out", metadata, schema, retiring=RETIRING.get(kind))


def _tier_current() -> Message:
    schema = _value(PublishedEnvelope[PublishedTier], TIER_CURRENT_TYPE, "serialization", team=True, dataschema=TIER_SCHEMA)
    return _message(TIER_CURRENT, TIER_CURRENT_TYPE, "out", PublishedTier, schema)


def _sent_by_services() -> Iterator[Message]:
    for kind, data in SERVICE_DATA.items():
        schema = _value(Envelope[data], kind, "validation", team=True)  # type: ignore[valid-type]  # the model is chosen at run time
        yield _message(TEAM_EVENTS, kind, "in", data, schema, by_services=True, retiring=RETIRING.get(kind))


def _facts() -> Iterator[Message]:
    for event in SubscriptionEvent:
        yield _message(TEAM_EVENTS, event, "in", SubscriptionFact, _value(Envelope[SubscriptionFact], event, "validation", team=True))


def _imported() -> Message:
    return _message(TEAM_EVENTS, IMPORTED, "in", ImportedTier, _value(Envelope[ImportedTier], IMPORTED, "validation", team=True))


def _link() -> Message:
    return _message(
        SUBSCRIPTION_LINKS, LINKED, "in", SubscriptionLink, _value(Envelope[SubscriptionLink], LINKED, "validation", team=False)
    )


def _message(
    topic: Topic,
    kind: str,
    direction: Direction,
    described: type[BaseModel],
    schema: Json,
    *,
    by_services: bool = False,
    retiring: str | None = None,
) -> Message:
    description = " ".join(inspect.cleandoc(described.__doc__ or "").replace("``", "`").split())
    return Message(topic, str(kind), direction, described.__name__, description, schema, by_services, retiring)


def _value(
    model: type[BaseModel], kind: str, mode: Literal["validation", "serialization"], *, team: bool, dataschema: str | None = None
) -> Json:
    """Return the schema of the whole value: the envelope of ``model``, for one type of event."""
    schema = inlined(model.model_json_schema(mode=mode))
    properties = schema["properties"]
    properties["type"] = {"type": "string", "const": str(kind), "description": "The kind."}
    if dataschema is not None:
        properties["dataschema"] = {**properties["dataschema"], "const": dataschema}
    if team:
        properties["subject"] = dict(TEAM_ID)
    required = {*schema["required"], *(["subject"] if team else [])}
    schema["required"] = [name for name in properties if name in required]
    schema.pop("description", None)
    return schema


def inlined(schema: Json) -> Json:
    """Return a schema of Pydantic's without references, without the titles that only repeat names, and without defaults of null.

    Models that hold themselves can not be written so: RecursionError.
    """
    definitions = schema.get("$defs", {})

    def node(part: Mapping[str, Any]) -> Json:
        reference = part.get("$ref")
        if reference is not None:
            part = {**definitions[reference.removeprefix("#/$defs/")], **{name: value for name, value in part.items() if name != "$ref"}}
        found: Json = {}
        for name, value in part.items():
            if name in ("$defs", "title") or (name == "default" and value is None):
                continue
            if name == "properties":
                found[name] = {each: node(inner) for each, inner in value.items()}
            elif name == "description":
                found[name] = " ".join(value.replace("``", "`").split())
            elif name in ("anyOf", "oneOf", "allOf"):
                found[name] = [node(inner) for inner in value]
            elif isinstance(value, Mapping):
                found[name] = node(value)
            else:
                found[name] = value
        return found

    return node(schema)
