"""A team's row: last-writer-wins registers, and the tier as a pure function of them.

Razorpay promises neither order nor single delivery, its times have whole seconds, and a team may hold several
subscriptions. So nothing here depends on the order of arrival: merging a fact is commutative, associative and
idempotent, and **any order of the same facts, with any duplicates, ends in the same row and the same tier**.

Every function takes a row and returns a row; nothing is changed in place, nothing reads a clock or a setting.
"""

from typing import Final, TypeVar

import msgspec

from schemas.tiers import Tier

Version = tuple[int, int, int, str]
"""When a fact happened: (Unix seconds, rank within the second, paid count or microseconds, id of the event). Total, so
that two different events are never equal and the same event always is."""

ACTIVE: Final = 1
HALTED: Final = 2

MAX_ENDED: Final = 256
"""Ended subscriptions a row remembers (id and version only), so that a late charge can not bring one back. Far more than
a team ever has; beyond it the oldest are forgotten, which keeps a row far below a record's size limit."""


class Subscription(msgspec.Struct, frozen=True, array_like=True, gc=False, omit_defaults=True):
    """The registers of one subscription that has not ended."""

    status: int = 0  # ACTIVE, HALTED, or 0 while only its coming end is known
    status_version: Version | None = None
    plan_id: str = ""
    plan_tier: int = 0
    plan_version: Version | None = None  # only while it is not active: when it is, the status' version is the plan's too
    first_seen: dict[str, Version] = {}  # plan id → the first version that had it
    ends_at: int = 0  # Unix seconds; completed, but paid up to then

    @property
    def newest_on_plan(self) -> Version | None:
        """The version of the newest fact that said the plan. One that says "active" says the plan as well, so that nothing newer than
        the status' version ever does."""
        return self.status_version if self.status == ACTIVE else self.plan_version

    @property
    def in_force_since(self) -> Version:
        """The first version of the present plan."""
        return self.first_seen[self.plan_id]


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


class Row(msgspec.Struct, frozen=True, array_like=True, gc=False, omit_defaults=True):
    """Everything known of one team."""

    live: dict[str, Subscription] = {}
    ended: dict[str, Version] = {}  # subscription id → version of its end
    paid: bool = False  # any subscription ever was
    override: Override | None = None
    claim: Claim | None = None
    imported: Import | None = None


EMPTY: Final = Row()
_NO_SUBSCRIPTION: Final = Subscription()


class Standing(msgspec.Struct, frozen=True, gc=False):
    """What a row says of its team: the tier, since when (Unix seconds), and the subscription that governs, if one does."""

    tier: Tier
    since: int
    subscription_id: str | None


TIERS: Final = tuple(Tier)


def standing(row: Row, initial: Tier) -> Standing:
    """Return the team's tier: a pure function of the row (and of the tier that every team starts with).

    The newest active subscription (by the first version of its present plan) and the admin override are compared and the
    later one wins, so that a renewal on an unchanged plan never undoes an override, and a plan change or a new
    subscription does. With no active subscription: the override if it is later than the last end; else hobby if any
    subscription was ever paid; else the imported, the claimed, the initial tier.
    """
    governing_id: str | None = None
    governing: Subscription | None = None
    since: Version | None = None
    for subscription_id, subscription in row.live.items():
        if subscription.status == ACTIVE:
            first = subscription.first_seen[subscription.plan_id]
            if since is None or first > since:
                governing_id, governing, since = subscription_id, subscription, first

    override, imported = row.override, row.imported
    if governing is not None and since is not None:
        if override is not None and override.version > since:
            return Standing(TIERS[override.tier], override.version[0], None)
        tier = governing.plan_tier if imported is None else _billed_tier(imported, governing_id, governing)
        return Standing(TIERS[tier], since[0], governing_id)

    end = last_end(row)
    if override is not None and (end is None or override.version > end):
        return Standing(TIERS[override.tier], override.version[0], None)
    if row.paid:
        return Standing(Tier.HOBBY, end[0] if end else 0, None)
    if imported is not None:
        return Standing(TIERS[imported.tier], imported.version[0], None)
    if row.claim is not None and row.claim.tier is not None:
        return Standing(TIERS[row.claim.tier], row.claim.version[0], None)
    return Standing(initial, row.claim.version[0] if row.claim else 0, None)


def _billed_tier(imported: Import, subscription_id: str | None, subscription: Subscription) -> int:
    """The plan's tier, or the imported one while the subscription is on the plan that the import names: what was agreed
    before tierstream came stays, whatever the plan is called today."""
    if imported.plan_id == subscription.plan_id and imported.subscription_id in ("", subscription_id):
        return imported.tier
    return subscription.plan_tier


