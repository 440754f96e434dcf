"""A team's row: what is known of it, and its tier as a pure function of that.

Razorpay promises neither order nor single delivery, its times have whole seconds, and a team may hold several
subscriptions. So nothing here depends on the order of arrival: merging a fact is commutative, associative and
idempotent, and **any order of the same facts, with any duplicates, ends in the same row and the same tier**.

Every function takes a row and returns a row; nothing is changed in place, nothing reads a clock or a setting.
"""

from typing import Final, TypeVar

import msgspec

from agents.classify.history import (
    DUE,
    ENDING,
    HALT,
    MOVED,
    PAUSE,
    PENDING,
    START,
    UNKNOWN,
    Fact,
    State,
    Subscription,
)
from schemas.team_events import Version
from schemas.tiers import Tier

MAX_ENDED: Final = 256
"""Ended subscriptions a row remembers (id and version only), so that a late charge can not bring one back. Far more than
a team ever has; beyond it the oldest are forgotten, which keeps a row far below a record's size limit."""


class Claim(msgspec.Struct, frozen=True, array_like=True, gc=False, omit_defaults=True):
    """The newest ``onboarding.claimed``."""

    version: Version
    email: str
    tier: int | None = None
    user_id: str | None = None
    name: str | None = None


class Override(msgspec.Struct, frozen=True, array_like=True, gc=False, omit_defaults=True):
    """The newest ``admin.tier_changed``."""

    version: Version
    tier: int


class Import(msgspec.Struct, frozen=True, array_like=True, gc=False, omit_defaults=True):
    """The newest import of what another system knew of the team."""

    version: Version
    tier: int
    plan_id: str = ""
    subscription_id: str = ""
    email: str | None = None
    user_id: str | None = None


class Row(msgspec.Struct, frozen=True, gc=False):
    """Everything known of one team.

    ``live`` holds each subscription that has not been ended by a fact, ``ended`` the version of the end of each that
    has and that ever began, ``unstarted`` the same of those that never did (an abandoned checkout). ``service_ids`` is as
    ``agents.classify.service_ids`` writes it.
    """

    live: dict[str, Subscription] = {}
    ended: dict[str, Version] = {}
    paid: bool = False  # any subscription ever was
    override: Override | None = None
    claim: Claim | None = None
    imported: Import | None = None
    unstarted: dict[str, Version] = {}
    service_ids: bytes = b""

    def end_of(self, subscription_id: str) -> Version | None:
        """Return the version of the fact that ended the subscription, or None."""
        return self.ended.get(subscription_id) or self.unstarted.get(subscription_id)

    def state(self, subscription_id: str) -> State:
        """Return the state of a subscription that no fact has ended, also of one never seen."""
        return self.live.get(subscription_id, UNKNOWN).state


EMPTY: Final = Row()


class Standing(msgspec.Struct, frozen=True, gc=False):
    """What a row says of its team: the tier, since when (Unix seconds), and the subscription that governs, if one does."""

    tier: Tier
    since: int
    subscription_id: str | None


TIERS: Final = tuple(Tier)


def standing(row: Row, initial: Tier) -> Standing:
    """Return the team's tier: a pure function of the row (and of the tier that every team starts with).

    The newest subscription in force (by the start of its present run) and the admin override are compared and the later one wins, so
    that a renewal on an unchanged plan never undoes an override, and a plan change, a return or a new subscription does. With none in
    force: the override if it is later than the last end; else hobby if any subscription was ever paid; else the imported, the claimed,
    the initial tier.
    """
    governing_id: str | None = None
    governing: State | None = None
    since: Version | None = None
    end: Version | None = max(row.ended.values()) if row.ended else None
    for subscription_id, subscription in row.live.items():
        state = subscription.state
        if state.since is not None:
            if since is None or state.since > since:
                governing_id, governing, since = subscription_id, state, state.since
        elif state.began and state.out_since is not None and (end is None or state.out_since > end):
            end = state.out_since

    override, imported = row.override, row.imported
    if governing is not None and since is not None:
        if override is not None and override.version > since:
            return Standing(TIERS[override.tier], override.version[0], None)
        tier = governing.tier if imported is None else _billed_tier(imported, governing_id, governing)
        return Standing(TIERS[tier], since[0], governing_id)

    if override is not None and (end is None or override.version > end):
        return Standing(TIERS[override.tier], override.version[0], None)
    if row.paid:
        return Standing(Tier.HOBBY, end[0] if end else 0, None)
    if imported is not None:
        return Standing(TIERS[imported.tier], imported.version[0], None)
    if row.claim is not None and row.claim.tier is not None:
        return Standing(TIERS[row.claim.tier], row.claim.version[0], None)
    return Standing(initial, row.claim.version[0] if row.claim else 0, None)


def _billed_tier(imported: Import, subscription_id: str | None, subscription: State) -> int:
    """The plan's tier, or the imported one while the subscription is on the plan that the import names: what was agreed
    before tierstream came stays, whatever the plan is called today."""
    if imported.plan_id == subscription.plan_id and imported.subscription_id in ("", subscription_id):
        return imported.tier
    return subscription.tier


def any_in_force(row: Row) -> bool:
    """Whether any subscription is in force."""
    return any(subscription.state.in_force for subscription in row.live.values())


