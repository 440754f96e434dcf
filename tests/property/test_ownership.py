"""Laws of whose a subscription is: any order of the same claims ends with the same owner, and leads each team to the same end."""

from collections.abc import Iterable, Sequence

from hypothesis import given
from hypothesis import strategies as st

from agents.normalise.ownership import MAX_CLAIMS, NOBODYS, Claim, Moved, Ownership, claimed
from agents.normalise.rows import Row, pack, unpack
from schemas.team_events import Version

MOVED_RANK = 9
TEAMS = st.sampled_from("ABCD")


def claim_of(team: str, at: int, rank: int = 3) -> Claim:
    return Claim(team, at, rank, at % 3, f"evt_{team}_{at}_{rank}", "created_at")


few = st.dictionaries(st.integers(0, 30), TEAMS, min_size=1, max_size=MAX_CLAIMS).map(
    lambda found: [claim_of(team, at) for at, team in found.items()]
)
"""Claims of seconds of their own, as many as a row remembers."""

many = st.lists(st.builds(claim_of, TEAMS, st.integers(0, 60), st.sampled_from([1, 3, 5, 7])), min_size=1, max_size=60)
"""Any claims, also several teams' within one second."""


def worked_in(claims: Iterable[Claim]) -> tuple[Ownership, list[Moved]]:
    row, emitted = NOBODYS, list[Moved]()
    for claim in claims:
        row, moved = claimed(unpack(pack(Row(row))).ownership, claim)
        emitted += moved
    return row, emitted


def end_of(team: str, claims: Sequence[Claim], emitted: Sequence[Moved]) -> tuple[str, Version]:
    """A team's subscription, folded over its facts in version order, and since when it is as it is.

    A move of what has moved away already is none.
    """
    facts = [(claim.version, "active") for claim in claims if claim.team_id == team]
    facts += [((moved.claim.occurred_at, MOVED_RANK, *moved.claim.version[2:]), "moved") for moved in emitted if moved.loser == team]
    mode, since = "none", (0, 0, 0, "")
    for version, then in sorted(facts):
        if then != mode:
            mode, since = then, version
    return mode, since


@given(few, st.data())
def test_any_order_of_claims_ends_alike_for_each_team(claims: list[Claim], data: st.DataObject) -> None:
    in_order = sorted(claims, key=lambda claim: claim.version)
    again = data.draw(st.lists(st.sampled_from(claims), max_size=4))
    disordered = data.draw(st.permutations([*claims, *again]))

    expected, emitted_in_order = worked_in(in_order)
    found, emitted = worked_in(disordered)

    assert found == expected
    for team in {claim.team_id for claim in claims}:
        assert end_of(team, claims, emitted) == end_of(team, claims, emitted_in_order)
        assert (end_of(team, claims, emitted)[0] == "active") == (team == in_order[-1].team_id)
    assert set(emitted_in_order) <= set(emitted)


@given(many)
def test_each_team_that_lost_the_subscription_was_told_so_after_all_its_own_facts(claims: list[Claim]) -> None:
    row, emitted = worked_in(claims)

    newest = max(claims, key=lambda claim: (claim.version, claim.team_id))
    assert row.claims[-1] == newest
    assert len(row.claims) <= MAX_CLAIMS
    for team in {claim.team_id for claim in claims} - {newest.team_id}:
        last = max(claim.occurred_at for claim in claims if claim.team_id == team)
        assert any(moved.loser == team and moved.claim.occurred_at >= last for moved in emitted)
    assert all(moved.loser != moved.claim.team_id for moved in emitted)


@given(many, st.data())
def test_what_is_known_changes_and_emits_nothing(claims: list[Claim], data: st.DataObject) -> None:
    row, _ = worked_in(claims)
    assert claimed(row, data.draw(st.sampled_from(row.claims))) == (row, ())
