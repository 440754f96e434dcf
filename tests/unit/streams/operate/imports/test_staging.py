"""The lines of one file against each other, and the counts."""

from streams.operate.imports.decide import SECOND, Known, New
from streams.operate.imports.lines import Bad, Line
from streams.operate.imports.staging import Counts, Staging

A, B, C = (f"7b0c54c8-2f55-4c1b-9f59-0d1c0c6c1a1{number}" for number in range(3))


def test_repeated_line_is_unchanged_and_another_word_on_the_same_team_is_bad() -> None:
    with Staging() as staging:
        for line in (Line(2, A, "pro"), Line(3, A, "pro"), Line(4, A, "team"), Line(5, A, "pro", at=7)):
            staging.add(line)

        assert staging.decide() == Counts(new=1, unchanged=1, bad=2, without_plan=0)
        assert list(staging.bad_lines()) == [
            Bad(4, "team_id: line 2 says something else of this team"),
            Bad(5, "team_id: line 2 says something else of this team"),
        ]
        assert [line.number for line, _ in staging.new_lines()] == [2]


def test_subscription_of_two_teams_is_bad() -> None:
    with Staging() as staging:
        staging.add(Line(2, A, "pro", "sub_1", "plan_pro"))
        staging.add(Line(3, B, "pro", "sub_1", "plan_pro"))

        staging.decide()

        assert list(staging.bad_lines()) == [Bad(3, "subscription_id: line 2 has it for another team")]


def test_lines_are_compared_with_what_is_known_and_refused_ones_are_bad() -> None:
    with Staging() as staging:
        for line in (Line(2, A, "pro", "sub_1"), Line(3, B, "pro"), Line(4, C, "pro", "sub_3", "plan_pro")):
            staging.add(line)
        staging.note(B, Known(5 * SECOND, ("team", None, None, None)))
        staging.note(B, Known(6 * SECOND, ("pro", None, None, None)))
        staging.note_link("sub_3", A)

        assert staging.decide() == Counts(new=1, unchanged=1, bad=1, without_plan=1)
        assert [(line.number, new) for line, new in staging.new_lines()] == [(2, New(0, link=True))]
        assert [bad.number for bad in staging.bad_lines()] == [4]


def test_only_teams_and_subscriptions_of_the_file_are_asked_for() -> None:
    with Staging() as staging:
        staging.add(Line(2, A, "pro", "sub_1"))

        assert staging.has_team(A.encode())
        assert not any(staging.has_team(key) for key in (B.encode(), b"\xff", b"sub_1"))
        assert staging.has_subscription("sub_1")
        assert not staging.has_subscription("sub_2")