def merge_start(row: Row, subscription_id: str, version: Version, plan_id: str, tier: Tier, paid: bool) -> Row:
    """Merge "active on this plan": a charge, a paid activation, a change of plan, a return from a pause."""
    row = _merge_fact(row, subscription_id, Fact(START, version, plan_id, tier), paid)
    return _with_begun(row, subscription_id)


def merge_halt(row: Row, subscription_id: str, version: Version, paid: bool) -> Row:
    """Merge "halted": out of force until it is charged or activated again."""
    row = _merge_fact(row, subscription_id, Fact(HALT, version), paid)
    return _with_begun(row, subscription_id) if paid else row


def merge_pause(row: Row, subscription_id: str, version: Version, until: int, email: str) -> Row:
    """Merge "paused": out of force from ``until`` on (Unix seconds), or at once with 0."""
    return _merge_fact(row, subscription_id, Fact(PAUSE, version, at=until, email=email))


def merge_moved(row: Row, subscription_id: str, version: Version) -> Row:
    """Merge "moved to another team": out of force here until a newer fact puts it in force again."""
    return _merge_fact(row, subscription_id, Fact(MOVED, version))


def merge_pending(row: Row, subscription_id: str, version: Version, ends_at: int, reminders: tuple[int, ...], email: str) -> Row:
    """Merge "a payment failed", with the end of the grace that it may begin and the times to remind (Unix seconds)."""
    return _merge_fact(row, subscription_id, Fact(PENDING, version, at=ends_at, reminders=reminders, email=email))


def merge_ending(row: Row, subscription_id: str, version: Version, ends_at: int, email: str) -> Row:
    """Merge "completed, and paid up to ``ends_at``": the tier stays until then."""
    return _merge_fact(row, subscription_id, Fact(ENDING, version, at=ends_at, email=email))


def merge_due(row: Row, subscription_id: str, version: Version) -> Row:
    """Merge "the time of this version has passed"."""
    return _merge_fact(row, subscription_id, Fact(DUE, version))


def _merge_fact(row: Row, subscription_id: str, fact: Fact, paid: bool = False) -> Row:
    """Keep a fact of a subscription, unless that has ended."""
    paid = row.paid or paid
    if row.end_of(subscription_id) is None:
        old = row.live.get(subscription_id, UNKNOWN)
        new = old.merged(fact)
        if new is not old:
            live = {**row.live, subscription_id: new}
            return Row(live, row.ended, paid, row.override, row.claim, row.imported, row.unstarted, row.service_ids)
    return row if paid == row.paid else msgspec.structs.replace(row, paid=paid)


def merge_end(row: Row, subscription_id: str, version: Version, paid: bool) -> Row:
    """Merge "ended", which absorbs: nothing brings the subscription back, whatever its time."""
    began = paid or subscription_id in row.ended or row.state(subscription_id).began
    known = row.end_of(subscription_id)
    if known is not None:
        version = max(version, known)
    ended, unstarted = row.ended, row.unstarted
    if began:
        ended = _newest_ends({**ended, subscription_id: version})
        unstarted = _without(unstarted, subscription_id)
    else:
        unstarted = _newest_ends({**unstarted, subscription_id: version})
    return msgspec.structs.replace(row, live=_without(row.live, subscription_id), ended=ended, unstarted=unstarted, paid=row.paid or paid)


def _with_begun(row: Row, subscription_id: str) -> Row:
    """Return the row in which the end of this subscription, if it is known, counts: the subscription has begun."""
    version = row.unstarted.get(subscription_id)
    if version is None:
        return row
    ended = _newest_ends({**row.ended, subscription_id: version})
    return msgspec.structs.replace(row, ended=ended, unstarted=_without(row.unstarted, subscription_id))


def _newest_ends(ends: dict[str, Version]) -> dict[str, Version]:
    return ends if len(ends) <= MAX_ENDED else dict(sorted(ends.items(), key=lambda item: item[1])[-MAX_ENDED:])


_Value = TypeVar("_Value")


def _without(known: dict[str, _Value], key: str) -> dict[str, _Value]:
    return {each: value for each, value in known.items() if each != key} if key in known else known


def coming_times(row: Row) -> dict[str, tuple[int, ...]]:
    """Return the times at which something is to happen, in Unix seconds, by subscription."""
    return {subscription_id: times for subscription_id, subscription in row.live.items() if (times := subscription.state.coming_times())}


def first_fact_at(row: Row) -> int:
    """Return when the oldest fact happened that is known of the team's subscriptions, in Unix seconds; 0 without one."""
    firsts = [subscription.facts()[0].version for subscription in row.live.values()]
    return min((version[0] for version in (*firsts, *row.ended.values(), *row.unstarted.values())), default=0)


def merge_override(row: Row, override: Override) -> Row:
    """Merge an admin's decision."""
    return msgspec.structs.replace(row, override=_newest(row.override, override))


def merge_claim(row: Row, claim: Claim) -> Row:
    """Merge a claim."""
    return msgspec.structs.replace(row, claim=_newest(row.claim, claim))


def merge_import(row: Row, imported: Import) -> Row:
    """Merge an import; one that names a subscription also states that the subscription is active on its plan."""
    row = msgspec.structs.replace(row, imported=_newest(row.imported, imported))
    if imported.subscription_id:
        return merge_start(row, imported.subscription_id, imported.version, imported.plan_id, TIERS[imported.tier], True)
    return row


_Dated = TypeVar("_Dated", Override, Claim, Import)


def _newest(old: _Dated | None, new: _Dated) -> _Dated:
    return new if old is None or new.version > old.version else old
