"""The comparison: every job in turn, then in reverse, and the median of each."""

import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from bench.broker import INPUT, SMALL_INPUT, BenchKafka, Input, running_kafka
from bench.console import bar
from bench.jobs import Job
from bench.load import LoadSpec
from bench.run import JobFailed, Run, print_run, run_job

DATA = Path(__file__).parent / "data"


@dataclass(frozen=True, slots=True)
class Options:
    """What to run, on what, and how often. ``small_events`` is what the slow job gets, of proportionally fewer teams."""

    load: LoadSpec
    small_events: int
    repetitions: int
    jobs: list[Job]

    @property
    def small_load(self) -> LoadSpec:
        """The load of the slow job."""
        load = self.load
        return LoadSpec(self.small_events, max(1, self.small_events * load.teams // load.events), load.partitions, load.seed)


@dataclass(frozen=True, slots=True)
class Comparison:
    """All runs of all jobs; why some can not run here, and why some failed."""

    options: Options
    runs: list[Run]
    skipped: dict[str, str]
    failed: dict[str, str]

    def median(self, job: str) -> float | None:
        """The median of a job's rates in events per second, or None when it did not run."""
        rates = [run.events_per_second for run in self.runs if run.job == job]
        return statistics.median(rates) if rates else None

    @property
    def ratios(self) -> dict[str, float]:
        """tierstream's rate divided by each other job's."""
        ours = self.median("tierstream")
        others = {run.job: self.median(run.job) for run in self.runs if run.job != "tierstream"}
        return {job: round(ours / rate, 2) for job, rate in others.items() if ours is not None and rate}


def measure_all(options: Options, console: Console, data: Path = DATA) -> Comparison:
    """Run every job ``options.repetitions`` times, every other time in reverse order. ``data`` keeps the load for the next time."""
    skipped = {job.name: why for job in options.jobs if (why := job.missing()) is not None}
    for name, why in skipped.items():
        console.print(f"{name} is skipped: {why}", style="yellow", markup=False)
    jobs = [job for job in options.jobs if job.name not in skipped]
    runs: list[Run] = []
    failed: dict[str, str] = {}
    with (
        running_kafka(data / options.load.name, options.load.partitions) as kafka,
        tempfile.TemporaryDirectory(prefix="tierstream-bench-") as scratch,
    ):
        inputs = _inputs(kafka, options, jobs, console)
        topics = {each.topic for each in inputs.values()}
        for repetition in range(options.repetitions):
            for job in jobs if repetition % 2 == 0 else reversed(jobs):
                given = inputs[job.small]
                try:
                    with bar(console, job.title, given.spec.events) as on_progress:
                        run = run_job(job, kafka, given, topics, Path(scratch), on_progress)
                except JobFailed as error:
                    failed[job.name] = str(error)
                    console.print(f"{job.name} failed: {error}", style="red", markup=False)
                    continue
                runs.append(run)
                print_run(job.title, run, console)
    return Comparison(options, runs, skipped, failed)


def _inputs(kafka: BenchKafka, options: Options, jobs: list[Job], console: Console) -> dict[bool, Input]:
    """The inputs that the jobs need, by whether they are small."""
    found: dict[bool, Input] = {}
    for small in sorted({job.small for job in jobs}):
        spec = options.small_load if small else options.load
        with bar(console, "the small load" if small else "the load", spec.events) as on_progress:
            found[small] = kafka.fill(SMALL_INPUT if small else INPUT, spec, on_progress)
    return found
