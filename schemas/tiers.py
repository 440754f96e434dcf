"""The tier ladder. The only place that ranks tiers."""

from enum import IntEnum


class Tier(IntEnum):
    """A team's tier; the value is its rank, so tiers compare with ``<``."""

    ANONYMOUS = 0
    FREE = 1
    HOBBY = 2
    HOBBY_PLUS = 3
    PRO = 4
    GROWTH = 5
    TEAM = 6

    @property
    def label(self) -> str:
        """The name used on topics, in rows and in mails: ``hobby_plus``."""
        return LABELS[self]


LABELS: tuple[str, ...] = tuple(tier.name.lower() for tier in Tier)
"""Tier names by rank."""

_BY_NAME: dict[str, Tier] = {tier.name.lower(): tier for tier in Tier}
_YEARLY = "_yearly"


def parse_tier(name: object) -> Tier | None:
    """Return the tier that ``name`` means, or None for an unknown name.

    Case and surrounding spaces do not count and ``_yearly`` folds to the bare tier. An unknown name has no rank:
    callers park the event, they never guess.
    """
    if not isinstance(name, str):
        return None
    folded = name.strip().lower()
    return _BY_NAME.get(folded.removesuffix(_YEARLY))
