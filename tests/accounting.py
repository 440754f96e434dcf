"""What the position rows in the changelogs say: outcomes by reason, and how far the input has been worked in."""

from collections import Counter
from typing import Literal

from streams.engine.changelog import POSITION_PREFIX, Position, decode_position
from streams.settings import Settings
from tests.topic_io import read_all

CHANGELOGS = {"normalise": "tierstream.normalise-links-changelog", "classify": "tierstream.classify-teams-changelog"}
TableStage = Literal["normalise", "classify"]


def positions(settings: Settings, stage: TableStage) -> dict[tuple[str, int], Position]:
    """Return the newest position by input topic and partition."""
    newest: dict[tuple[str, int], Position] = {}
    for message in read_all(settings, CHANGELOGS[stage]):
        key, value = message.key() or b"", message.value()
        if key.startswith(POSITION_PREFIX) and value is not None:
            newest[key[len(POSITION_PREFIX) :].decode(), message.partition() or 0] = decode_position(value)
    return newest


def outcomes(settings: Settings, stage: TableStage) -> Counter[str]:
    """Return how many events ended how at ``stage``, over all partitions and inputs."""
    total: Counter[str] = Counter()
    for position in positions(settings, stage).values():
        total.update(position.outcomes)
    return total
