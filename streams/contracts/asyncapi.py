"""The topics for whoever reads or writes them: an AsyncAPI 3.0 document, made of ``streams.topics`` and the messages. Pure.

Channels are all topics but the tables' changelogs. Operations are those at the border alone: what tierstream sends, others receive, and what it
receives, others may send.
"""

from importlib.metadata import version
from typing import Any, Final

from schemas.envelope import CONTENT_TYPE
from streams.contracts.messages import TEAM_ID, Message, messages
from streams.settings import Settings
from streams.topics import AUDIT_EVENTS, DEAD_LETTERS, TIER_CURRENT, TOPICS, Topic

Json = dict[str, Any]

KAFKA_BINDING: Final = "0.5.0"

READERS: Final = frozenset({"other teams", "operators"})
WRITERS: Final = frozenset({"services"})
"""Who of ``streams.topics`` is not tierstream itself."""

_SECURITY: Final = {"PLAIN": "plain", "SCRAM-SHA-256": "scramSha256", "SCRAM-SHA-512": "scramSha512"}

_KEYS: Final[dict[str, Json]] = {
    "team id": TEAM_ID,
    "as it was": {"description": "The key of the record that this was."},
}
"""The schema of a key, by what ``Topic.key`` says; any other is a text that it describes."""

_DESCRIPTION: Final = """What tierstream writes for other teams, and what it takes from them, over Kafka.

Read with isolation.level=read_committed: tierstream writes in transactions, and without it a reader sees what was never decided. Order holds
for one key. The same event can be read twice by a reader that failed; it has the same id then. Ignore fields and kinds that you do not know.
Values are CloudEvents 1.0 in structured JSON. Send and receive are tierstream's: what it sends, you receive."""

_ABOUT: Final[dict[str, str]] = {
    "razorpay.webhooks": "Razorpay's webhooks, byte for byte.",
    "subscription.links": "Which team a subscription belongs to, as an import states it.",
    "team.events": "What happened to a team: subscriptions' facts and services' own events. Services send theirs.",
    "audit.events": "What was decided: changes of tier, grace periods, and services' events that were passed on.",
    "forward.retry.30s": "Mails that wait for about half a minute.",
    "forward.retry.5m": "Mails that wait for about five minutes.",
    "forward.retry.1h": "Mails that wait for about an hour.",
    "tier.current": "Each team's tier now: read it from its start and keep the newest record of each key.",
    "dead.letters": "Records that no stage could act on, whole, with the reason in their headers.",
    "loops.webhooks": "Loops' webhooks, byte for byte.",
}
"""What each topic is for. A test fails for one without a sentence."""

_DEAD_LETTER_HEADERS: Final = {
    "dlq-reason": "Why no stage could act on it.",
    "dlq-stage": "Which stage gave up.",
    "dlq-topic": "Where it was read: topic.",
    "dlq-partition": "Where it was read: partition.",
    "dlq-offset": "Where it was read: offset.",
    "dlq-time": "When it was parked, in Unix milliseconds.",
    "dlq-error": "What is wrong with it, in one sentence.",
    "dlq-replays": "How often it was replayed.",
}


def document(settings: Settings) -> Json:
    """Return the AsyncAPI 3.0 document for the topics as ``settings`` has them: prefix, addresses, partitions, copies, retention.

    The same settings give the same document. Secrets are not in it.
    """
    topics = [topic for topic in TOPICS if not topic.is_changelog]
    servers = _servers(settings)
    found: Json = {
        "asyncapi": "3.0.0",
        "info": {"title": "tierstream", "version": version("tierstream"), "description": _DESCRIPTION},
        "defaultContentType": CONTENT_TYPE.decode(),
        "channels": {topic.name: _channel(topic, settings) for topic in topics},
        "operations": {name: operation for topic in topics for name, operation in _operations(topic)},
        "components": {"messages": {name: message for topic in topics for name, message in _messages(topic)}},
    }
    if servers:
        found["servers"] = servers
    mechanism = settings.kafka_sasl_mechanism
    if mechanism is not None:
        found["components"]["securitySchemes"] = {"login": {"type": _SECURITY[mechanism], "description": f"SASL {mechanism}."}}
    return found


def _servers(settings: Settings) -> Json:
    protocol = "kafka-secure" if settings.kafka_security_protocol.endswith("SSL") else "kafka"
    server: Json = {"protocol": protocol, "description": f"Kafka, {settings.kafka_security_protocol}."}
    if settings.kafka_sasl_mechanism is not None:
        server["security"] = [{"$ref": "#/components/securitySchemes/login"}]
    hosts = [host.strip() for host in settings.kafka_bootstrap_servers.split(",") if host.strip()]
    return {f"kafka-{number}": {"host": host, **server} for number, host in enumerate(hosts, start=1)}


