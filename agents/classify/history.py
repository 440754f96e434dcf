"""The history of one subscription: its facts in the order of their versions, and its state as a fold over them.

Facts arrive in any order. They are kept sorted, and what follows from them is always worked out from the first to the last, so that **any
order of arrival, with any duplicates, gives the same history and the same state**. Time passes by facts only: a fact of the kind ``DUE``
says "it is so late now".
"""

from bisect import insort
from enum import IntEnum
from typing import Final

import msgspec

from schemas.team_events import EVENT_RANK, SubscriptionEvent

Version = tuple[int, int, int, str]
"""When a fact happened: (Unix seconds, rank within the second, paid count or microseconds, id of the event). Total, so
that two different events are never equal and the same event always is."""

START: Final = 0
HALT: Final = 1
PAUSE: Final = 2
MOVED: Final = 3
PENDING: Final = 4
ENDING: Final = 5
DUE: Final = 6
_DECISIVE: Final = (START, HALT, PAUSE, MOVED)
"""Kinds of facts of which the newest says whether the subscription is in force."""

TIMED: Final = (PAUSE, PENDING, ENDING)
"""Kinds of facts after which something is to happen at a time."""

_PAYMENTS: Final = (EVENT_RANK[SubscriptionEvent.ACTIVATED], EVENT_RANK[SubscriptionEvent.CHARGED])

MAX_FACTS = 256
"""Facts that the history of one subscription holds: 21 years of monthly charges. Beyond it the oldest are forgotten, first those inside
the oldest run, which no later fact needs."""


class Phase(msgspec.Struct, frozen=True, array_like=True, gc=False, omit_defaults=True):
    """Facts, next to each other in the history, that say the same. ``versions`` ascend.

    ``plan_id`` and ``tier`` are those of a START; ``at`` is when a PAUSE takes effect (0: at once), the grace of a PENDING ends, or an
    ENDING comes, in Unix seconds; ``reminders`` are a PENDING's.
    """

    kind: int
    versions: tuple[Version, ...]
    plan_id: str = ""
    tier: int = 0
    at: int = 0
    reminders: tuple[int, ...] = ()

    def says_the_same(self, other: "Phase") -> bool:
        """Whether the facts of both are alike but for their versions."""
        return (
            self.kind == other.kind
            and self.plan_id == other.plan_id
            and self.tier == other.tier
            and self.at == other.at
            and self.reminders == other.reminders
        )


History = tuple[Phase, ...]


class Mode(IntEnum):
    """What the facts so far have made of a subscription."""

    NONE = 0
    ACTIVE = 1
    HALTED = 2
    PAUSED = 3
    MOVED = 4
    LAPSED = 5
    ENDED = 6


_MODES: Final = tuple(Mode)
_NONE, _ACTIVE, _HALTED, _PAUSED, _MOVED, _LAPSED, _ENDED = _MODES  # an enum's member is looked up through a Python function


class Trouble(msgspec.Struct, frozen=True, gc=False):
    """A payment that failed and was not made good yet: since when, when its grace ends and when to remind, in Unix seconds."""

    since: Version
    ends_at: int
    reminders: tuple[int, ...]


class State(msgspec.Struct, frozen=True, gc=False):
    """What a history comes to.

    ``since`` is the start of the present uninterrupted run: active, on this plan, without another plan, a halt, a pause or an end in
    between. ``out_since`` says when a subscription that is not in force went out of it. ``began`` says whether it ever was in force or
    paid. ``passed`` is the newest time that is known to have passed. ``newest`` is the newest fact on whether it is in force,
    ``ending_version`` the newest that named its coming end.
    """

    mode: Mode = Mode.NONE
    in_force: bool = False
    plan_id: str = ""
    tier: int = 0
    since: Version | None = None
    out_since: Version | None = None
    began: bool = False
    trouble: Trouble | None = None
    until: int = 0
    coming_end: int = 0
    passed: int = 0
    newest: Version | None = None
    ending_version: Version | None = None

    def coming_times(self) -> tuple[int, ...]:
        """Return the times, in Unix seconds, at which something is to happen. None is of a subscription that is out of force."""
        if not self.in_force:
            return ()
        times = [time for time in (self.coming_end, self.until) if time]
        trouble = self.trouble
        if trouble is not None:
            times += [trouble.ends_at, *self.coming_reminders(trouble.ends_at)]
        return tuple(times)

    def coming_reminders(self, up_to: int) -> list[int]:
        """Return the reminders of the present trouble that have not passed, up to a time."""
        trouble = self.trouble
        if trouble is None:
            return []
        return [at for at in trouble.reminders if max(self.passed, trouble.since[0]) < at < trouble.ends_at and at <= up_to]


