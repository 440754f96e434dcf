"""The registers of a team's row, one by one, and the tier as a function of them. Versions are (second, rank, count, id)."""

from collections.abc import Callable

import pytest

from agents.classify.history import Mode
from agents.classify.packing import pack
from agents.classify.registers import EMPTY, MAX_ENDED, Import, Row, Standing, any_in_force, coming_times, merge_end, standing
from schemas.tiers import Tier
from tests.register_factories import FULL, active, at, claimed, ended, ending, halted, imported, overridden


def tier(row: Row) -> Tier:
    return standing(row, Tier.FREE).tier


# One subscription


def test_active_newer_version_takes_the_plan() -> None:
    state = active(active(EMPTY, 1), 2, plan="plan_growth", tier=Tier.GROWTH).state("A")

    assert (state.mode, state.newest, state.since) == (Mode.ACTIVE, at(2), at(2))
    assert (state.plan_id, state.tier) == ("plan_growth", Tier.GROWTH)


def test_active_older_version_changes_not_the_plan() -> None:
    row = active(active(EMPTY, 2), 1, plan="plan_growth", tier=Tier.GROWTH)

    assert (row.state("A").plan_id, row.state("A").newest) == ("plan_pro", at(2))


def test_active_plan_that_means_another_tier_by_now_gives_the_newer_one() -> None:
    row = active(active(EMPTY, 1), 2, tier=Tier.GROWTH)

    assert tier(row) is Tier.GROWTH
    assert row.state("A").since == at(1)


def test_halted_newer_than_active_is_out_of_force_and_keeps_its_plan() -> None:
    row = halted(active(EMPTY, 1), 2)

    assert (row.state("A").mode, row.state("A").plan_id, row.state("A").out_since) == (Mode.HALTED, "plan_pro", at(2, 7))
    assert not any_in_force(row)


def test_halted_older_than_active_leaves_it_in_force() -> None:
    assert halted(active(EMPTY, 2), 1).state("A").since == at(2)


def test_halted_then_active_again_is_in_force_since_then() -> None:
    row = active(halted(active(EMPTY, 1), 2), 3)

    assert any_in_force(row)
    assert row.state("A").since == at(3)


@pytest.mark.parametrize("second", [0, 3, 10**9])
def test_ended_subscription_is_brought_back_by_no_charge_whatever_its_time(second: int) -> None:
    row = ended(active(EMPTY, 1), 2)

    assert active(row, second) is row
    assert tier(row) is Tier.HOBBY


def test_ended_leaves_no_live_subscription_behind() -> None:
    row = ended(ending(active(EMPTY, 1), 1, 99), 2)

    assert row.live == {}
    assert row.ended == {"A": at(2, 9)}


@pytest.mark.parametrize(("first", "second"), [(2, 5), (5, 2)])
def test_ended_twice_remembers_the_later_end(first: int, second: int) -> None:
    assert ended(ended(EMPTY, first), second).ended == {"A": at(5, 9)}


def test_ended_subscription_can_neither_halt_nor_end_later() -> None:
    row = ended(EMPTY, 2)

    assert halted(row, 3) is row
    assert ending(row, 3, 99) is row


def test_ended_what_never_began_is_kept_apart_and_is_no_end() -> None:
    row = ended(overridden(EMPTY, 1, Tier.PRO), 2, paid=False)

    assert (row.ended, row.unstarted) == ({}, {"A": at(2, 9)})
    assert standing(row, Tier.FREE) == Standing(Tier.PRO, 1, None)


@pytest.mark.parametrize("paid", [True, False])
def test_ended_what_is_found_to_have_begun_is_an_end_after_all(paid: bool) -> None:
    row = active(ended(overridden(EMPTY, 1, Tier.PRO), 2, paid=False), 0, paid=paid)

    assert (row.ended, row.unstarted, row.live) == ({"A": at(2, 9)}, {}, {})
    assert tier(row) is (Tier.HOBBY if paid else Tier.FREE)


def test_coming_end_touches_nothing_but_the_times_to_come() -> None:
    before = active(EMPTY, 1)
    row = ending(before, 2, 99)

    assert standing(row, Tier.FREE) == standing(before, Tier.FREE)
    assert (coming_times(before), coming_times(row)) == ({}, {"A": (99,)})


def test_coming_end_of_a_subscription_never_seen_makes_it_neither_active_nor_an_end() -> None:
    row = ending(overridden(EMPTY, 1, Tier.PRO), 2, 99)

    assert not any_in_force(row)
    assert (tier(row), coming_times(row)) == (Tier.PRO, {})


