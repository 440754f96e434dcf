"""The contracts as files: what they hold, and what a change of the code means for those who rely on the committed ones. Pure but for reading."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streams.contracts.compatibility import changes
from streams.contracts.messages import messages
from streams.errors import ConfigurationError
from streams.settings import Settings
from streams.topics import TOPICS

Json = dict[str, Any]

TOPICS_FILE = "topics"
"""The file with what holds for whole topics, beside one for each kind."""

DRAFT = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference between a committed contract and the code. ``breaks`` says that somebody who relies on it would notice."""

    file: str
    what: str
    breaks: bool

    def __str__(self) -> str:
        return f"{self.file}: {self.what}."


def contracts() -> dict[str, Json]:
    """Return every contract as the code has it now, by the name of its file without ``.json``."""
    found: dict[str, Json] = {TOPICS_FILE: _topics()}
    for message in messages():
        description = message.description if message.retiring is None else f"{message.description} Retiring: {message.retiring}"
        head: Json = {"$schema": DRAFT, "title": f"{message.kind} on {message.topic.name}", "description": description}
        if message.retiring is not None:
            head["deprecated"] = True
        found[message.name] = {**head, "x-topic": message.topic.name, "x-direction": message.direction, **message.schema}
    return found


def _topics() -> Json:
    return {
        topic.name: {
            "key": topic.key,
            "cleanup": topic.cleanup,
            "kept_days": None if topic.retention is None else Settings.model_fields[topic.retention].default,
        }
        for topic in TOPICS
        if topic.producers != topic.consumers  # what only its writer reads is nobody else's
    }


def written(contract: Json) -> str:
    """Return the text of a contract's file."""
    return json.dumps(contract, indent=2, ensure_ascii=False) + "\n"


def read(directory: Path) -> dict[str, Json]:
    """Return the contracts that ``directory`` holds. Raises ConfigurationError for a file that is no JSON object."""
    found: dict[str, Json] = {}
    for path in sorted(directory.glob("*.json")):
        try:
            contract = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigurationError(f"{path} is no JSON ({error}); restore it from version control.") from error
        if not isinstance(contract, dict):
            raise ConfigurationError(f"{path} is no JSON object; restore it from version control.")
        found[path.stem] = contract
    return found


def findings(committed: Mapping[str, Json], current: Mapping[str, Json]) -> list[Finding]:
    """Return every difference, by file. A kind that was announced to retire may go; every other one is missed."""
    found: list[Finding] = []
    for name in sorted({*committed, *current}):
        if name not in current:
            announced = committed[name].get("deprecated") is True
            found.append(
                Finding(name, "the kind is gone" + ("" if announced else ", and was not announced to retire"), breaks=not announced)
            )
        elif name not in committed:
            found.append(Finding(name, "the kind is new", breaks=False))
        elif name == TOPICS_FILE:
            found += _topic_findings(committed[name], current[name])
        else:
            found += _kind_findings(name, committed[name], current[name])
    return found


def _kind_findings(name: str, old: Json, new: Json) -> list[Finding]:
    if (old.get("x-topic"), old.get("x-direction")) != (new["x-topic"], new["x-direction"]):
        return [Finding(name, f"it is on {new['x-topic']} ({new['x-direction']}) now", breaks=True)]
    found = [Finding(name, str(change), change.breaks) for change in changes(old, new, new["x-direction"])]
    if not found and written(old) != written(new):
        found.append(Finding(name, "only its description is another one", breaks=False))
    return found


def _topic_findings(old: Json, new: Json) -> list[Finding]:
    found = []
    for topic in sorted({*old, *new}):
        if topic not in new:
            found.append(Finding(TOPICS_FILE, f"{topic} is gone", breaks=True))
        elif topic not in old:
            found.append(Finding(TOPICS_FILE, f"{topic} is new", breaks=False))
        else:
            found += _changes_of_topic(topic, old[topic], new[topic])
    return found


def _changes_of_topic(topic: str, old: Json, new: Json) -> list[Finding]:
    found = [
        Finding(TOPICS_FILE, f"{topic}: {what} is {new[what]!r} now, and was {old.get(what)!r}", breaks=True)
        for what in ("key", "cleanup")
        if old.get(what) != new[what]
    ]
    before, after = old.get("kept_days"), new["kept_days"]
    if before != after:
        shorter = after is not None and (before is None or after < before)
        found.append(Finding(TOPICS_FILE, f"{topic}: it is kept for {after} days now, and was for {before}", breaks=shorter))
    return found
