"""Draws the results: ``plot.py latest.json DIRECTORY``. Runs in a virtual environment of its own, which has matplotlib."""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot

OURS, THEIRS = "#0b6e4f", "#9aa5b1"
TITLES = {
    "tierstream": "tierstream (exactly once)",
    "faust": "Faust, idiomatic",
    "quix": "Quix Streams",
    "bytewax": "Bytewax",
    "aiokafka": "aiokafka loop, no durable state",
    "confluent": "confluent-kafka loop, no durable state",
    "kafka-streams": "Kafka Streams, at least once",
    "kafka-streams-eos": "Kafka Streams, exactly once",
}


def draw_comparison(results: dict[str, Any], path: Path) -> None:
    """Draw a bar for each job, the fastest at the top, each with what it is to tierstream."""
    rates = sorted(results["medians"].items(), key=lambda item: item[1])
    names = [TITLES.get(job, job) for job, _ in rates]
    figure, axes = pyplot.subplots(figsize=(8, 0.45 * len(rates) + 1.2), layout="constrained")
    bars = axes.barh(names, [rate for _, rate in rates], color=[OURS if job == "tierstream" else THEIRS for job, _ in rates])
    ratios = results["ratios"]
    labels = [f"{rate:,}" + (f"  (tierstream {ratios[job]:g} x)" if job in ratios else "") for job, rate in rates]
    axes.bar_label(bars, labels, padding=4, fontsize=9)
    axes.set_xlim(0, 1.6 * max(rate for _, rate in rates))
    axes.set_xlabel(f"events/s, one process, {results['events']:,} events, {results['teams']:,} teams, {results['partitions']} partitions")
    _save(figure, axes, path)


def draw_growth(results: dict[str, Any], path: Path) -> None:
    """Draw rate, memory and recovery over the number of teams."""
    rows = sorted((row for row in results["growth"] if row["partitions"] == results["partitions"]), key=lambda row: row["teams"])
    teams = [row["teams"] for row in rows]
    figure, all_axes = pyplot.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
    for axes, field, title in zip(
        all_axes,
        ("events_per_second", "bytes_per_team", "recovery_rows_per_second"),
        ("events/s", "bytes of memory a team", "rows/s of cold recovery"),
        strict=True,
    ):
        axes.plot(teams, [row[field] for row in rows], marker="o", color=OURS)
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("teams")
        axes.set_title(title, fontsize=10)
        _plain(axes)
    figure.savefig(path, dpi=150)


def draw_quiet(results: dict[str, Any], path: Path) -> None:
    """Draw the CPU of the whole stack over the rate, and the time to the row, a line for each number of partitions."""
    rows = [row for row in results["quiet"] if row["rate"]]
    figure, (cpu, to_row) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for number in sorted({row["partitions"] for row in rows}):
        of_number = [row for row in results["quiet"] if row["partitions"] == number]
        cpu.plot([row["rate"] for row in of_number], [row["cpu_percent"] for row in of_number], marker="o", label=f"{number} partitions")
        under_load = [row for row in of_number if row["rate"]]
        to_row.plot([row["rate"] for row in under_load], [row["row_p99_ms"] for row in under_load], marker="o")
    cpu.set_title("CPU of the stack and Kafka, % of a core", fontsize=10)
    to_row.set_title("webhook → row, p99 in ms", fontsize=10)
    to_row.set_yscale("log")
    for axes in (cpu, to_row):
        axes.set_xlabel("webhooks/s")
        _plain(axes)
    cpu.set_ylim(bottom=0)
    cpu.legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _save(figure: Any, axes: Any, path: Path) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Draw what the results hold."""
    results_path, directory = map(Path, sys.argv[1:])
    results = json.loads(results_path.read_text(encoding="utf-8"))
    if results.get("medians"):
        draw_comparison(results, directory / "comparison.png")
    if results.get("quiet"):
        draw_quiet(results, directory / "quiet.png")
    if results.get("growth"):
        draw_growth(results, directory / "growth.png")


if __name__ == "__main__":
    main()