@pytest.mark.parametrize(
    "merge",
    [
        lambda row: active(row, 1, paid=True),
        lambda row: halted(row, 1, paid=True),
        lambda row: ended(row, 1, paid=True),
        lambda row: halted(active(row, 2, paid=False), 1, paid=True),  # too old for the status, and still a payment
        lambda row: active(ended(row, 2, paid=False), 1, paid=True),
        lambda row: halted(ended(row, 2, paid=False), 1, paid=True),
        lambda row: active(active(row, 1, paid=True), 2, paid=False),  # never taken back
    ],
)  # fmt: skip
def test_paid_once_is_paid_for_ever(merge: Callable[[Row], Row]) -> None:
    assert merge(EMPTY).paid


def test_subscription_that_never_paid_does_not_make_the_team_one_that_paid() -> None:
    assert not ended(halted(active(EMPTY, 1, paid=False), 2, paid=False), 3, paid=False).paid


# Override, claim, import


@pytest.mark.parametrize("seconds", [(1, 2), (2, 1), (2, 2)])
def test_override_claim_and_import_newest_wins(seconds: tuple[int, int]) -> None:
    row = EMPTY
    for second in seconds:
        new = Tier.GROWTH if second == 2 else Tier.PRO
        row = imported(claimed(overridden(row, second, new), second, new), second, new)

    assert row.override is not None
    assert row.claim is not None
    assert row.imported is not None
    assert [row.override.tier, row.claim.tier, row.imported.tier] == [Tier.GROWTH] * 3


def test_import_that_names_a_subscription_makes_it_active_and_paid() -> None:
    row = imported(EMPTY, 1, Tier.PRO, "plan_pro", "A")

    assert row.paid
    assert standing(row, Tier.FREE) == Standing(Tier.PRO, 1, "A")


def test_import_that_names_none_is_no_subscription() -> None:
    row = imported(EMPTY, 1, Tier.PRO, "plan_pro")

    assert (row.live, row.paid) == ({}, False)
    assert standing(row, Tier.FREE) == Standing(Tier.PRO, 1, None)


def test_import_older_than_the_newest_still_counts_for_its_subscription() -> None:
    row = imported(imported(EMPTY, 2, Tier.GROWTH), 1, Tier.PRO, "plan_pro", "A")

    assert row.imported == Import(at(2, 0), int(Tier.GROWTH))
    assert row.state("A").since == at(1, 0)


# The tier of a row


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        pytest.param(EMPTY, Standing(Tier.FREE, 0, None), id="nothing known: the initial tier"),
        pytest.param(claimed(EMPTY, 4, None), Standing(Tier.FREE, 4, None), id="claimed without a tier: the initial tier"),
        pytest.param(claimed(EMPTY, 4, Tier.PRO), Standing(Tier.PRO, 4, None), id="claimed tier"),
        pytest.param(imported(claimed(EMPTY, 4, Tier.PRO), 1, Tier.TEAM), Standing(Tier.TEAM, 1, None), id="imported before claimed"),
        pytest.param(ended(imported(EMPTY, 1, Tier.TEAM), 5), Standing(Tier.HOBBY, 5, None), id="paid once: hobby before imported"),
        pytest.param(
            ended(imported(EMPTY, 1, Tier.TEAM), 5, paid=False), Standing(Tier.TEAM, 1, None), id="an end of what was never paid: imported"
        ),
        pytest.param(overridden(EMPTY, 3, Tier.GROWTH), Standing(Tier.GROWTH, 3, None), id="override and no end"),
        pytest.param(overridden(ended(EMPTY, 5), 6, Tier.GROWTH), Standing(Tier.GROWTH, 6, None), id="override later than the end"),
        pytest.param(overridden(ended(EMPTY, 5), 4, Tier.GROWTH), Standing(Tier.HOBBY, 5, None), id="override earlier than the end"),
        pytest.param(
            overridden(ended(ended(EMPTY, 3, "B"), 7), 6, Tier.GROWTH), Standing(Tier.HOBBY, 7, None), id="override between two ends"
        ),
        pytest.param(
            overridden(halted(active(EMPTY, 1), 7), 6, Tier.GROWTH), Standing(Tier.HOBBY, 7, None), id="override earlier than the halt"
        ),
        pytest.param(
            overridden(halted(active(EMPTY, 1), 5), 6, Tier.GROWTH), Standing(Tier.GROWTH, 6, None), id="override later than the halt"
        ),
        pytest.param(active(EMPTY, 1), Standing(Tier.PRO, 1, "A"), id="one active subscription"),
        pytest.param(active(active(EMPTY, 1), 9), Standing(Tier.PRO, 1, "A"), id="renewed: since its first day"),
        pytest.param(
            active(active(EMPTY, 1), 2, "B", "plan_hobby", Tier.HOBBY), Standing(Tier.HOBBY, 2, "B"), id="the newer subscription governs"
        ),
        pytest.param(
            active(active(active(EMPTY, 1), 2, "B", "plan_hobby", Tier.HOBBY), 9), Standing(Tier.HOBBY, 2, "B"), id="a renewal governs not"
        ),
        pytest.param(
            active(active(active(EMPTY, 1), 2, "B", "plan_hobby", Tier.HOBBY), 9, "A", "plan_growth", Tier.GROWTH),
            Standing(Tier.GROWTH, 9, "A"),
            id="a change of plan governs",
        ),
        pytest.param(
            halted(active(active(EMPTY, 1), 2, "B", "plan_hobby", Tier.HOBBY), 5, "B"),
            Standing(Tier.PRO, 1, "A"),
            id="a halted one governs not",
        ),
        pytest.param(overridden(active(EMPTY, 1), 2, Tier.FREE), Standing(Tier.FREE, 2, None), id="override later than the plan"),
        pytest.param(
            active(overridden(active(EMPTY, 1), 2, Tier.FREE), 9), Standing(Tier.FREE, 2, None), id="a renewal does not undo the override"
        ),
        pytest.param(
            active(overridden(active(EMPTY, 1), 2, Tier.FREE), 9, "A", "plan_growth", Tier.GROWTH),
            Standing(Tier.GROWTH, 9, "A"),
            id="a change of plan undoes the override",
        ),
        pytest.param(
            active(overridden(active(EMPTY, 1), 2, Tier.FREE), 9, "B"),
            Standing(Tier.PRO, 9, "B"),
            id="a new subscription undoes the override",
        ),
        pytest.param(
            active(imported(EMPTY, 1, Tier.TEAM, "plan_pro", "A"), 9), Standing(Tier.TEAM, 1, "A"), id="imported tier stays on its plan"
        ),
        pytest.param(
            active(imported(EMPTY, 1, Tier.TEAM, "plan_pro"), 9), Standing(Tier.TEAM, 9, "A"), id="imported for a plan, whosever it is"
        ),
        pytest.param(
            active(imported(EMPTY, 1, Tier.TEAM, "plan_pro", "A"), 9, "B"),
            Standing(Tier.PRO, 9, "B"),
            id="another subscription has not the imported tier",
        ),
        pytest.param(
            active(imported(EMPTY, 1, Tier.TEAM, "plan_pro", "A"), 9, "A", "plan_growth", Tier.GROWTH),
            Standing(Tier.GROWTH, 9, "A"),
            id="another plan has not the imported tier",
        ),
    ],
)
def test_standing_of_a_row(row: Row, expected: Standing) -> None:
    assert standing(row, Tier.FREE) == expected


