"""Fills the tables of ``docs/sizing.md``: what was measured, and what follows from it by the arithmetic that the page names.

``python -m bench.sizing`` does it; a test fails where page and results differ.
"""

from collections.abc import Callable
from pathlib import Path

import orjson

from bench.disk import PATH as DISK
from bench.disk import disk_table
from bench.document import NOT_YET, Results, filled, markdown_table
from bench.report import RESULTS
from streams.settings import Settings
from streams.topics import TOPICS

PAGE = Path(__file__).parents[1] / "docs" / "sizing.md"
PARTITIONS = 32
"""Those of the rows that are taken from the quiet stack: the default of a cluster."""
LOW, MIDDLE, HIGH = 1, 100, 10_000
DAY_SECONDS = 86_400
COPIES = 3


def _quiet(results: Results) -> dict[int, Results]:
    """The rows of the quiet stack by their rate."""
    return {row["rate"]: row for row in results["quiet"] if row["partitions"] == PARTITIONS}


def _cores(results: Results) -> tuple[dict[int, float], dict[int, float]]:
    """The cores of the five processes and of Kafka, by the rate: interpolated, measured, extrapolated."""
    quiet = _quiet(results)

    def used(rate: int) -> tuple[float, float]:
        kafka = quiet[rate]["cpu_by_process"]["kafka"]
        return (quiet[rate]["cpu_percent"] - kafka) / 100, kafka / 100

    def cores(part: int) -> dict[int, float]:
        idle, few, middle, many = (used(rate)[part] for rate in (0, 20, MIDDLE, 500))
        return {LOW: idle + (few - idle) * LOW / 20, MIDDLE: middle, HIGH: many + (many - middle) / (500 - MIDDLE) * (HIGH - 500)}

    return cores(0), cores(1)


def _costs(results: Results) -> str:
    disk = results.get("disk")
    quiet = _quiet(results)
    ours, kafka = _cores(results)
    of_20, of_500 = " (at 20/s)", " (at 500/s)"
    rows = [
        ("CPU of the gateway and the stages, cores", f"{ours[LOW]:.2f} *", f"{ours[MIDDLE]:.2f}", f"{_full_load_cores(results):.1f} **"),
        ("CPU of Kafka, cores", f"{kafka[LOW]:.2f} *", f"{kafka[MIDDLE]:.2f}", f"at most {kafka[HIGH]:.1f} ***"),
        (
            "memory of the five processes, few teams, MB",
            *(f"{quiet[rate]['rss_mb']}{of}" for rate, of in ((20, of_20), (100, ""), (500, of_500))),
        ),
        ("rows of `audit_log` a day, at most", *(f"{rate * DAY_SECONDS:,}" for rate in (LOW, MIDDLE, HIGH))),
        ("PostgreSQL's disk a day, at most", *_sizes(disk, _database_bytes)),
        ("Kafka's disk, full, three copies", *_sizes(disk, _topic_bytes)),
    ]
    return markdown_table(("webhooks", f"{LOW}/s", f"{MIDDLE}/s", f"{HIGH:,}/s"), rows)


def _sizes(disk: Results | None, size: Callable[[Results, int], float]) -> list[str]:
    """Sizes at the three rates; at 10,000/s a webhook leaves rather less than at the rate that was measured."""
    if not disk:
        return ["not measured yet"] * 3
    slow, fast = disk["rates"]
    return [_in_words(size(row, rate)) for row, rate in ((slow, LOW), (fast, MIDDLE), (fast, HIGH))]


def _database_bytes(row: Results, rate: int) -> float:
    return float(sum(row["tables"].values()) * rate * DAY_SECONDS)


def _topic_bytes(row: Results, rate: int) -> float:
    """Once the oldest records are deleted as fast as new ones come. Compacted topics do not grow with the time."""
    return float(sum(row["topics"].get(name, 0) * days * rate * DAY_SECONDS * COPIES for name, days in _retention().items()))


def _retention() -> dict[str, int]:
    """The days that each log is kept by default."""
    return {topic.name: Settings.model_fields[topic.retention].default for topic in TOPICS if topic.retention is not None}


def _in_words(size: float) -> str:
    size, unit = next(((size / least, unit) for least, unit in ((1e12, "TB"), (1e9, "GB")) if size >= least), (size / 1e6, "MB"))
    return f"{size:,.0f} {unit}" if size >= 10 else f"{size:.1f} {unit}"


def _full_load(results: Results) -> list[tuple[str, float, str]]:
    """Each part of the pipeline: its name, the webhooks a second of one process, and the table that says so."""
    stages, largest = results["stages"], max(results["growth"], key=lambda row: row["teams"])
    return [
        ("gateway", stages["gateway"]["requests_per_second"], "[The other stages](performance.md#the-other-stages)"),
        ("normalise", stages["normalise"]["events_per_second"], "the same"),
        (f"classify, {largest['teams']:,} teams", largest["events_per_second"], "[Growth](performance.md#growth)"),
        ("audit, a row each", stages["audit"]["rows_per_second"], "[The other stages](performance.md#the-other-stages)"),
    ]


def _full_load_cores(results: Results) -> float:
    return sum(HIGH / rate for _, rate, _ in _full_load(results))


def _extrapolated(results: Results) -> str:
    rows = [(name, f"{rate:,}/s", f"{100 * HIGH / rate:.0f} %", table) for name, rate, table in _full_load(results)]
    mails = results["stages"]["forward"][-1]
    rows.append(("forward, mails", f"{mails['sent_per_second']:,.0f}/s, not its limit", "-", "the same"))
    return markdown_table(("one process", "measured", f"busy at {HIGH:,}/s", "from"), rows)


def _partitions(results: Results) -> str:
    rates = (0, 20, 100, 500)
    cells = {(row["partitions"], row["rate"]): f"{row['cpu_percent']:g}" for row in results["quiet"]}
    numbers = sorted({row["partitions"] for row in results["quiet"]})
    rows = [(str(number), *(cells[number, rate] for rate in rates)) for number in numbers]
    return markdown_table(("partitions", "idle", *(f"{rate}/s" for rate in rates[1:])), rows)


def _memory(results: Results) -> str:
    rows = [
        (
            f"{row['teams']:,}",
            str(row["resident_mb"]),
            "-" if row["bytes_per_team"] is None else f"{row['bytes_per_team']:,}",
            f"{row['recovery_seconds']:g}",
        )
        for row in results["growth"]
        if row["partitions"] == results["growth"][0]["partitions"]
    ]
    return markdown_table(("teams", "MB of the one worker of classify", "bytes a team", "s until it is restored"), rows)


def _disk(results: Results) -> str:
    return disk_table(results["disk"]) if "disk" in results else NOT_YET


PARTS: dict[str, Callable[[Results], str]] = {
    "sizing_costs": _costs,
    "sizing_extrapolated": _extrapolated,
    "sizing_partitions": _partitions,
    "sizing_memory": _memory,
    "sizing_disk": _disk,
}


def read_results(path: Path = RESULTS / "latest.json") -> Results:
    """Return what was measured, with the disk's part beside it where that was measured too."""
    found: Results = orjson.loads(path.read_bytes())
    return found | ({"disk": orjson.loads(DISK.read_bytes())} if DISK.is_file() else {})


def fill_sizing(path: Path = RESULTS / "latest.json") -> None:
    """Write the page anew."""
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), read_results(path), PARTS), encoding="utf-8")


if __name__ == "__main__":
    fill_sizing()
