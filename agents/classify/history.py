"""The history of one subscription: its facts in the order of their versions, and its state as a fold over them.

Facts arrive in any order. They are kept sorted, and what follows from them is always worked out from the first to the last, so that **any
order of arrival, with any duplicates, gives the same history and the same state**. Time passes by facts only: a fact of the kind ``DUE``
says "it is so late now".
"""

from bisect import insort
from collections.abc import Sequence
from enum import IntEnum
from functools import reduce
from typing import Final

import msgspec
from msgspec.structs import replace

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
# An activation in a history was paid for: any other is kept out of it.
_PAYMENTS: Final = (EVENT_RANK[SubscriptionEvent.ACTIVATED], EVENT_RANK[SubscriptionEvent.CHARGED])

MAX_FACTS = 256
"""Facts that the history of one subscription holds: 21 years of monthly charges. Beyond it the oldest are forgotten that its state does not
need; a fact that arrives later than 256 others may then find the start of another run."""


class Phase(msgspec.Struct, frozen=True, array_like=True, gc=False, omit_defaults=True):
    """Facts, next to each other in the history, that say the same. ``versions`` ascend.

    ``plan_id`` and ``tier`` are those of a START; ``at`` is when a PAUSE takes effect (0: at once), the grace of a PENDING ends, or an
    ENDING comes, in Unix seconds; ``reminders`` are a PENDING's; ``email`` is the payer's, for the mail that a due record leads to. A
    fact alone is a phase of one version.
    """

    kind: int
    versions: tuple[Version, ...]
    plan_id: str = ""
    tier: int = 0
    at: int = 0
    reminders: tuple[int, ...] = ()
    email: str = ""

    def says_the_same(self, other: "Phase") -> bool:
        """Whether the facts of both are alike but for their versions."""
        return (
            self.kind == other.kind
            and self.plan_id == other.plan_id
            and self.tier == other.tier
            and self.at == other.at
            and self.reminders == other.reminders
            and self.email == other.email
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
    ``ending_version`` the newest that named its coming end. ``email`` is the payer's, from the newest fact that waits for a time.
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
    email: str = ""

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


class Subscription(msgspec.Struct, frozen=True, gc=False):
    """A subscription: its history, how many facts that holds, and the state that follows from it."""

    history: History = ()
    state: State = NEVER_SEEN
    facts: int = 0

    def holds(self, version: Version) -> bool:
        """Whether the history holds the fact with this version."""
        history = self.history
        if not history or version > history[-1].versions[-1]:
            return False
        return any(phase.versions[0] <= version <= phase.versions[-1] and version in phase.versions for phase in history)

    def merged(self, fact: Phase) -> "Subscription":
        """Return the subscription with ``fact``, a phase of one version; the same object when it holds that version already."""
        (version,) = fact.versions
        history = self.history
        if not history or version > history[-1].versions[-1]:
            return self.followed_by(fact, advanced(self.state, fact))
        if self.holds(version):
            return self
        facts = _facts(history)
        insort(facts, (version, fact), key=lambda pair: pair[0])
        return subscription_of(bounded(_grouped(facts)))

    def started(self, phases: Sequence[Phase], since: Version) -> "Subscription":
        """Return the subscription, which is active and without trouble, with newer starts; ``since`` is when the last run of them began."""
        history, facts = (*followed(self.history, phases[0]), *phases[1:]), self.facts + sum([len(phase.versions) for phase in phases])
        if facts > MAX_FACTS:
            return subscription_of(bounded(history))
        state, last = self.state, phases[-1]
        new = State(
            _ACTIVE, True, last.plan_id, last.tier, since, None, True, None, 0,
            state.coming_end, state.passed, last.versions[-1], state.ending_version, state.email,
        )  # fmt: skip
        return Subscription(history, new, facts)

    def followed_by(self, later: Phase, state: State) -> "Subscription":
        """Return the subscription with a phase of newer facts, which lead to ``state``."""
        history, facts = followed(self.history, later), self.facts + len(later.versions)
        return Subscription(history, state, facts) if facts <= MAX_FACTS else subscription_of(bounded(history))


UNKNOWN: Final = Subscription()


def subscription_of(history: History) -> Subscription:
    """Return the subscription that has this history."""
    return Subscription(history, state_of(history), sum([len(phase.versions) for phase in history]))


def followed(history: History, later: Phase) -> History:
    """Return the history with a phase of later facts behind it."""
    if history and history[-1].says_the_same(later):
        return (*history[:-1], replace(later, versions=history[-1].versions + later.versions))
    return (*history, later)


def _grouped(facts: list[tuple[Version, Phase]]) -> History:
    groups: list[tuple[Phase, list[Version]]] = []
    for version, phase in facts:
        if groups and groups[-1][0].says_the_same(phase):
            groups[-1][1].append(version)
        else:
            groups.append((phase, [version]))
    return tuple(replace(phase, versions=tuple(versions)) for phase, versions in groups)


def bounded(history: History) -> History:
    """Return the history without its oldest facts beyond ``MAX_FACTS``, of those that its state does not need."""
    excess = sum([len(phase.versions) for phase in history]) - MAX_FACTS
    if excess <= 0:
        return history
    state = state_of(history)
    while excess > 0:
        history, forgotten = _without_oldest(history, excess, state)
        excess -= forgotten
    return history


def _without_oldest(history: History, most: int, state: State) -> tuple[History, int]:
    """Return the history without up to ``most`` facts that stand together, the oldest that leave the state as it is, and how many."""
    for at, phase in enumerate(history):
        versions = phase.versions
        for first in range(min(2, len(versions))):
            last = min(first + most, max(len(versions) - 1, first + 1))
            shorter = _grouped(
                [*_facts(history[:at]), *((v, phase) for v in versions[:first] + versions[last:]), *_facts(history[at + 1 :])]
            )
            if state_of(shorter) == state:
                return shorter, last - first
    return _grouped(_facts(history)[1:]), 1


def _facts(history: History) -> list[tuple[Version, Phase]]:
    return [(version, phase) for phase in history for version in phase.versions]


def state_of(history: History) -> State:
    """Work out the state: from the oldest fact to the newest."""
    return reduce(advanced, history, NEVER_SEEN)


def advanced(state: State, phase: Phase) -> State:
    """Return the state after a phase of newer facts."""
    kind, last = phase.kind, phase.versions[-1]
    if kind == START:
        return _started(state, phase)
    if kind == DUE:
        for version in phase.versions:
            state = _passed(state, version)
        return state
    if kind == ENDING:
        return state if state.mode is _ENDED else replace(state, coming_end=phase.at, ending_version=last, email=phase.email or state.email)
    if kind == PENDING:
        if state.mode is not _ACTIVE or state.trouble is not None:
            return state
        trouble = Trouble(phase.versions[0], phase.at, phase.reminders)
        return replace(state, trouble=trouble, email=phase.email or state.email)
    if kind == HALT and not state.began:
        state = replace(state, began=any(version[2] > 0 for version in phase.versions))
    if state.mode is _ENDED or (kind == PAUSE and not state.in_force) or (kind == MOVED and state.mode is _MOVED):
        return replace(state, newest=last)
    if kind == HALT:
        return _out(state, _HALTED, last, last)
    if kind == MOVED:  # several, of one move, may come in any order: it was away from the first on
        return _out(state, _MOVED, phase.versions[0], last)
    if phase.at:
        return replace(state, mode=_PAUSED, until=phase.at, trouble=None, newest=last, email=phase.email or state.email)
    return _out(state, _PAUSED, phase.versions[0], last)


def _started(state: State, phase: Phase) -> State:
    last, trouble = phase.versions[-1], state.trouble
    if state.mode is _ENDED:
        return replace(state, began=True, newest=last)
    same_run = state.mode is _ACTIVE and state.plan_id == phase.plan_id
    if trouble is not None and any(version[1] in _PAYMENTS for version in phase.versions):
        trouble = None
    return State(
        mode=_ACTIVE,
        in_force=True,
        plan_id=phase.plan_id,
        tier=phase.tier,
        since=state.since if same_run else phase.versions[0],
        began=True,
        trouble=trouble,
        coming_end=state.coming_end,
        passed=state.passed,
        newest=last,
        ending_version=state.ending_version,
        email=state.email,
    )


def _passed(state: State, version: Version) -> State:
    """Return the state once the time of ``version`` has passed."""
    time = version[0]
    if state.mode is not _ENDED:
        if state.coming_end and state.coming_end <= time:
            state = _out(state, _ENDED, version, state.newest)
        elif state.in_force and state.mode is _PAUSED and state.until <= time:
            state = _out(state, _PAUSED, version, state.newest)
        elif state.trouble is not None and state.trouble.ends_at <= time:
            state = _out(state, _LAPSED, version, state.newest)
    return replace(state, passed=time)


def _out(state: State, mode: Mode, since: Version, newest: Version | None) -> State:
    return replace(state, mode=mode, in_force=False, since=None, out_since=since, until=0, trouble=None, newest=newest)