@pytest.mark.parametrize("initial", [Tier.ANONYMOUS, Tier.FREE, Tier.HOBBY])
def test_standing_of_an_empty_row_is_the_initial_tier(initial: Tier) -> None:
    assert standing(EMPTY, initial) == Standing(initial, 0, None)


def test_standing_after_ends_counts_present_halts_but_no_halt_that_is_over() -> None:
    row = overridden(ended(halted(active(EMPTY, 1), 8), 5, "B"), 7, Tier.GROWTH)
    assert tier(row) is Tier.HOBBY

    assert tier(ended(active(overridden(EMPTY, 7, Tier.GROWTH), 1), 5)) is Tier.GROWTH


# Ended subscriptions that a row remembers


def test_ended_beyond_the_maximum_the_oldest_are_forgotten() -> None:
    row = EMPTY
    for second in [*range(10, MAX_ENDED + 10), 3, 2]:
        row = ended(row, second, f"sub_{second}")

    assert sorted(row.ended.values()) == [at(second, 9) for second in range(10, MAX_ENDED + 10)]
    assert (row.paid, standing(row, Tier.FREE).since) == (True, MAX_ENDED + 9)


def test_row_of_a_team_with_very_many_subscriptions_stays_small() -> None:
    row = EMPTY
    for number in range(2 * MAX_ENDED):
        row = merge_end(row, f"sub_{number:014}", at(1_750_000_000 + number, 9, 12, f"{number:014}"), paid=True)

    assert len(pack(row)) < 32_768


def test_merging_what_is_known_gives_the_very_same_row() -> None:
    row = halted(active(active(EMPTY, 1), 3, plan="plan_team", tier=Tier.TEAM), 5, "B")

    assert all(again is row for again in (active(row, 1), active(row, 3, plan="plan_team", tier=Tier.TEAM), halted(row, 5, "B")))


def test_merging_leaves_the_row_it_was_given_as_it_was() -> None:
    before = pack(FULL)

    for merge in (active, halted, ended):
        merge(FULL, 50)
        merge(FULL, 50, "new")
    ending(FULL, 50, 500)
    imported(claimed(overridden(FULL, 50, Tier.PRO), 50, None), 50, Tier.PRO, "plan_pro", "A")

    assert pack(FULL) == before
    assert Row() == EMPTY
