"""The mails of one process that wait for a retry while others go on: for the metrics and ``/readyz``."""

from collections import Counter

from schemas.kinds import Kind
from streams.metrics import HELD

_NAMED = 5
"""So many groups of them are named in a description."""


class HeldMails:
    """The mails that were read from retry topics and wait for their time, by their event and the answer they wait for, in some words."""

    def __init__(self) -> None:
        self._mails: Counter[tuple[str, str]] = Counter()

    def hold(self, kind: Kind, answer: str) -> None:
        """Note that a mail waits."""
        self._mails[kind.value, answer] += 1
        HELD.labels(kind.value, answer).inc()

    def release(self, kind: Kind, answer: str) -> None:
        """Note that it does so no more."""
        self._mails[kind.value, answer] -= 1
        HELD.labels(kind.value, answer).dec()

    def describe(self) -> str:
        """Say how many mails wait, of which events and for which answers; nothing when there are none."""
        groups = [(f"{kind} ({answer})", count) for (kind, answer), count in self._mails.most_common() if count]
        if not groups:
            return ""
        named = ", ".join(f"{count} of {group}" for group, count in groups[:_NAMED])
        return f"mails that wait for a retry while others go on: {named}{', and others' if len(groups) > _NAMED else ''}"
