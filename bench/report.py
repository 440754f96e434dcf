"""The results: a table for people, and ``bench/results/latest.json``."""

import os
import platform
from pathlib import Path
from typing import Any

import orjson
import psutil
from rich.console import Console
from rich.table import Table

from bench.broker import HEAP_MEGABYTES
from bench.compare import Comparison

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "kafka_heap_mb": HEAP_MEGABYTES,
        "clock": "broker's first record bytes out" if Path("/proc/self/io").is_file() else "start of the job's process",
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def print_table(comparison: Comparison, console: Console) -> None:
    """Print one line for each job."""
    load = comparison.options.load
    table = Table(title=f"{load.events:,} events, {load.teams:,} teams, {load.partitions} partitions")
    for name in ("job", "events/s", "ratio", "CPU s / M", "peak MB", "outputs"):
        table.add_column(name, justify="left" if name in ("job", "outputs") else "right", no_wrap=True)
    ratios = comparison.ratios
    for job in comparison.options.jobs:
        runs = [run for run in comparison.runs if run.job == job.name]
        rate = comparison.median(job.name)
        if rate is None:
            table.add_row(job.title, "-", "-", "-", "-", "skipped")
            continue
        ratio = ratios.get(job.name)
        cpu = min(run.cpu_seconds / run.events * 1e6 for run in runs)
        peak = max(run.peak_megabytes for run in runs)
        right = all(not run.problems for run in runs)
        table.add_row(
            job.title,
            f"{rate:,.0f}",
            f"{ratio:.2f} x" if ratio else "",
            f"{cpu:.1f}",
            f"{peak:,.0f}",
            "correct" if right else "[red]WRONG[/red]",
        )
    console.print(table)


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison in the form of ``latest.json``."""
    load = comparison.options.load
    return {
        "machine": machine(),
        "events": load.events,
        "teams": load.teams,
        "partitions": load.partitions,
        "small_events": comparison.options.small_events,
        "runs": [
            {
                "job": run.job,
                "events_per_second": round(run.events_per_second),
                "transitions": run.transitions,
                "correct": not run.problems,
                "events": run.events,
                "seconds": round(run.seconds, 3),
                "cpu_seconds": round(run.cpu_seconds, 2),
                "peak_mb": round(run.peak_megabytes),
                "outputs": run.outputs,
            }
            for run in comparison.runs
        ],
        "medians": {job.name: round(rate) for job in comparison.options.jobs if (rate := comparison.median(job.name)) is not None},
        "ratios": comparison.ratios,
        "skipped": comparison.skipped,
        "failed": comparison.failed,
    }


def write_results(results: dict[str, Any], path: Path) -> None:
    """Write ``results`` into the file, whole or not at all. Keys that are not among them stay as they are."""
    kept = orjson.loads(path.read_bytes()) if path.is_file() else {}
    path.parent.mkdir(exist_ok=True)
    new = path.with_suffix(".new")
    new.write_bytes(orjson.dumps(kept | results, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    new.replace(path)


def wrong_results(results: dict[str, Any]) -> list[str]:
    """One sentence for each output that is not what it should be, and for each job that could be run and failed."""
    found = [f"{run['job']}: its outputs are not the oracle's." for run in results.get("runs", []) if not run["correct"]]
    found += [f"{job} failed: {why}" for job, why in results.get("failed", {}).items()]
    found += [f"{name}: its outputs are wrong." for name, stage in results.get("stages", {}).items() if _is_wrong(stage)]
    return found + [f"{row['teams']:,} teams: the outputs are wrong." for row in results.get("growth", []) if not row["correct"]]


def _is_wrong(stage: Any) -> bool:
    return isinstance(stage, dict) and not stage.get("correct", True)
