"""The comparison at small size: a guard against losing the lead without noticing. ``make bench`` gives the real figures."""

from pathlib import Path

import pytest
from rich.console import Console

from bench.compare import Comparison, Options, measure_all
from bench.jobs import JOBS
from bench.load import LoadSpec

LEAST_RATIO = 15.0
ATTEMPTS = 3
"""A machine that does something else at the same time may spoil one measurement, and hardly three: it is 18 to 20 on one that does
nothing else, and 15 to 17 beside a process that takes a whole core."""


@pytest.mark.alone
def test_classify_is_many_times_as_fast_as_idiomatic_faust_with_the_same_outputs(tmp_path: Path) -> None:
    options = Options(LoadSpec(events=120_000, teams=1_200), small_events=6_000, repetitions=1, jobs=[JOBS["tierstream"], JOBS["faust"]])

    ratios: list[float] = []
    while len(ratios) < ATTEMPTS and max(ratios, default=0.0) < LEAST_RATIO:
        comparison = measure_all(options, Console(quiet=True), data=tmp_path)
        assert_correct(comparison)
        ratios.append(comparison.ratios["faust"])

    assert max(ratios) >= LEAST_RATIO


def assert_correct(comparison: Comparison) -> None:
    assert (comparison.skipped, comparison.failed) == ({}, {})
    assert [run.problems for run in comparison.runs] == [[], []]
    assert [run.events for run in comparison.runs] == [120_000, 6_000]
