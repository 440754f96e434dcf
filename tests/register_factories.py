"""Rows built register by register. Versions are (second, rank, count, id)."""

from agents.classify.registers import (
    EMPTY,
    Claim,
    Import,
    Override,
    Row,
    merge_claim,
    merge_end,
    merge_ending,
    merge_halt,
    merge_import,
    merge_override,
    merge_start,
)
from schemas.team_events import Version
from schemas.tiers import Tier


def at(second: int, rank: int = 3, count: int = 1, name: str = "evt_1") -> Version:
    return (second, rank, count, name)


def active(row: Row, second: int, subscription: str = "A", plan: str = "plan_pro", tier: Tier = Tier.PRO, *, paid: bool = True) -> Row:
    return merge_start(row, subscription, at(second), plan, tier, paid=paid)


def halted(row: Row, second: int, subscription: str = "A", *, paid: bool = True) -> Row:
    return merge_halt(row, subscription, at(second, 7), paid=paid)


def ended(row: Row, second: int, subscription: str = "A", *, paid: bool = True) -> Row:
    return merge_end(row, subscription, at(second, 9), paid=paid)


def ending(row: Row, second: int, ends_at: int, subscription: str = "A") -> Row:
    return merge_ending(row, subscription, at(second, 8), ends_at, "")


def overridden(row: Row, second: int, tier: Tier) -> Row:
    return merge_override(row, Override(at(second, 10), int(tier)))


def claimed(row: Row, second: int, tier: Tier | None) -> Row:
    return merge_claim(row, Claim(at(second, 10), "owner@example.com", None if tier is None else int(tier)))


def imported(row: Row, second: int, tier: Tier, plan: str = "", subscription: str = "") -> Row:
    return merge_import(row, Import(at(second, 0), int(tier), plan, subscription))


FULL = overridden(
    claimed(imported(ended(ending(halted(active(EMPTY, 1), 2), 3, 99), 3, "B"), 4, Tier.TEAM, "plan_é", "C"), 5, Tier.PRO),
    6,
    Tier.GROWTH,
)
