"""The history of one subscription: its facts in the order of their versions, packed, and its state as a fold over them.

Facts arrive in any order. They are kept sorted, and what follows from them is always worked out from the first to the last, so that **any
order of arrival, with any duplicates, gives the same history and the same state**. Time passes by facts only: a fact of the kind ``DUE``
says "it is so late now".
"""

from bisect import insort
from collections.abc import Sequence
from enum import IntEnum
from functools import reduce
from operator import attrgetter
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from schemas.team_events import EVENT_RANK, SubscriptionEvent, Version

START: Final = 0
HALT: Final = 1
PAUSE: Final = 2
MOVED: Final = 3
PENDING: Final = 4
ENDING: Final = 5
DUE: Final = 6

# An activation in a history was paid for: any other is kept out of it.
_PAYMENTS: Final = (EVENT_RANK[SubscriptionEvent.ACTIVATED], EVENT_RANK[SubscriptionEvent.CHARGED])

MAX_FACTS: Final = 256
"""Facts that the history of one subscription holds: 21 years of monthly charges."""

KEPT_FACTS: Final = 224
"""Once there is one more, so many stay: the oldest are forgotten that the state does not need. A fact that arrives later than 200 others
may then find the start of another run."""


class Fact(msgspec.Struct, frozen=True, gc=False):
    """One fact about a subscription.

    ``plan_id`` and ``tier`` are those of a START; ``at`` is when a PAUSE takes effect (0: at once), the grace of a PENDING ends, or an
    ENDING comes, in Unix seconds; ``reminders`` are a PENDING's; ``email`` is the payer's, for the mail that a due record leads to.
    """

    kind: int
    version: Version
    plan_id: str = ""
    tier: int = 0
    at: int = 0
    reminders: tuple[int, ...] = ()
    email: str = ""


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
    """A subscription: its ``count`` facts, packed one after the other, the version of the newest, and the state that follows from them.

    Packed facts are few objects: the garbage collector has nothing to look at, and a row is written without looking at them.
    """

    history: bytes = b""
    count: int = 0
    newest: Version | None = None
    state: State = NEVER_SEEN

    def facts(self) -> list[Fact]:
        """Return the facts, oldest first."""
        return unpacked(self.history, self.count)

    def merged(self, fact: Fact) -> "Subscription":
        """Return the subscription with ``fact``; the same object when it holds that version already."""
        if self.newest is None or fact.version > self.newest:
            state = self.state
            return self.followed(packed([fact], state.plan_id, state.tier), 1, fact.version, advanced(state, fact))
        facts = self.facts()
        if any(known.version == fact.version for known in facts):
            return self
        insort(facts, fact, key=attrgetter("version"))
        return subscription_of(facts)

    def followed(self, later: bytes, count: int, newest: Version, state: State) -> "Subscription":
        """Return the subscription with ``count`` newer facts, packed, which lead to ``state``."""
        history, count = self.history + later, self.count + count
        if count <= MAX_FACTS:
            return Subscription(history, count, newest, state)
        return subscription_of(unpacked(history, count))


UNKNOWN: Final = Subscription()


def subscription_of(facts: Sequence[Fact]) -> Subscription:
    """Return the subscription that has these facts, which ascend by version; of too many, those that its state needs least are left out."""
    state = state_of(facts)
    facts = bounded(facts, state)
    return Subscription(packed(facts, "", 0), len(facts), facts[-1].version if facts else None, state)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[list[Any]]).decode


def packed(facts: Sequence[Fact], plan_id: str, tier: int) -> bytes:
    """Return facts packed one after the other: kind and version as MessagePack, and what else they say. A START names its plan and tier
    only where they are other ones than the last START's, which were ``plan_id`` and ``tier``."""
    items: list[tuple[Any, ...]] = []
    for fact in facts:
        kind, version = fact.kind, fact.version
        if kind == START:
            if fact.plan_id == plan_id and fact.tier == tier:
                items.append((START, *version))
            else:
                plan_id, tier = fact.plan_id, fact.tier
                items.append((START, *version, plan_id, tier))
        elif fact.at or fact.email:
            items.append((kind, *version, fact.at, fact.email, *fact.reminders))
        else:
            items.append((kind, *version))
    return joined(items)


