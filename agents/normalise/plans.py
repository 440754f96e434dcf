"""The plan file and the other settings that normalise decides with: read at the start, and the plans again on SIGHUP.

A plan may be added at any time. One whose tier changes moves the teams on it with their next charges, and nobody but the log says so
beforehand.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import structlog

from agents.normalise.decide import Rules
from schemas.kinds import Kind
from schemas.tiers import parse_tier
from streams.errors import ConfigurationError
from streams.settings import Settings, load_plans

_log = structlog.get_logger(__name__)


class PlanChange(NamedTuple):
    """A plan that means another tier than before; ``emits`` is what the next charge of a team on it leads to."""

    plan_id: str
    former: str
    now: str
    emits: Kind


def load_rules(settings: Settings) -> Rules:
    """Return what normalise decides with under ``settings``. Raises ConfigurationError when the plan file is wrong."""
    assert settings.plans is not None  # ``Settings.require`` saw to it
    return Rules(
        load_plans(settings.plans),
        settings.razorpay_team_note,
        settings.adopt_subscriptions_created_before,
        settings.grace_days,
        settings.grace_reminders,
    )


def tiers_by_plan(rules: Rules) -> dict[str, str]:
    """Return each plan's tier by its name."""
    return {plan_id: tier.label for plan_id, tier in rules.plans.items()}


def changed_plans(former: Mapping[str, str], now: Mapping[str, str]) -> list[PlanChange]:
    """Return the plans that meant another tier before, by plan id. Pure. A plan that was added or removed is none of them."""
    found = []
    for plan_id in sorted(former.keys() & now.keys()):
        before, after = parse_tier(former[plan_id]), parse_tier(now[plan_id])
        if before is not None and after is not None and before != after:
            found.append(PlanChange(plan_id, before.label, after.label, Kind.UPGRADED if after > before else Kind.DOWNGRADED))
    return found


class PlanWarnings:
    """Warns of changed plans, of each change once a process: many partitions find the same."""

    def __init__(self) -> None:
        self._warned: set[PlanChange] = set()

    def warn(self, former: Mapping[str, str], now: Mapping[str, str]) -> None:
        """Log a warning for each plan whose tier differs, and was not warned of since it last changed."""
        for change in changed_plans(former, now):
            if change in self._warned:
                continue
            self._warned = {known for known in self._warned if known.plan_id != change.plan_id} | {change}
            _log.warning(
                "plan_changed",
                plan=change.plan_id,
                former_tier=change.former,
                tier=change.now,
                consequence=f"the next charge of each team on this plan emits {change.emits.value}",
            )


def read_again(rules: Rules, path: Path, warnings: PlanWarnings) -> Rules:
    """Return ``rules`` with the plans that the file holds now, and log how many they are.

    A file that is wrong is an error in the log, which names the file and what is wrong with it; ``rules`` are returned as they are.
    """
    try:
        plans = load_plans(path)
    except ConfigurationError as error:
        _log.error("plans_not_read", error=str(error), plans_in_force=len(rules.plans))
        return rules
    after = replace(rules, plans=plans)
    warnings.warn(tiers_by_plan(rules), tiers_by_plan(after))
    _log.info("plans_read", plans=len(plans), added=len(plans.keys() - rules.plans.keys()), removed=len(rules.plans.keys() - plans.keys()))
    return after
