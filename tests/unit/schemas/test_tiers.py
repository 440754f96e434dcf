"""The tier ladder: one order, one spelling, no guesses."""

from itertools import pairwise

import pytest

from schemas.tiers import LABELS, Tier, parse_tier


def test_ladder_ranks_every_tier_above_the_one_before() -> None:
    assert LABELS == ("anonymous", "free", "hobby", "hobby_plus", "pro", "growth", "team")
    assert [int(tier) for tier in Tier] == [0, 1, 2, 3, 4, 5, 6]
    assert all(lower < higher for lower, higher in pairwise(Tier))


@pytest.mark.parametrize("tier", Tier)
def test_label_of_a_tier_reads_back_as_the_tier(tier: Tier) -> None:
    assert parse_tier(tier.label) is tier


@pytest.mark.parametrize("tier", Tier)
@pytest.mark.parametrize(
    "spell", [str.upper, str.title, lambda name: f"  {name}\t", lambda name: f"{name}_yearly", lambda name: f" {name}_YEARLY "]
)
def test_spelling_of_a_tier_case_spaces_and_yearly_fold_to_the_bare_tier(tier: Tier, spell: type[str]) -> None:
    assert parse_tier(spell(tier.label)) is tier


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "_yearly",
        "pro_yearly_yearly",
        "yearly",
        "professional",
        "hobby plus",
        "hobby-plus",
        "pro_monthly",
        "pr\u043e",
        None,
        4,
        True,
        b"pro",
        ["pro"],
    ],
)
def test_unknown_tier_has_no_rank(name: object) -> None:
    assert parse_tier(name) is None