def joined(items: Sequence[tuple[Any, ...]]) -> bytes:
    """Return MessagePack arrays one after the other, without one around them."""
    count = len(items)
    return _encode(items)[1 if count < 16 else 3 if count < 65_536 else 5 :]


def unpacked(history: bytes, count: int) -> list[Fact]:
    """Return the facts that ``packed`` made these bytes of."""
    plan_id, tier = "", 0
    facts: list[Fact] = []
    for kind, seconds, rank, paid_count, event_id, *rest in _decode(b"\xdd" + count.to_bytes(4) + history):
        version = (seconds, rank, paid_count, event_id)
        if kind == START:
            if rest:
                plan_id, tier = rest
            facts.append(Fact(START, version, plan_id, tier))
        elif rest:
            facts.append(Fact(kind, version, at=rest[0], email=rest[1], reminders=tuple(rest[2:])))
        else:
            facts.append(Fact(kind, version))
    return facts


def bounded(facts: Sequence[Fact], state: State) -> Sequence[Fact]:
    """Return ``facts``, or ``KEPT_FACTS`` of more than ``MAX_FACTS``: without the oldest that may go and leave the ``state`` as it is."""
    if len(facts) <= MAX_FACTS:
        return facts
    while (excess := len(facts) - KEPT_FACTS) > 0:
        for size in (excess, 1):
            shorter = next(
                (found for at in range(len(facts) - size) if state_of(found := [*facts[:at], *facts[at + size :]]) == state), None
            )
            if shorter is not None:
                break
        facts = facts[1:] if shorter is None else shorter
    return facts


def state_of(facts: Sequence[Fact]) -> State:
    """Work out the state: from the oldest fact to the newest."""
    return reduce(advanced, facts, NEVER_SEEN)


def advanced(state: State, fact: Fact) -> State:
    """Return the state after a newer fact."""
    kind, version = fact.kind, fact.version
    if kind == START:
        return _started(state, fact)
    if kind == DUE:
        return _passed(state, version)
    if kind == ENDING:
        if state.mode is _ENDED:
            return state
        return replace(state, coming_end=fact.at, ending_version=version, email=fact.email or state.email)
    if kind == PENDING:
        if state.mode is not _ACTIVE or state.trouble is not None:
            return state
        return replace(state, trouble=Trouble(version, fact.at, fact.reminders), email=fact.email or state.email)
    if kind == HALT and not state.began:
        state = replace(state, began=version[2] > 0)
    if state.mode is _ENDED or (kind == PAUSE and not state.in_force) or (kind == MOVED and state.mode is _MOVED):
        return replace(state, newest=version)  # of several moves, which may come in any order, the first took it away
    if kind == HALT:
        return _out(state, _HALTED, version, version)
    if kind == MOVED:
        return _out(state, _MOVED, version, version)
    if fact.at:
        return replace(state, mode=_PAUSED, until=fact.at, trouble=None, newest=version, email=fact.email or state.email)
    return _out(state, _PAUSED, version, version)


def _started(state: State, fact: Fact) -> State:
    version, trouble = fact.version, state.trouble
    if state.mode is _ENDED:
        return replace(state, plan_id=fact.plan_id, tier=fact.tier, began=True, newest=version)
    if trouble is not None and version[1] in _PAYMENTS:
        trouble = None
    same_run = state.mode is _ACTIVE and state.plan_id == fact.plan_id
    return active(state, fact.plan_id, fact.tier, state.since if same_run else version, trouble, version)


def active(state: State, plan_id: str, tier: int, since: Version | None, trouble: Trouble | None, newest: Version) -> State:
    """Return the state once a START has put the subscription in force, on this plan since ``since``."""
    return State(
        _ACTIVE, True, plan_id, tier, since, None, True, trouble, 0, state.coming_end, state.passed, newest, state.ending_version, state.email
    )  # fmt: skip


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
