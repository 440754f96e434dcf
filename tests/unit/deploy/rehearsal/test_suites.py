"""What counts as passed."""

import pytest

from deploy.rehearsal.images import ROOT
from deploy.rehearsal.suites import CONTAINERS, EXTERNAL, all_passed


@pytest.mark.parametrize(
    ("output", "passed"),
    [
        ("....\n4 passed in 1.20s\n", 4),
        ("....\n36 passed in 71.33s (0:01:11)\n", 36),
        ("..s\n2 passed, 1 skipped in 1.20s\n", None),
        ("s\n1 skipped in 0.10s\n", None),
        ("F\n1 failed in 0.10s\n", None),
        ("", None),
    ],
)
def test_only_tests_that_all_passed_count(output: str, passed: int | None) -> None:
    assert all_passed(output) == passed


def test_chosen_tests_are_there() -> None:
    assert all((ROOT / "tests" / "integration" / f"{name}.py").is_file() for name in (*CONTAINERS, *EXTERNAL))
