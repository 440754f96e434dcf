"""The mails of one process that wait for a retry while others go on: for the metrics and ``/readyz``."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from schemas.kinds import Kind
from streams.metrics import HELD

_NAMED = 5
"""So many groups of them are named in a description."""


class HeldMails:
    """The mails that were read from retry topics and wait for their time, by their event and the answer they wait for, in some words.

    A mail counts once, for its latest reading: its next retry record may be read before the step that wrote it has ended.
    """

    def __init__(self) -> None:
        self._mails: Counter[tuple[str, str]] = Counter()
        self._readings: dict[UUID, list[tuple[str, str]]] = {}

    @contextmanager
    def holding(self, audit_id: UUID, kind: Kind, answer: str) -> Iterator[None]:
        """Count the mail as one that waits for as long as the block runs."""
        reading = (kind.value, answer)
        readings = self._readings.setdefault(audit_id, [])
        self._replace(readings[-1] if readings else None, reading)
        readings.append(reading)
        try:
            yield
        finally:
            counted = readings[-1]
            readings.remove(reading)
            if readings:
                self._replace(counted, readings[-1])
            else:
                del self._readings[audit_id]
                self._replace(counted, None)

    def _replace(self, former: tuple[str, str] | None, later: tuple[str, str] | None) -> None:
        for group, change in ((former, -1), (later, 1)):
            if group is not None:
                self._mails[group] += change
                HELD.labels(*group).inc(change)

    def describe(self) -> str:
        """Say how many mails wait, of which events and for which answers; nothing when there are none."""
        groups = [(f"{kind} ({answer})", count) for (kind, answer), count in self._mails.most_common() if count]
        if not groups:
            return ""
        named = ", ".join(f"{count} of {group}" for group, count in groups[:_NAMED])
        return f"mails that wait for a retry while others go on: {named}{', and others' if len(groups) > _NAMED else ''}"