NEVER_SEEN: Final = State()


def holds(history: History, version: Version) -> bool:
    """Whether the history holds the fact with this version."""
    return any(phase.versions[0] <= version <= phase.versions[-1] and version in phase.versions for phase in history)


def merged(history: History, fact: Phase) -> History:
    """Return the history with ``fact``, a phase of one version; the same object when it holds that version already."""
    (version,) = fact.versions
    if not history or version > history[-1].versions[-1]:
        return bounded(followed(history, fact))
    if holds(history, version):
        return history
    facts = [(each, phase) for phase in history for each in phase.versions]
    insort(facts, (version, fact), key=lambda pair: pair[0])
    return bounded(_grouped(facts))


def followed(history: History, later: Phase) -> History:
    """Return the history with a phase of later facts behind it."""
    if history and history[-1].says_the_same(later):
        return (*history[:-1], msgspec.structs.replace(later, versions=history[-1].versions + later.versions))
    return (*history, later)


def _grouped(facts: list[tuple[Version, Phase]]) -> History:
    groups: list[tuple[Phase, list[Version]]] = []
    for version, phase in facts:
        if groups and groups[-1][0].says_the_same(phase):
            groups[-1][1].append(version)
        else:
            groups.append((phase, [version]))
    return tuple(msgspec.structs.replace(phase, versions=tuple(versions)) for phase, versions in groups)


def bounded(history: History) -> History:
    """Return the history without its oldest facts beyond ``MAX_FACTS``; the start of the oldest run stays for as long as the run does."""
    excess = sum([len(phase.versions) for phase in history]) - MAX_FACTS
    while excess > 0:
        first, versions = history[0], history[0].versions
        kept = versions[:1] if first.kind == START and len(versions) > 1 else ()
        dropped = min(excess, len(versions) - len(kept))
        excess -= dropped
        versions = kept + versions[len(kept) + dropped :]
        history = (msgspec.structs.replace(first, versions=versions), *history[1:]) if versions else history[1:]
    return history


def state_of(history: History) -> State:
    """Work out the state: from the oldest fact to the newest."""
    mode, in_force, began = _NONE, False, False
    plan_id, tier, until, coming_end, passed = "", 0, 0, 0, 0
    since: Version | None = None
    out_since: Version | None = None
    newest: Version | None = None
    ending_version: Version | None = None
    trouble: Trouble | None = None
    for phase in history:
        kind, versions = phase.kind, phase.versions
        first, last = versions[0], versions[-1]
        if kind in _DECISIVE:
            newest = last
            began = began or kind == START or (kind == HALT and any(version[2] > 0 for version in versions))
        if mode is _ENDED:
            if kind == DUE:
                passed = last[0]
        elif kind == START:
            if mode is not _ACTIVE or plan_id != phase.plan_id:
                since = first
            if trouble is not None and any(version[1] in _PAYMENTS for version in versions):
                trouble = None
            mode, in_force, until = _ACTIVE, True, 0
            plan_id, tier = phase.plan_id, phase.tier
        elif kind in (HALT, MOVED):
            mode, in_force, until, trouble, out_since = (_HALTED if kind == HALT else _MOVED), False, 0, None, last
        elif kind == PAUSE:
            if in_force:
                mode, in_force, until, trouble, out_since = _PAUSED, phase.at > 0, phase.at, None, first
        elif kind == PENDING:
            if mode is _ACTIVE and trouble is None:
                trouble = Trouble(first, phase.at, phase.reminders)
        elif kind == ENDING:
            coming_end, ending_version = phase.at, last
        else:
            for version in versions:
                passed = version[0]
                if coming_end and coming_end <= passed:
                    mode, in_force, until, trouble, out_since = _ENDED, False, 0, None, version
                    break
                if in_force and mode is _PAUSED and until <= passed:
                    in_force, until, out_since = False, 0, version
                elif trouble is not None and trouble.ends_at <= passed:
                    mode, in_force, trouble, out_since = _LAPSED, False, None, version
            passed = last[0]
    return State(
        mode,
        in_force,
        plan_id,
        tier,
        since if in_force else None,
        None if in_force else out_since,
        began,
        trouble,
        until,
        coming_end,
        passed,
        newest,
        ending_version,
    )
