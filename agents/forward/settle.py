"""Decide which mails of one team belong together: changes of its tier that settle, grace periods that end well, and its one welcome. Pure.

A window begins with a change and takes in what follows of the team for so many seconds of its records' timestamps. Of the changes in it
one mail is left, with the ``from`` of the first and the id of the last; none when they cancel each other out.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from agents.audit.record import AuditRecord
from schemas.kinds import TRANSITIONS, Kind
from schemas.tiers import Tier, parse_tier
from streams.stores.ledger import Classification

NO_NET_CHANGE = "settled: no net change"
RECOVERED_AT_ONCE = "settled: the payment recovered"

CHANGES = TRANSITIONS | {Kind.ADMIN_TIER_CHANGED}
"""The kinds whose mails settle. What ends a grace period is a mail of its own: it says that a payment failed for good."""

_GRACE = frozenset({Kind.GRACE_STARTED, Kind.GRACE_REMINDER, Kind.GRACE_RECOVERED})


@dataclass(frozen=True, slots=True)
class Change:
    """One audit event of a team, with the timestamp of its record in seconds. ``row`` is what the ledger says of its mail, if it does."""

    event: AuditRecord
    at: float
    row: str | None = None


@dataclass(frozen=True, slots=True)
class Mail:
    """This event is mailed, as it is or as the net change that it completes. Its record's place and id are those of ``event``."""

    event: AuditRecord


@dataclass(frozen=True, slots=True)
class Suppress:
    """No mail; ``why`` is for the ledger."""

    event: AuditRecord
    why: str


def settles(event: AuditRecord) -> bool:
    """Whether the mail of this event waits for what follows."""
    return event.team_id is not None and (_tiers(event) is not None or event.kind is Kind.GRACE_STARTED)


def window(events: Sequence[Change], seconds: float) -> tuple[int, ...]:
    """Return which of ``events``, by their places, belong to the window that the first begins.

    Changes of the tier belong to one that a change begins; the same grace period's events to one that its start begins.
    """
    first = events[0]
    end = first.at + seconds
    if first.event.kind is Kind.GRACE_STARTED:
        own = _subscription(first.event)
        return tuple(
            place
            for place, each in enumerate(events)
            if each.at <= end and each.event.kind in _GRACE and (place == 0 or _subscription(each.event) == own)
        )
    return tuple(place for place, each in enumerate(events) if each.at <= end and _tiers(each.event) is not None)


def settle(group: Sequence[Change]) -> list[Mail | Suppress]:
    """Return what becomes of each event of one window: the mail ahead of what is suppressed for it.

    A mail that may have gone out already stays what it is, and ends its part of the window: after a crash the same mails come out,
    also where more of the window can be read by then.
    """
    decisions: list[Mail | Suppress] = []
    part: list[Change] = []
    for each in group:
        part.append(each)
        if each.row is not None and each.row != Classification.SUPPRESSED:
            decisions += _settle_part(part)
            part = []
    return decisions + _settle_part(part)


def _settle_part(part: Sequence[Change]) -> list[Mail | Suppress]:
    if not part:
        return []
    last = part[-1]
    is_open = last.row in (None, Classification.SUPPRESSED)
    if part[0].event.kind in _GRACE:
        if is_open and (part[0].event.kind, last.event.kind) == (Kind.GRACE_STARTED, Kind.GRACE_RECOVERED):
            return [Suppress(each.event, RECOVERED_AT_ONCE) for each in part]
        return [Mail(each.event) for each in part]
    if len(part) == 1:
        return [Mail(last.event)]
    net = net_change(part[0].event, last.event)
    if net is None and is_open:
        return [Suppress(each.event, NO_NET_CHANGE) for each in part]
    return [Mail(net or last.event), *(Suppress(each.event, f"settled into {last.event.id}") for each in part[:-1])]


def net_change(first: AuditRecord, last: AuditRecord) -> AuditRecord | None:
    """Return ``last`` as the change from where ``first`` began, of the kind that fits its direction; None when the tier is the same again.

    What an admin did last stays what an admin did.
    """
    begun, ended = _tiers(first), _tiers(last)
    assert begun is not None
    assert ended is not None
    before, after = begun[0], ended[1]
    if before == after:
        return None
    kind = last.kind
    if kind in TRANSITIONS:
        if after > before:
            kind = Kind.UPGRADED
        elif kind is Kind.UPGRADED:
            kind = Kind.DOWNGRADED
    metadata = {**last.data.metadata, "from": first.data.metadata["from"]}
    return replace(last, kind=kind, data=last.data.model_copy(update={"metadata": metadata}))


def welcome(event: AuditRecord, row: str | None, welcomes: Mapping[uuid.UUID, uuid.UUID]) -> Mail | Suppress:
    """Return whether a claim is mailed: only a team's first. ``welcomes`` is by team which claim's mail went out, or may have."""
    earlier = welcomes.get(event.team_id) if event.team_id is not None else None
    if row is None and earlier is not None and earlier != event.id:
        return Suppress(event, f"the team was welcomed by {earlier}")
    return Mail(event)


def _tiers(event: AuditRecord) -> tuple[Tier, Tier] | None:
    """From which tier to which a change goes; None for what is none, or does not say."""
    if event.kind not in CHANGES:
        return None
    before, after = parse_tier(event.data.metadata.get("from")), parse_tier(event.data.metadata.get("to"))
    return None if before is None or after is None else (before, after)


def _subscription(event: AuditRecord) -> object:
    return event.data.metadata.get("subscription_id")
