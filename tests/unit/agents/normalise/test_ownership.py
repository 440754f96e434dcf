"""Whose a subscription is: claims in any order, what is remembered of them, and rows of the former format."""

import pytest

from agents.normalise.ownership import MAX_CLAIMS, NOBODYS, Claim, Moved, Ownership, claimed, is_claim, learned
from schemas.team_events import MAX_SECONDS, SubscriptionEvent

LATEST = (MAX_SECONDS, 9, 0, "")


def claim(team: str, at: int, rank: int = 3) -> Claim:
    return Claim(team, at, rank, 1, f"evt_{at}_{rank}", "created_at", "plan_pro", "pro", "active")


def after(*claims: Claim, row: Ownership = NOBODYS) -> tuple[Ownership, list[tuple[str, int]]]:
    """Work in claims; return the row, and who lost the subscription at which time."""
    emitted: list[Moved] = []
    for each in claims:
        row, moved = claimed(row, each)
        emitted += moved
    return row, [(moved.loser, moved.claim.occurred_at) for moved in emitted]


def teams(row: Ownership) -> str:
    return "".join(each.team_id for each in row.claims)


@pytest.mark.parametrize(
    ("given", "emitted"),
    [
        pytest.param("A1 A2 A3", [], id="one team"),
        pytest.param("A1 B2", [("A", 2)], id="in order"),
        pytest.param("B2 A1", [("A", 2)], id="the other way round"),
        pytest.param("A1 B2 B3", [("A", 2)], id="emitted once"),
        pytest.param("A1 B2 A1 B2", [("A", 2)], id="redeliveries"),
        pytest.param("A1 B3 B2", [("A", 3), ("A", 2)], id="an earlier claim of the winner is emitted as well"),
        pytest.param("A1 B2 A3", [("A", 2), ("B", 3)], id="back again"),
        pytest.param("A3 A1 B2", [("A", 2), ("B", 3)], id="back again, the middle last"),
        pytest.param("A1 B2 C3", [("A", 2), ("B", 3)], id="on to a third team"),
        pytest.param("C3 A1 B2", [("A", 3), ("A", 2), ("B", 3)], id="the third team first"),
    ],
)
def test_claims_in_any_order_emit_a_move_for_each_team_that_loses(given: str, emitted: list[tuple[str, int]]) -> None:
    row, found = after(*(claim(text[0], int(text[1:])) for text in given.split()))

    assert sorted(found) == sorted(emitted)
    assert row.team_at(LATEST) == max(given.split(), key=lambda text: int(text[1:]))[0]


def test_claims_of_one_second_give_it_to_the_team_of_the_last() -> None:
    row, emitted = after(claim("A", 0), claim("A", 5, rank=7), claim("B", 5, rank=3))

    assert emitted == [("B", 5)], "A loses nothing: a move of second 5 would come after its own fact"
    assert row.team_at(LATEST) == "A"


def test_team_at_is_who_had_it_then_and_before_all_the_first() -> None:
    row, _ = after(claim("A", 10), claim("B", 20), claim("A", 30))

    assert [row.team_at((at, 0, 0, "")) for at in (5, 15, 25, 35)] == ["A", "A", "B", "A"]
    assert NOBODYS.team_at(LATEST) is None


def test_learned_is_asked_for_only_while_there_is_no_claim() -> None:
    row = learned(learned(NOBODYS, "A"), "B")
    assert row.team_at(LATEST) == "B"

    row, emitted = after(claim("A", 1), row=row)
    assert (row.team_at(LATEST), emitted) == ("A", []), "B never had a fact, so it loses nothing"
    assert learned(row, "B") is row


def test_claimed_nothing_new_is_the_same_row() -> None:
    row, _ = after(claim("A", 1), claim("B", 2))
    assert claimed(row, claim("A", 1)) == (row, ())
    assert claimed(row, claim("A", 1))[0] is row


def test_claims_are_forgotten_between_others_of_their_team_first() -> None:
    row, _ = after(claim("A", 0), *(claim("B", at) for at in range(1, 30)), claim("A", 40))

    assert len(row.claims) == MAX_CLAIMS
    assert (teams(row)[:2], teams(row)[-2:]) == ("AB", "BA")
    assert (row.claims[1].occurred_at, row.claims[-2].occurred_at) == (1, 29)


def test_claims_of_many_teams_are_remembered_the_newest_of_them() -> None:
    row, emitted = after(*(claim(chr(65 + number), number) for number in range(20)))

    assert [each.occurred_at for each in row.claims] == list(range(20 - MAX_CLAIMS, 20))
    assert emitted == [(chr(65 + number), number + 1) for number in range(19)]
    assert after(claim("A", 0), row=row)[1] == [("A", 20 - MAX_CLAIMS)], "older than all that is remembered: emitted to be sure"


def test_claim_between_others_of_its_team_in_a_full_row_changes_nothing() -> None:
    row, _ = after(*(claim("A", at) for at in range(0, 40, 2)))
    assert claimed(row, claim("A", 3))[0] is row


@pytest.mark.parametrize(
    ("event", "paid_count", "status", "expected"),
    [
        (SubscriptionEvent.CHARGED, 1, "active", True),
        (SubscriptionEvent.ACTIVATED, 1, "active", True),
        (SubscriptionEvent.ACTIVATED, 0, "active", False),
        (SubscriptionEvent.UPDATED, 1, "active", True),
        (SubscriptionEvent.UPDATED, 1, "pending", False),
        (SubscriptionEvent.RESUMED, 1, "active", True),
        (SubscriptionEvent.RESUMED, 1, "paused", False),
        (SubscriptionEvent.PAUSED, 1, "paused", True),
        (SubscriptionEvent.HALTED, 1, "halted", True),
        (SubscriptionEvent.COMPLETED, 1, "completed", True),
        (SubscriptionEvent.CANCELLED, 0, "cancelled", True),
        (SubscriptionEvent.PENDING, 1, "pending", False),
        (SubscriptionEvent.PAYMENT_FAILED, 1, "pending", False),
        (SubscriptionEvent.AUTHENTICATED, 0, "authenticated", False),
    ],
)
def test_claim_is_what_starts_or_stops_a_plan(event: SubscriptionEvent, paid_count: int, status: str, expected: bool) -> None:
    assert is_claim(event, paid_count, status, False) is expected
