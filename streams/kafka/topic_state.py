"""A topic as the broker describes it, and what of that is not as the topology has it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from streams.settings import PREFIX, Settings
from streams.topics import Topic

PARTITIONS, COPIES = "partitions", "copies"


@dataclass(frozen=True, slots=True)
class TopicState:
    """One topic on the broker. ``copies`` are those of the partition that has fewest."""

    topic_id: str
    partitions: int
    copies: int
    properties: Mapping[str, str]
    """Kafka's topic properties that are in force, also where they are the broker's defaults; empty where they may not be described."""


class Consequence(IntEnum):
    """What a difference means for processes that are at work, from the least on."""

    NAMED = 1
    """Everything goes on, and says so: nothing is decided wrongly. What does not fit a topic any more is refused by itself."""
    REFUSES = 2
    """The gateway accepts nothing, for what it acknowledged could be lost; what is on the topics already is worked in."""
    STOPS = 3
    """The gateway accepts nothing, and a stage ends: it would read half of the keys, or what it has to read or restore is thrown away."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One property of one topic that is not as it should be."""

    topic: str
    name: str
    found: str
    wanted: str
    consequence: Consequence
    obstacle: str | None = None
    """Why ``topics apply --alter`` leaves it, in a sentence that says what to do; None where it is altered."""

    def __str__(self) -> str:
        if self.name in (PARTITIONS, COPIES):
            return f"{self.topic} has {self.found} {self.name} instead of {self.wanted}"
        return f"{self.topic} has {self.name}={self.found} instead of {self.wanted}"


FIXED = "partitions and cleanup are fixed at birth"
"""The number of partitions, for keys and state depend on it and Kafka can take none away. The cleanup policy, for what the wrong one has
thrown away does not come back: whoever corrects it has to judge whether a table is to be started over."""

_REASSIGN = "copies are added with Kafka's kafka-reassign-partitions"


def differences(topic: Topic, state: TopicState, settings: Settings) -> list[Difference]:
    """Return what of ``state`` is not as the topology has ``topic``: partitions first, then properties, then copies."""
    name = topic.full_name(settings)
    found: list[Difference] = []
    if state.partitions != settings.partitions:
        found.append(Difference(name, PARTITIONS, str(state.partitions), str(settings.partitions), Consequence.STOPS, FIXED))
    for property_name, wanted in topic.config(settings).items():
        value = state.properties.get(property_name, wanted)
        if value != wanted:
            consequence = _consequence(property_name, value, wanted, state.copies if settings.min_insync_replicas is None else None)
            found.append(Difference(name, property_name, value, wanted, consequence, _obstacle(topic, property_name, value, wanted, state)))
    if state.copies != settings.replication_factor:
        found.append(Difference(name, COPIES, str(state.copies), str(settings.replication_factor), Consequence.NAMED, _REASSIGN))
    return found


def _consequence(name: str, found: str, wanted: str, most_in_sync: int | None) -> Consequence:
    """``most_in_sync`` limits how many copies have to have a record where nobody has set a number: no more than there are."""
    if name == "cleanup.policy":
        return Consequence.STOPS
    if name == "min.insync.replicas" and int(found) < min(int(wanted), most_in_sync or int(wanted)):
        return Consequence.REFUSES
    return Consequence.NAMED


def _obstacle(topic: Topic, name: str, found: str, wanted: str, state: TopicState) -> str | None:
    """Only what can be taken back, and deletes nothing, is altered."""
    if name == "cleanup.policy":
        return FIXED
    if name == "retention.ms" and (int(found) < 0 or int(found) > int(wanted)):
        assert topic.retention is not None
        return f"a shorter retention deletes records: set {PREFIX}{topic.retention.upper()}, or alter it with Kafka's own tools"
    if name == "min.insync.replicas" and int(wanted) > state.copies:
        return f"min.insync.replicas of more than the {state.copies} copies there are would let nothing be written"
    return None


def remedies(found: Sequence[Difference], *, missing: bool = False) -> str:
    """Return the sentences that say what mends ``found``, and topics that are ``missing``."""
    obstacles = dict.fromkeys(difference.obstacle for difference in found if difference.obstacle not in (None, FIXED))
    altered = any(difference.obstacle is None for difference in found)
    fixed = any(difference.obstacle == FIXED for difference in found)
    said = ["`tierstream topics apply --alter` alters what it can without deleting anything."] if altered else []
    said += [f"{obstacle[0].upper()}{obstacle[1:]}." for obstacle in obstacles if obstacle]
    if missing:
        said.append("Run `tierstream topics apply` for what is missing.")
    if fixed:
        said.append(f'{FIXED[0].upper()}{FIXED[1:]}: "When a topic was changed" in docs/deployment.md says what to do.')
    return " ".join(said)
