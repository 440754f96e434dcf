"""What Razorpay says of a subscription now, against what its team's row says: whether they agree, and which webhook would mend it. Pure.

| Razorpay's status | agrees with | else |
| --- | --- | --- |
| active, paid | in force, on the same plan | activated |
| pending, paid | in force on the same plan, or out of it since its grace ended | activated, if it was never seen |
| halted | out of force | halted |
| paused | out of force, or paused | paused |
| cancelled, completed | an end, a coming end, or never seen | the same |
| created, authenticated, expired, or nothing was paid yet | out of force | nothing |

**When it happened.** The API gives the state, and not since when. The webhook gets the latest of the entity's own times that lie in the past, and
at least one second after the newest fact that is known of the subscription: so it counts more than what is known, and whatever Razorpay
sends later, or sent in between and comes late, counts more than it. Where a fact is known that is as new as the reading itself, nothing is fed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from agents.classify.history import UNKNOWN, Mode
from agents.classify.registers import Row
from schemas.team_events import SubscriptionEvent

JsonObject = Mapping[str, Any]


class Problem(StrEnum):
    """How a subscription differs."""

    MISSING = "missing"
    OUT_OF_FORCE = "out_of_force"
    OTHER_PLAN = "other_plan"
    STILL_IN_FORCE = "still_in_force"
    NOT_ENDED = "not_ended"
    ENDED_HERE = "ended_here"
    NOT_STARTED = "not_started"
    UNKNOWN_STATUS = "unknown_status"


class Obstacle(StrEnum):
    """Why a difference is not mended with a webhook."""

    UNKNOWN_TEAM = "unknown_team"
    UNKNOWN_PLAN = "unknown_plan"
    CHANGED_MEANWHILE = "changed_meanwhile"
    NO_EVENT = "no_event"


@dataclass(frozen=True, slots=True)
class Entity:
    """A subscription as the API gives it. ``times`` are its times that say when something happened, in Unix seconds."""

    subscription_id: str
    status: str
    plan_id: str | None
    is_paid: bool
    ended_at: int | None
    times: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Ours:
    """What a team's row says of a subscription. ``newest`` is when the newest fact of it happened, 0 where none is known."""

    in_force: bool = False
    plan_id: str | None = None
    mode: Mode = Mode.NONE
    is_ended: bool = False
    ends_later: bool = False
    newest: int = 0

    @property
    def is_known(self) -> bool:
        """Whether any fact of it is."""
        return self.is_ended or self.newest > 0 or self.in_force

    @property
    def state(self) -> str:
        """In a word."""
        if self.is_ended:
            return "ended"
        if not self.is_known:
            return "never seen"
        return "in force" if self.in_force else "out of force"


@dataclass(frozen=True, slots=True)
class Drift:
    """One subscription that differs, and the webhook that would mend it (``event`` and ``at``), or the obstacle."""

    subscription_id: str
    team_id: str | None
    status: str
    plan_id: str | None
    problem: Problem
    ours: Ours
    event: SubscriptionEvent | None = None
    at: int = 0
    obstacle: Obstacle | None = None


_HAPPENED: Final = ("created_at", "start_at", "current_start", "current_end", "ended_at", "paused_at", "cancelled_at")
_ENDS: Final = {"cancelled": SubscriptionEvent.CANCELLED, "completed": SubscriptionEvent.COMPLETED}


def read_entity(entity: JsonObject) -> Entity:
    """Return what is compared of an entity; what can not be read as what it should be counts as absent."""
    times = tuple(at for name in _HAPPENED if (at := _seconds(entity.get(name))) is not None)
    plan_id, status = entity.get("plan_id"), entity.get("status")
    return Entity(
        subscription_id=str(entity["id"]),
        status=status if isinstance(status, str) else "",
        plan_id=plan_id if isinstance(plan_id, str) and plan_id else None,
        is_paid=(_seconds(entity.get("paid_count")) or 0) > 0,
        ended_at=_seconds(entity.get("ended_at")),
        times=times,
    )


def _seconds(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None


def ours_of(row: Row | None, subscription_id: str) -> Ours:
    """Return what a row says of a subscription."""
    if row is None:
        return Ours()
    end = row.end_of(subscription_id)
    if end is not None:
        return Ours(is_ended=True, newest=end[0], mode=Mode.ENDED)
    subscription = row.live.get(subscription_id, UNKNOWN)
    state = subscription.state
    newest = subscription.newest
    return Ours(
        state.in_force, state.plan_id or None, state.mode, state.mode is Mode.ENDED, bool(state.coming_end), newest[0] if newest else 0
    )


def compare(entity: Entity, team_id: str | None, ours: Ours, plans: Mapping[str, object], read_at: int) -> Drift | None:
    """Return how a subscription differs, or None. ``read_at`` is when the reading of the API began, in Unix seconds."""
    found = _difference(entity, ours)
    if found is None:
        return None
    problem, event = found
    at = _time(entity, ours, event, read_at)
    obstacle: Obstacle | None = None
    if event is None:
        obstacle = Obstacle.NO_EVENT
    elif team_id is None:
        obstacle = Obstacle.UNKNOWN_TEAM
    elif event is SubscriptionEvent.ACTIVATED and entity.plan_id not in plans:
        obstacle = Obstacle.UNKNOWN_PLAN
    elif at > read_at:
        obstacle = Obstacle.CHANGED_MEANWHILE
    if obstacle is not None:
        event, at = None, 0
    return Drift(entity.subscription_id, team_id, entity.status, entity.plan_id, problem, ours, event, at, obstacle)


def _difference(entity: Entity, ours: Ours) -> tuple[Problem, SubscriptionEvent | None] | None:
    match entity.status:
        case "active" | "pending" if entity.is_paid:
            return _in_force(entity, ours)
        case "halted":
            return (Problem.STILL_IN_FORCE, SubscriptionEvent.HALTED) if ours.in_force else None
        case "paused":
            return (Problem.STILL_IN_FORCE, SubscriptionEvent.PAUSED) if ours.in_force and ours.mode is not Mode.PAUSED else None
        case "cancelled" | "completed":
            agrees = ours.is_ended or not ours.is_known or ours.ends_later
            return None if agrees else (Problem.NOT_ENDED, _ENDS[entity.status])
        case "active" | "pending" | "created" | "authenticated" | "expired":
            return (Problem.NOT_STARTED, None) if ours.in_force else None
        case _:
            return Problem.UNKNOWN_STATUS, None


def _in_force(entity: Entity, ours: Ours) -> tuple[Problem, SubscriptionEvent | None] | None:
    is_active = entity.status == "active"
    if ours.is_ended:
        return Problem.ENDED_HERE, None  # an end is never undone
    if not ours.is_known:
        return Problem.MISSING, SubscriptionEvent.ACTIVATED
    # A payment of a pending one is still due: an activation, which counts as a payment, would say that it was made good.
    mend = SubscriptionEvent.ACTIVATED if is_active else None
    if not ours.in_force:
        return None if not is_active and ours.mode is Mode.LAPSED else (Problem.OUT_OF_FORCE, mend)
    return (Problem.OTHER_PLAN, mend) if entity.plan_id != ours.plan_id else None


def _time(entity: Entity, ours: Ours, event: SubscriptionEvent | None, read_at: int) -> int:
    if event in _ENDS.values() and entity.ended_at is not None and entity.ended_at <= read_at:
        return entity.ended_at  # an end counts whatever its time
    past = max((at for at in entity.times if at <= read_at), default=0)
    return max(past, ours.newest + 1)
