"""Rows that a constraint of others refuses for now: how often they are tried again, and who is told."""

from collections.abc import Hashable

from streams.errors import ConstraintRefuses
from streams.runtime.waiting import Backoff, begin_waiting, end_waiting

HELD_BACKOFF = Backoff(first_seconds=0.2, cap_seconds=5.0)
"""Between the tries of one held row. Cap: a row that is taken at last is written within this."""

WAIT_SECONDS = 300.0
"""How long a row is tried again whose foreign key refers to a row that is not there, unless a setting says otherwise."""


class ConstraintAlarm:
    """Says which constraints a stage waits for, as it says which services: in the log, the metric and the state of health."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._held: dict[Hashable, str] = {}

    def hold(self, key: Hashable, refusal: ConstraintRefuses) -> None:
        """Note that what ``key`` stands for waits for a constraint."""
        if self._held.get(key) != refusal.constraint:
            self.release(key)
            self._held[key] = refusal.constraint
            begin_waiting(self._stage, refusal.constraint, str(refusal))

    def release(self, key: Hashable) -> None:
        """Note that it waits no more."""
        constraint = self._held.pop(key, None)
        if constraint is not None and constraint not in self._held.values():
            end_waiting(self._stage, constraint)

    def holds_alone(self, key: Hashable) -> bool:
        """Whether nothing else waits for the constraint that ``key`` waits for."""
        return list(self._held.values()).count(self._held.get(key, "")) == 1
