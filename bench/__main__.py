"""``python -m bench``: the comparison with the peers, the stages, growth and latency; prints tables, writes
``bench/results/latest.json``, draws the plots and fills the tables of ``docs/performance.md`` and ``docs/sizing.md``.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.broker import running_kafka
from bench.compare import DATA, Options, measure_all
from bench.document import fill_document
from bench.forward import measure_forward
from bench.gateway import measure_gateway
from bench.growth import measure_growth
from bench.installs import draw_plots
from bench.jobs import JOBS, Job
from bench.latency import measure_latency
from bench.load import LoadSpec
from bench.quiet import measure_quiet
from bench.quiet_peers import measure_quiet_peers
from bench.quiet_ratio import measure_quiet_ratio
from bench.report import RESULTS, comparison_json, print_table, write_results, wrong_results
from bench.servers import running_postgres
from bench.sizing import fill_sizing
from bench.stages import measure_stages
from streams.errors import TierstreamError

EVENTS, QUICK_EVENTS = 2_000_000, 300_000
SMALL_EVENTS, QUICK_SMALL_EVENTS = 200_000, 20_000
STAGE_EVENTS = 500_000
EVENTS_A_TEAM = 100
PARTS = ("jobs", "stages", "growth", "latency", "quiet")


def main() -> int:
    """Run what the command line asks for; the exit status is 1 when an output is wrong or a job failed, 2 when nothing could be run."""
    given = _parser().parse_args()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)
    path = RESULTS / ("quick.json" if given.quick else "latest.json")
    results: dict[str, Any] = {}
    try:
        for part in given.parts or (("jobs",) if given.quick or given.jobs else PARTS):
            console.rule(part, style="dim")
            results |= _MEASURES[part](given, console)
            if not given.no_write:
                write_results(results, path)
    except (TierstreamError, TimeoutError, BlockingIOError) as error:
        console.print(f"bench: {error}", style="red", markup=False)
        return 2
    except KeyboardInterrupt:
        return 130
    if not given.no_write and not given.quick:
        if failure := draw_plots(path):
            console.print(f"No plot: {failure}", style="yellow", markup=False)
        fill_document(path)
        fill_sizing(path)
    for sentence in (wrong := wrong_results(results)):
        console.print(sentence, style="red", markup=False)
    return int(bool(wrong))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"the jobs on {QUICK_EVENTS:,} events, once, to bench/results/quick.json")
    parser.add_argument(
        "--parts", type=_parts, help=f"comma-separated, of: {', '.join(PARTS)} (default: all; with --quick or --jobs: jobs)"
    )
    parser.add_argument("--jobs", type=_jobs, help=f"comma-separated, of: {', '.join(JOBS)} (default: all)")
    parser.add_argument(
        "--events", type=int, help=f"events of the jobs' load (default {EVENTS:,}), and at most so many for the other parts"
    )
    parser.add_argument("--teams", type=int, help=f"teams of the jobs' load (default: one for each {EVENTS_A_TEAM} events)")
    parser.add_argument("--partitions", type=int, default=8)
    parser.add_argument("--repetitions", type=int, help="how often each job runs, every other time in reverse order (default 2)")
    parser.add_argument("--no-write", action="store_true", help="print only")
    return parser


def _parts(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in PARTS]:
        raise argparse.ArgumentTypeError(f"there is no part {unknown[0]}; choose of {', '.join(PARTS)}")
    return names


def _jobs(text: str) -> list[Job]:
    try:
        return [JOBS[name.strip()] for name in text.split(",")]
    except KeyError as error:
        raise argparse.ArgumentTypeError(f"there is no job {error}; choose of {', '.join(JOBS)}") from None


def _compare(given: argparse.Namespace, console: Console) -> dict[str, Any]:
    events = given.events or (QUICK_EVENTS if given.quick else EVENTS)
    load = LoadSpec(events, given.teams or max(1, events // EVENTS_A_TEAM), given.partitions)
    small = min(events, QUICK_SMALL_EVENTS if given.quick or events < EVENTS else SMALL_EVENTS)
    options = Options(load, small, given.repetitions or (1 if given.quick else 2), given.jobs or list(JOBS.values()))
    comparison = measure_all(options, console)
    print_table(comparison, console)
    return comparison_json(comparison)


def _stages(given: argparse.Namespace, console: Console) -> dict[str, Any]:
    events = min(given.events or STAGE_EVENTS, STAGE_EVENTS)
    spec = LoadSpec(events, max(1, events // EVENTS_A_TEAM), given.partitions)
    with _scratch() as directory, running_kafka(directory / "broker", given.partitions) as broker, running_postgres(directory) as dsn:
        stages = measure_stages(broker, dsn, spec, directory, console)
        stages["forward"] = measure_forward(broker, dsn, directory, console)
        stages["gateway"] = measure_gateway(broker, directory, console)
    console.print_json(data=stages)
    return {"stages": stages}


def _growth(given: argparse.Namespace, console: Console) -> dict[str, Any]:
    with _scratch() as directory:
        rows = measure_growth(given.events or EVENTS, directory, console)
    console.print_json(data=rows)
    return {"growth": rows}


def _latency(_given: argparse.Namespace, console: Console) -> dict[str, Any]:
    latency = measure_latency(console)
    console.print_json(data=latency)
    return {"latency": latency}


def _quiet(_given: argparse.Namespace, console: Console) -> dict[str, Any]:
    DATA.mkdir(exist_ok=True)
    rows = measure_quiet(console)
    ratio = measure_quiet_ratio(console)
    console.print_json(data=ratio)
    return {"quiet": rows, "quiet_ratio": ratio, "quiet_peers": measure_quiet_peers(console)}


@contextmanager
def _scratch() -> Iterator[Path]:
    """A directory for the time of the block, on the disk that the loads are on: a machine's temporary directory may be in memory."""
    DATA.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=DATA, prefix="scratch-", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


_MEASURES: dict[str, Callable[[argparse.Namespace, Console], dict[str, Any]]] = {
    "jobs": _compare,
    "stages": _stages,
    "growth": _growth,
    "latency": _latency,
    "quiet": _quiet,
}


if __name__ == "__main__":
    sys.exit(main())