def _channel(topic: Topic, settings: Settings) -> Json:
    config = topic.config(settings)
    kafka: Json = {
        "topic": topic.full_name(settings),
        "partitions": settings.partitions,
        "replicas": settings.replication_factor,
        "topicConfiguration": {
            "cleanup.policy": [topic.cleanup],
            **{name: int(config[name]) for name in ("retention.ms", "retention.bytes", "max.message.bytes") if name in config},
        },
        "bindingVersion": KAFKA_BINDING,
    }
    return {
        "address": topic.full_name(settings),
        "title": topic.name,
        "description": f"{_ABOUT[topic.name]} Key: {topic.key}. Kept: {_kept(topic, settings)}. "
        f"Written by: {', '.join(topic.producers)}. Read by: {', '.join(topic.consumers)}.",
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in _message_names(topic)},
        "tags": [{"name": "public" if _is_public(topic) else "internal"}],
        "bindings": {"kafka": kafka},
    }


def _is_public(topic: Topic) -> bool:
    return not READERS.isdisjoint(topic.consumers) or not WRITERS.isdisjoint(topic.producers)


def _kept(topic: Topic, settings: Settings) -> str:
    return "the newest record of each key" if topic.retention is None else f"{getattr(settings, topic.retention)} days"


def _operations(topic: Topic) -> list[tuple[str, Json]]:
    """Return what tierstream does at the border with a topic: ``send`` is what others receive, ``receive`` what others may send."""
    found = []
    readers, writers = READERS.intersection(topic.consumers), WRITERS.intersection(topic.producers)
    for action, others, said, names in (
        ("send", readers, "receive", _message_names(topic)),
        ("receive", writers, "send", [message.name for message in _kinds(topic) if message.by_services]),
    ):
        if others:
            name = action + "".join(part.capitalize() for part in topic.name.split("."))
            found.append(
                (
                    name,
                    {
                        "action": action,
                        "channel": {"$ref": f"#/channels/{topic.name}"},
                        "title": f"tierstream {action}s, {' and '.join(sorted(others))} {said}",
                        "description": _ABOUT[topic.name],
                        "messages": [{"$ref": f"#/channels/{topic.name}/messages/{each}"} for each in names],
                        "bindings": {"kafka": {"bindingVersion": KAFKA_BINDING}},
                    },
                )
            )
    return found


def _kinds(topic: Topic) -> list[Message]:
    """The messages of a topic that has kinds; a retry topic holds what is on ``audit.events``."""
    source = AUDIT_EVENTS if topic.value == "as on audit.events" else topic
    return [message for message in messages() if message.topic is source]


def _message_names(topic: Topic) -> list[str]:
    names = [message.name for message in _kinds(topic)] or [topic.name]
    return [*names, f"{topic.name}.tombstone"] if topic is TIER_CURRENT else names


def _messages(topic: Topic) -> list[tuple[str, Json]]:
    """Return the messages that a topic is the first to carry."""
    kinds = [message for message in _kinds(topic) if message.topic is topic]
    if kinds:
        found = [(message.name, _of_kind(message)) for message in kinds]
        return [*found, (f"{topic.name}.tombstone", _tombstone(topic))] if topic is TIER_CURRENT else found
    return [] if _kinds(topic) else [(topic.name, _of_bytes(topic))]


def _of_kind(message: Message) -> Json:
    described = message.description if message.retiring is None else f"{message.description} Retiring: {message.retiring}"
    found: Json = {
        "name": message.kind,
        "title": message.title,
        "description": described,
        "contentType": CONTENT_TYPE.decode(),
        "headers": _headers({"content-type": {"type": "string", "const": CONTENT_TYPE.decode()}}, required=["content-type"]),
        "payload": {**message.schema, **({"deprecated": True} if message.retiring is not None else {})},
        "bindings": _binding(message.topic),
    }
    if message.direction == "out":
        found["headers"]["properties"]["dlq-replays"] = {"type": "string", "description": "How often an operator had it processed again."}
    return found


def _of_bytes(topic: Topic) -> Json:
    found: Json = {
        "name": topic.name,
        "title": topic.value,
        "description": f"{_ABOUT[topic.name]} The value is {topic.value}.",
        "contentType": "application/octet-stream",
        "bindings": _binding(topic),
    }
    if topic is DEAD_LETTERS:
        properties = {name: {"type": "string", "description": what} for name, what in _DEAD_LETTER_HEADERS.items()}
        properties["dlq-resolves"] = {
            "type": "string",
            "description": "On the mark of an operator's decision: the place of its dead letter.",
        }
        found["headers"] = _headers(properties)
        found["description"] += " A record with `dlq-resolves` and without a value is the mark of an operator's decision."
    return found


def _tombstone(topic: Topic) -> Json:
    return {
        "name": "tombstone",
        "title": "Tombstone",
        "description": "A record without a value: what its key stands for is gone. tierstream writes none today; be ready for one.",
        "payload": {"type": "null"},
        "bindings": _binding(topic),
    }


def _headers(properties: Json, required: list[str] | None = None) -> Json:
    return {"type": "object", "properties": properties, **({"required": required} if required else {})}


def _binding(topic: Topic) -> Json:
    key = _KEYS.get(topic.key, {"type": "string", "description": f"{topic.key[0].upper()}{topic.key[1:]}."})
    return {"kafka": {"key": dict(key), "bindingVersion": KAFKA_BINDING}}
