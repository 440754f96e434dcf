"""The comparison at small size: a guard against losing the lead without noticing. ``make bench`` gives the real figures."""

from pathlib import Path

from rich.console import Console

from bench.compare import Comparison, Options, measure_all
from bench.jobs import JOBS
from bench.load import LoadSpec

LEAST_RATIO = 12.0
"""Of the CPU seconds for an event, which other tests beside it change less than the rates: it is 18 to 20 on a machine that does nothing else."""


def test_classify_needs_many_times_less_cpu_for_an_event_than_idiomatic_faust_with_the_same_outputs(tmp_path: Path) -> None:
    options = Options(LoadSpec(events=120_000, teams=1_200), small_events=6_000, repetitions=1, jobs=[JOBS["tierstream"], JOBS["faust"]])

    comparison = measure_all(options, Console(quiet=True), data=tmp_path)

    assert_correct(comparison)
    tierstream, faust = (run.cpu_seconds / run.events for run in comparison.runs)
    assert faust / tierstream > LEAST_RATIO


def assert_correct(comparison: Comparison) -> None:
    assert (comparison.skipped, comparison.failed) == ({}, {})
    assert [run.problems for run in comparison.runs] == [[], []]
    assert [run.events for run in comparison.runs] == [120_000, 6_000]
