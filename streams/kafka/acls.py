"""Kafka's ACLs: the least that each process and command needs on a broker that denies by default. Pure.

Stages and the gateway are read off the topology; what commands of operators read and write stands here, and a test runs all of them under it.

Kafka implies ``Describe`` by ``Read`` and ``Write``, and ``DescribeConfigs`` by ``AlterConfigs``. From Kafka 3.0 on ``Write`` on any topic is enough
for a producer that is idempotent; older brokers ask for ``IdempotentWrite`` on the cluster as well.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, get_args

from streams.settings import Settings
from streams.settings.roles import KafkaRole
from streams.topics import (
    AUDIT_EVENTS,
    CLASSIFY_CHANGELOG,
    DEAD_LETTERS,
    FORWARD_RETRY_1H,
    FORWARD_RETRY_5M,
    FORWARD_RETRY_30S,
    LOOPS_WEBHOOKS,
    NORMALISE_CHANGELOG,
    OPERATORS_TRANSACTIONAL_ID,
    RAZORPAY_WEBHOOKS,
    SUBSCRIPTION_LINKS,
    TEAM_EVENTS,
    TIER_CURRENT,
    TOPICS,
    Topic,
    changelog_of,
    group_id,
    reader_group,
    restore_group,
    topics_of,
)

ROLES: tuple[KafkaRole, ...] = get_args(KafkaRole)
STAGES = ("normalise", "classify", "audit", "forward", "feedback")


class Resource(StrEnum):
    """What an ACL is about, as ``kafka-acls`` names its option."""

    TOPIC = "topic"
    GROUP = "group"
    TRANSACTIONAL_ID = "transactional-id"


class Operation(StrEnum):
    """What it allows, as ``kafka-acls`` spells it."""

    READ = "Read"
    WRITE = "Write"
    DESCRIBE = "Describe"
    DESCRIBE_CONFIGS = "DescribeConfigs"
    CREATE = "Create"
    ALTER_CONFIGS = "AlterConfigs"


class Acl(NamedTuple):
    """What one role may do with one resource, or with all whose names begin with ``name``."""

    role: str
    resource: Resource
    name: str
    operations: tuple[Operation, ...]
    is_prefix: bool = False


@dataclass(frozen=True, slots=True)
class _Command:
    """What a command reads and writes. ``stages`` are those whose committed offsets it asks for."""

    reads: tuple[Topic, ...]
    writes: tuple[Topic, ...] = ()
    stages: tuple[str, ...] = ()
    is_transactional: bool = False


_WEBHOOKS_AND_ROWS = (RAZORPAY_WEBHOOKS, NORMALISE_CHANGELOG, CLASSIFY_CHANGELOG)
_REPLAYED_TO = (
    *(RAZORPAY_WEBHOOKS, SUBSCRIPTION_LINKS, TEAM_EVENTS, AUDIT_EVENTS, LOOPS_WEBHOOKS),
    *(FORWARD_RETRY_30S, FORWARD_RETRY_5M, FORWARD_RETRY_1H),
)
_TABLE_STAGES = ("normalise", "classify")
_COMMANDS: dict[str, _Command] = {
    "verify": _Command(
        (*_WEBHOOKS_AND_ROWS, SUBSCRIPTION_LINKS, TEAM_EVENTS, AUDIT_EVENTS, TIER_CURRENT, DEAD_LETTERS),
        stages=("normalise", "classify", "audit", "forward"),
    ),
    "explain": _Command(
        (RAZORPAY_WEBHOOKS, SUBSCRIPTION_LINKS, TEAM_EVENTS, AUDIT_EVENTS, TIER_CURRENT, DEAD_LETTERS), stages=_TABLE_STAGES
    ),
    "dlq": _Command((DEAD_LETTERS,), (DEAD_LETTERS, *_REPLAYED_TO), is_transactional=True),
    "deliveries": _Command((AUDIT_EVENTS, DEAD_LETTERS), (AUDIT_EVENTS,)),
    "replay": _Command(_WEBHOOKS_AND_ROWS, (RAZORPAY_WEBHOOKS, AUDIT_EVENTS), stages=("normalise",)),
    "reconcile": _Command((*_WEBHOOKS_AND_ROWS, TEAM_EVENTS), (RAZORPAY_WEBHOOKS, AUDIT_EVENTS), stages=_TABLE_STAGES),
    "import-tiers": _Command(
        (SUBSCRIPTION_LINKS, TEAM_EVENTS, CLASSIFY_CHANGELOG), (SUBSCRIPTION_LINKS, TEAM_EVENTS), stages=("classify",)
    ),
}


def acls(settings: Settings, role: KafkaRole) -> tuple[Acl, ...]:
    """Return what ``role`` needs, with the names on the broker: topics in the topology's order, then groups, then transactional ids."""
    if role == "topics":
        operations = (Operation.CREATE, Operation.DESCRIBE, Operation.ALTER_CONFIGS)
        return tuple(Acl(role, Resource.TOPIC, topic.full_name(settings), operations) for topic in TOPICS)
    return tuple(_command(settings, role) if role in _COMMANDS else _process(settings, role))