def last_end(row: Row) -> Version | None:
    """Return when a subscription last ended or was halted, or None when none did."""
    ends = [*row.ended.values(), *(s.status_version for s in row.live.values() if s.status == HALTED and s.status_version)]
    return max(ends, default=None)


def has_active(row: Row) -> bool:
    """Whether any subscription is active. One that is always has a plan."""
    return any(s.status == ACTIVE for s in row.live.values())


def merge_active(row: Row, subscription_id: str, version: Version, plan_id: str, tier: Tier, paid: bool) -> Row:
    """Merge "active on this plan": a charge, a paid activation, a change of plan."""
    paid = row.paid or paid
    if subscription_id in row.ended:
        return _with_paid(row, paid)
    old = row.live.get(subscription_id, _NO_SUBSCRIPTION)
    first_seen = old.first_seen
    first = first_seen.get(plan_id)
    if first is None or first > version:
        first_seen = {**first_seen, plan_id: version}
    if old.status_version is None or version > old.status_version:
        new = Subscription(ACTIVE, version, plan_id, tier, None, first_seen, old.ends_at)
    elif old.status == HALTED and (old.plan_version is None or version > old.plan_version):
        new = Subscription(HALTED, old.status_version, plan_id, tier, version, first_seen, old.ends_at)
    elif first_seen is not old.first_seen:
        new = msgspec.structs.replace(old, first_seen=first_seen)
    else:
        return _with_paid(row, paid)
    return Row({**row.live, subscription_id: new}, row.ended, paid, row.override, row.claim, row.imported)


def _with_paid(row: Row, paid: bool) -> Row:
    return row if paid == row.paid else msgspec.structs.replace(row, paid=paid)


def merge_halted(row: Row, subscription_id: str, version: Version, paid: bool) -> Row:
    """Merge "halted": out of force until it is charged or activated again."""
    paid = row.paid or paid
    old = row.live.get(subscription_id, _NO_SUBSCRIPTION)
    if subscription_id in row.ended or (old.status_version is not None and version <= old.status_version):
        return _with_paid(row, paid)
    new = msgspec.structs.replace(old, status=HALTED, status_version=version, plan_version=old.newest_on_plan)
    return msgspec.structs.replace(row, live={**row.live, subscription_id: new}, paid=paid)


def merge_ended(row: Row, subscription_id: str, version: Version, paid: bool) -> Row:
    """Merge "ended", which absorbs: nothing brings the subscription back, whatever its time."""
    known = row.ended.get(subscription_id)
    ended = row.ended if known is not None and known >= version else {**row.ended, subscription_id: version}
    if len(ended) > MAX_ENDED:
        ended = dict(sorted(ended.items(), key=lambda item: item[1])[-MAX_ENDED:])
    live = {key: value for key, value in row.live.items() if key != subscription_id}
    return msgspec.structs.replace(row, live=live, ended=ended, paid=row.paid or paid)


def merge_coming_end(row: Row, subscription_id: str, ends_at: int) -> Row:
    """Merge "completed, and paid up to ``ends_at``": the tier stays until then."""
    if subscription_id in row.ended:
        return row
    old = row.live.get(subscription_id, _NO_SUBSCRIPTION)
    new = msgspec.structs.replace(old, ends_at=max(old.ends_at, ends_at))
    return msgspec.structs.replace(row, live={**row.live, subscription_id: new})


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
        return merge_active(row, imported.subscription_id, imported.version, imported.plan_id, TIERS[imported.tier], True)
    return row


_Dated = TypeVar("_Dated", Override, Claim, Import)


def _newest(old: _Dated | None, new: _Dated) -> _Dated:
    return new if old is None or new.version > old.version else old


_FORMAT = b"\x02"
_FIRST_FORMAT = b"\x01"
"""As now, but with the plan's version beside an active status too."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Row).decode


def pack(row: Row) -> bytes:
    """Return the row as it stands in memory and in the changelog: a format byte, then MessagePack."""
    return _FORMAT + _encode(row)


def unpack(packed: bytes) -> Row:
    """Return the row that ``pack`` made, of this version or the one before. Raises ValueError for another format."""
    row_format = packed[:1]
    if row_format == _FORMAT:
        return _decode(memoryview(packed)[1:])
    if row_format == _FIRST_FORMAT:
        return _without_repeated_versions(_decode(memoryview(packed)[1:]))
    raise ValueError(f"row format {row_format.hex()} is unknown; this version reads {_FIRST_FORMAT.hex()} and {_FORMAT.hex()}")


def _without_repeated_versions(row: Row) -> Row:
    live = {key: msgspec.structs.replace(each, plan_version=None) if each.status == ACTIVE else each for key, each in row.live.items()}
    return msgspec.structs.replace(row, live=live)
