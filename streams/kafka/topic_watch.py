"""Looking at topics again while a process runs: what was right at the start may be changed by anybody who has the rights."""

import logging
from collections.abc import Collection
from dataclasses import dataclass, field

from streams.kafka.refusals import RefusalNotingAdmin
from streams.kafka.topic_admin import REQUEST_SECONDS, admin_client, described
from streams.kafka.topic_state import Consequence, Difference, differences, remedies
from streams.metrics import TOPIC_DIFFERENCES
from streams.settings import Settings
from streams.topics import Topic

USUAL_PARTITIONS = 32
"""Beyond so many a look is taken less often: what it costs grows with their number, here and in the broker."""

log = logging.getLogger(__name__)


def look_seconds(usual: float, partitions: int) -> float:
    """Return how long to wait between two looks, ``usual`` unless there are many partitions. Pure."""
    return usual * max(1.0, partitions / USUAL_PARTITIONS)


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look found."""

    missing: tuple[str, ...] = ()
    made_anew: tuple[str, ...] = ()
    """Topics with another id than at this process's first look: another topic of the same name."""
    differing: tuple[Difference, ...] = ()
    limits: dict[str, int] = field(default_factory=dict)
    """The size of the largest batch of records that a topic takes, where it may be described."""

    def with_consequence(self, least: Consequence) -> tuple[Difference, ...]:
        """The differences that mean at least so much."""
        return tuple(difference for difference in self.differing if difference.consequence >= least)

    def note(self) -> str:
        """Name everything that is not as it should be; empty when nothing is."""
        named = [str(difference) for difference in self.differing]
        named += [f"there is no topic {name}" for name in self.missing]
        named += [f"{name} was deleted and made anew since this process began" for name in self.made_anew]
        return "; ".join(named)


class TopicWatch:
    """Compares topics with the topology, and with what they were at its first look. Blocking: one call at a time, from any thread.

    One look at five topics of 32 partitions costs some 5 ms of CPU. What differs is logged once, and counted by the metric ``tierstream_topic_differences``.
    """

    def __init__(self, settings: Settings, part: str, topics: Collection[Topic]) -> None:
        """``part`` names who looks, for the metric."""
        self._settings = settings
        self._part = part
        self._topics = {topic.full_name(settings): topic for topic in topics}
        self._admin: RefusalNotingAdmin | None = None
        self._ids: dict[str, str] = {}
        self._noted = ""
        self.has_seen = False
        """Whether the broker has answered a look."""

    @property
    def admin(self) -> RefusalNotingAdmin:
        """The client that it looks with, made at its first use."""
        if self._admin is None:
            self._admin = admin_client(self._settings)
        return self._admin

    def look(self, timeout_seconds: float = REQUEST_SECONDS) -> Seen:
        """Return what differs now. Raises KafkaUnavailable when the broker does not answer in time."""
        states = described(self._settings, self.admin, self._topics, timeout_seconds)
        self.has_seen = True
        found = {name: state for name, state in states.items() if state is not None}
        seen = Seen(
            tuple(name for name, state in states.items() if state is None),
            tuple(name for name, state in found.items() if self._ids.setdefault(name, state.topic_id) != state.topic_id),
            tuple(difference for name, state in found.items() for difference in differences(self._topics[name], state, self._settings)),
            {name: int(limit) for name, state in found.items() if (limit := state.properties.get("max.message.bytes")) is not None},
        )
        self._report(seen)
        return seen

    def _report(self, seen: Seen) -> None:
        note = seen.note()
        TOPIC_DIFFERENCES.labels(self._part).set(len(seen.missing) + len(seen.made_anew) + len(seen.differing))
        if note and note != self._noted:
            log.warning("topics are not as they should be: %s. %s", note, remedies(seen.differing, missing=bool(seen.missing)))
        self._noted = note