def _process(settings: Settings, role: str) -> Iterator[Acl]:
    changelog = changelog_of(role)
    reads = [topic for topic in TOPICS if role in topic.consumers]
    writes = [topic for topic in topics_of(role) if topic is DEAD_LETTERS or role in topic.producers]
    if changelog is not None:
        writes += reads  # a record that lies on another partition than its key's is produced again
    # The gateway looks at its own topics, a worker at its start at all of them.
    yield from _topics(settings, role, reads, writes, topics_of(role) if role == "gateway" else TOPICS)
    if role not in STAGES:
        return
    group = group_id(settings, role)
    yield Acl(role, Resource.GROUP, group, (Operation.READ,))
    if changelog is not None:
        yield Acl(role, Resource.GROUP, restore_group(changelog.full_name(settings)), (Operation.DESCRIBE,))
        yield Acl(role, Resource.TRANSACTIONAL_ID, f"{group}-", (Operation.WRITE,), is_prefix=True)


def _command(settings: Settings, role: str) -> Iterator[Acl]:
    command = _COMMANDS[role]
    yield from _topics(settings, role, command.reads, command.writes, TOPICS)
    for stage in command.stages:
        yield Acl(role, Resource.GROUP, group_id(settings, stage), (Operation.DESCRIBE,))
    yield Acl(role, Resource.GROUP, reader_group(settings), (Operation.DESCRIBE,))
    if command.is_transactional:
        yield Acl(role, Resource.TRANSACTIONAL_ID, settings.topic_prefix + OPERATORS_TRANSACTIONAL_ID, (Operation.WRITE,))


def _topics(settings: Settings, role: str, reads: Sequence[Topic], writes: Sequence[Topic], described: Sequence[Topic]) -> Iterator[Acl]:
    for topic in TOPICS:
        uses = [operation for operation, wanted in ((Operation.READ, reads), (Operation.WRITE, writes)) if topic in wanted]
        if topic in described:
            uses += [*(() if uses else (Operation.DESCRIBE,)), Operation.DESCRIBE_CONFIGS]
        if uses:
            yield Acl(role, Resource.TOPIC, topic.full_name(settings), tuple(uses))


def commands(granted: Iterable[Acl], principal: str, bootstrap_servers: str) -> list[str]:
    """Return the lines that grant all of it with Kafka's own tool; ``{role}`` in ``principal`` stands for the role.

    Resources that a role may do the same with share a line.
    """
    together: dict[tuple[str, Resource, tuple[Operation, ...], bool], list[str]] = {}
    for acl in granted:
        together.setdefault((acl.role, acl.resource, acl.operations, acl.is_prefix), []).append(acl.name)
    head = f"kafka-acls --bootstrap-server {bootstrap_servers} --command-config admin.properties --add"
    lines = []
    for (role, resource, operations, is_prefix), names in together.items():
        words = [head, f"--allow-principal '{principal.replace('{role}', role)}'"]
        words += [f"--operation {operation}" for operation in operations]
        words += ["--resource-pattern-type prefixed"] if is_prefix else []
        words += [f"--{resource} '{name}'" for name in names]
        lines.append(" ".join(words))
    return lines
