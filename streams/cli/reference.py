"""The parts of the documents that the code itself knows best: the topology's diagram and table, the table of settings.

They stand between ``<!-- generated: NAME -->`` and ``<!-- end of NAME -->``. ``python -m streams.cli.reference FILE...`` writes them,
and a test fails where they are out of date.
"""

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from streams.kafka.acls import ROLES, Acl, Operation, Resource, acls
from streams.settings import PREFIX, Settings
from streams.settings.roles import REQUIRED
from streams.stores.roles import PREFIX as PREFIX_OF_ROLES
from streams.stores.roles import PRIVILEGES, TABLES
from streams.topics import TOPICS, Topic

OUTSIDE: tuple[tuple[str, str, str], ...] = (
    ("Razorpay", "gateway", "signed webhooks"),
    ("services", "gateway", "POST /v1/events"),
    ("audit", "PostgreSQL", "audit_log"),
    ("forward", "PostgreSQL", "forwarder_sent"),
    ("forward", "Loops", "one mail each"),
    ("feedback", "PostgreSQL", "forwarder_sent"),
    ("Loops", "gateway", "signed webhooks"),
)
"""What flows without a topic: from, to, what."""


OPERATION = frozenset({"every stage", "operators", "import-tiers", "feedback"})
"""Who writes or reads a topic that belongs to operation, and not to the way from a source to a sink."""


def topology_diagram() -> str:
    """Return the whole topology as a mermaid flowchart: boxes work, rounded topics are logs, cylinders keep the newest of each key."""
    return _diagram(TOPICS, OUTSIDE)


def overview_diagram() -> str:
    """Return the way from the sources to the sinks as a mermaid flowchart, without changelogs and what belongs to operation."""
    on_the_way = [
        replace(topic, producers=tuple(name for name in topic.producers if name not in OPERATION))
        for topic in TOPICS
        if topic.producers != topic.consumers and not OPERATION.issuperset(topic.producers) and not OPERATION.issuperset(topic.consumers)
    ]
    return _diagram(on_the_way, [edge for edge in OUTSIDE if edge[0] not in ("Loops", *OPERATION)])


def _diagram(topics: Sequence[Topic], outside: Sequence[tuple[str, str, str]]) -> str:
    nodes = dict.fromkeys(name for topic in topics for name in (*topic.producers, *topic.consumers))
    nodes |= dict.fromkeys(end for edge in outside for end in edge[:2])
    lines = ["```mermaid", "flowchart LR"]
    lines += (f"  {_node_id(name)}[{name}]" for name in nodes)
    lines += (f"  {_node_id(topic.name)}" + ("[({})]" if topic.cleanup == "compact" else "([{}])").format(topic.name) for topic in topics)
    lines += (f"  {_node_id(start)} -- {what} --> {_node_id(end)}" for start, end, what in outside)
    lines += (edge for topic in topics for edge in _edges(topic))
    return "\n".join([*lines, "```"])


def _edges(topic: Topic) -> Iterator[str]:
    node = _node_id(topic.name)
    if topic.producers == topic.consumers:  # a table's changelog
        yield from (f"  {_node_id(stage)} <-.-> {node}" for stage in topic.producers)
        return
    yield from (f"  {_node_id(producer)} --> {node}" for producer in topic.producers)
    yield from (f"  {node} --> {_node_id(consumer)}" for consumer in topic.consumers)


def _node_id(name: str) -> str:
    return re.sub(r"\W", "_", name)


def topics_table() -> str:
    """Return a Markdown table of the topics. Retention is the default."""
    return _table(
        ("topic", "key", "value", "kept", "written by", "read by"),
        (
            (f"`{topic.name}`", topic.key, topic.value, _kept(topic), ", ".join(topic.producers), ", ".join(topic.consumers))
            for topic in TOPICS
        ),
    )


def _kept(topic: Topic) -> str:
    return "newest of each key" if topic.retention is None else f"{Settings.model_fields[topic.retention].default} days"


def settings_table() -> str:
    """Return a Markdown table of every setting: variable, default, which commands do not start without it, meaning."""
    return _table(("variable", "default", "needed by", "meaning"), (_setting(name, field) for name, field in Settings.model_fields.items()))


def acls_table() -> str:
    """Return a Markdown table of what each role reads, writes and names on the brokers, as ``tierstream topics acls`` lists it without a prefix."""
    settings = Settings.model_construct(topic_prefix="")
    rows = ((role, *_acl_cells(acls(settings, role))) for role in ROLES if role != "topics")
    return _table(("role", "Read", "Write", "groups: Read", "groups: Describe", "transactional ids: Write"), rows)


def _acl_cells(granted: Sequence[Acl]) -> Iterator[str]:
    for resource, operation in (
        (Resource.TOPIC, Operation.READ),
        (Resource.TOPIC, Operation.WRITE),
        (Resource.GROUP, Operation.READ),
        (Resource.GROUP, Operation.DESCRIBE),
        (Resource.TRANSACTIONAL_ID, Operation.WRITE),
    ):
        names = (f"`{acl.name}{'*' * acl.is_prefix}`" for acl in granted if acl.resource is resource and operation in acl.operations)
        yield ", ".join(names) or "-"


def postgres_roles_table() -> str:
    """Return a Markdown table of what each role may do with each table."""
    return _table(
        ("role", *(f"`{table}`" for table in _GRANTED)),
        (
            (f"`{PREFIX_OF_ROLES}{role}`", *(", ".join(tables.get(table, ("-",))) for table in _GRANTED))
            for role, tables in PRIVILEGES.items()
        ),
    )


_GRANTED = tuple(table for table in TABLES if any(table in tables for tables in PRIVILEGES.values()))


def _setting(name: str, field: FieldInfo) -> tuple[str, str, str, str]:
    choices = _choices(field.annotation)
    meaning = field.description or ""
    if choices:
        meaning += f" One of {', '.join(f'`{choice}`' for choice in choices)}."
    default = "-" if field.default in (None, "") else f"`{field.default}`"
    return f"`{PREFIX}{name.upper()}`", default, ", ".join(role for role, names in REQUIRED.items() if name in names) or "-", meaning


def _choices(annotation: object) -> tuple[str, ...]:
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(choice for argument in get_args(annotation) for choice in _choices(argument))


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    escaped = (tuple(cell.replace("|", "\\|") for cell in row) for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *escaped))


PARTS: dict[str, Callable[[], str]] = {
    "overview": overview_diagram,
    "topology": topology_diagram,
    "topics": topics_table,
    "settings": settings_table,
    "acls": acls_table,
    "postgres_roles": postgres_roles_table,
}
"""What can be generated, by the name in the markers."""

_PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end of \2 -->)", re.DOTALL)


def filled(text: str) -> str:
    """Return ``text`` with every generated part as it is now. Raises KeyError for the name of none."""
    return _PART.sub(lambda part: f"{part[1]}{PARTS[part[2]]()}\n{part[3]}", text)


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
