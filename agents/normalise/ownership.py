"""Whose a subscription is over time: the facts by which teams have it, and what is emitted for the team that loses it. Pure.

A note that names another team gives the subscription to that team from then on, and so does an import. A *claim* is one fact that says
whose it is, at its version. Claims are kept in version order, so that any order of arrival ends with the same owner, and each team
that lost the subscription has a ``subscription.moved`` that is later than all its own facts.
"""

from bisect import insort
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from schemas.razorpay import TimeSource
from schemas.team_events import SubscriptionEvent, Version, starts

MAX_CLAIMS = 6
"""Claims that a row remembers. Facts come in disorder within a day or so, of which a subscription has a few."""

_ENDS = frozenset({SubscriptionEvent.HALTED, SubscriptionEvent.PAUSED, SubscriptionEvent.COMPLETED, SubscriptionEvent.CANCELLED})


class Claim(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A fact that says whose the subscription is, with what a ``subscription.moved`` repeats of it."""

    team_id: str
    occurred_at: int
    rank: int
    paid_count: int
    event_id: str
    time_source: TimeSource
    plan_id: str | None = None
    tier: str | None = None
    status: str | None = None

    @property
    def version(self) -> Version:
        """When it holds from, as classify orders facts."""
        return self.occurred_at, self.rank, self.paid_count, self.event_id


class Ownership(msgspec.Struct, frozen=True, gc=False):
    """Whose a subscription is: its claims in version order. ``learned`` is a team that something else than a claim named; it is
    asked for only while there is no claim."""

    claims: tuple[Claim, ...] = ()
    learned: str | None = None

    def team_at(self, version: Version) -> str | None:
        """Return whose the subscription was at ``version``, as far as is known: before the oldest claim, the first who had it."""
        claims = self.claims
        if not claims:
            return self.learned
        for claim in reversed(claims):
            if claim.version <= version:
                return claim.team_id
        return claims[0].team_id


class Moved(NamedTuple):
    """A team loses the subscription, by another team's claim."""

    loser: str
    claim: Claim


NOBODYS = Ownership()


def is_claim(event: SubscriptionEvent, paid_count: int, status: str | None, has_scheduled_changes: bool) -> bool:
    """Whether a fact says whose the subscription is from then on: it puts a plan in force, or ends, halts or pauses it.

    The others do not take it from a team: nobody would be left with the plan.
    """
    return event in _ENDS or starts(event, paid_count, status, has_scheduled_changes)


def learned(known: Ownership, team_id: str) -> Ownership:
    """Return the row with a team that an event named which is no claim. Claims say more."""
    return known if known.claims or known.learned == team_id else Ownership((), team_id)


def claimed(known: Ownership, claim: Claim) -> tuple[Ownership, Sequence[Moved]]:
    """Return the row with ``claim``, and who loses the subscription by what is new in it. A claim that is known changes nothing."""
    before = known.claims
    if before and before[-1].team_id == claim.team_id and before[-1].version < claim.version:
        # As is usual: the owner has it by one more fact, and whoever lost it to the owner has its ``subscription.moved``.
        return Ownership(_bounded((*before, claim))), ()
    if claim in before:
        return known, ()
    after = list(before)
    insort(after, claim, key=_order)
    kept = _bounded(tuple(after))
    row = known if kept == before else Ownership(kept)
    if all(each.team_id == claim.team_id for each in before):
        return row, ()
    emitted = _losses(before)
    return row, [moved for moved in _losses(after) if moved not in emitted]


def _order(claim: Claim) -> tuple[Version, str]:
    return claim.version, claim.team_id


def _losses(claims: Sequence[Claim]) -> list[Moved]:
    """Return, in order, who loses the subscription by which claim: for each claim the first of another team's that comes after it.

    A second belongs to the team of its last claim as a whole, for a ``subscription.moved`` comes after every other fact of its second.
    """
    winners = {claim.occurred_at: claim.team_id for claim in claims}
    firsts: dict[int, Claim] = {}
    for claim in claims:
        if winners[claim.occurred_at] == claim.team_id:
            firsts.setdefault(claim.occurred_at, claim)
    found: dict[Moved, None] = {}
    for claim in claims:
        later = (first for at, first in firsts.items() if at >= claim.occurred_at and first.team_id != claim.team_id)
        winner = next(later, None)
        if winner is not None:
            found[Moved(claim.team_id, winner)] = None
    return list(found)


def _bounded(claims: tuple[Claim, ...]) -> tuple[Claim, ...]:
    """Forget one claim where there is one too many: the oldest between two others of its team, else the oldest of all."""
    if len(claims) <= MAX_CLAIMS:
        return claims
    for number in range(1, len(claims) - 1):
        if claims[number - 1].team_id == claims[number].team_id == claims[number + 1].team_id:
            return claims[:number] + claims[number + 1 :]
    return claims[1:]
