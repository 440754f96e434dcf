"""Fills the tables of ``docs/performance.md`` from the results, between ``<!-- bench: NAME -->`` and ``<!-- end of NAME -->``.

``python -m bench.document`` does it; a test fails where page and results differ.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from bench.report import RESULTS

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
NOT_YET = "*Not measured yet.*"

TITLES = {
    "tierstream": "**tierstream** (exactly once, fenced)",
    "faust": "Faust, idiomatic",
    "quix": "Quix Streams (RocksDB, changelog)",
    "bytewax": "Bytewax (recovery store)",
    "aiokafka": "aiokafka loop, no durable state",
    "confluent": "confluent-kafka loop, no durable state",
    "kafka-streams": "Kafka Streams, at least once (RocksDB, changelog)",
    "kafka-streams-eos": "Kafka Streams, exactly once (RocksDB, changelog)",
}

Results = dict[str, Any]


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown; all columns but the first are aligned to the right."""
    ruled = ("---", *("---:" for _ in head[1:]))
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ruled, *rows))


def _machine(results: Results) -> str:
    machine = results.get("machine")
    if not machine:
        return NOT_YET
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, {machine['system']}, Python {machine['python']}; the broker "
        f"beside the jobs, with {machine['kafka_heap_mb']} MB of heap. {results['events']:,} events, {results['teams']:,} teams, "
        f"{results['partitions']} partitions; Faust gets {results['small_events']:,} events."
    )


def _jobs(results: Results) -> str:
    medians = results.get("medians")
    if not medians:
        return NOT_YET
    rows = []
    for job, rate in sorted(medians.items(), key=lambda item: -item[1]):
        runs = [run for run in results["runs"] if run["job"] == job]
        cpu = min(run["cpu_seconds"] / run["events"] * 1e6 for run in runs)
        right = "correct" if all(run["correct"] for run in runs) else "**wrong**"
        ratio = f"{results['ratios'][job]:g} x" if job in results["ratios"] else ""
        rows.append((TITLES.get(job, job), f"{rate:,}", ratio, f"{cpu:.1f}", f"{max(run['peak_mb'] for run in runs):,}", right))
    table = markdown_table(("job", "events/s", "tierstream is", "CPU s for a million", "peak MB", "outputs"), rows)
    absent = {**results.get("skipped", {}), **results.get("failed", {})}
    notes = [f"{TITLES.get(job, job)}: not measured ({why.splitlines()[0]})." for job, why in absent.items()]
    return "\n\n".join([table, *_plot("comparison.png", "The rates as bars"), *notes])


def _plot(name: str, says: str) -> list[str]:
    return [f"![{says}](../bench/results/{name})"] if (RESULTS / name).is_file() else []


def _stages(results: Results) -> str:
    stages = results.get("stages")
    if not stages:
        return NOT_YET
    normalise, classify, audit, gateway, two = (stages[name] for name in ("normalise", "classify", "audit", "gateway", "two_workers"))
    rows = [
        (
            "normalise, of classify's rate",
            f"{normalise['events_per_second']:,}/s",
            f"{classify['events_per_second']:,}/s",
            _percent(normalise["of_classify"]),
        ),
        (
            "audit writer, of asyncpg's plain COPY",
            f"{audit['rows_per_second']:,}/s",
            f"{audit['copy_rows_per_second']:,}/s",
            _percent(audit["of_copy"]),
        ),
        (
            "gateway with Kafka's ack, of an app that only verifies the HMAC, one core",
            f"{gateway['requests_per_second']:,}/s",
            f"{gateway['bare_requests_per_second']:,}/s",
            _percent(gateway["of_bare"]),
        ),
        *(
            (
                f"forwarder, of Loops' limit; most in any second {row['peak_per_second']:,}",
                f"{row['sent_per_second']:,.1f}/s",
                f"{row['limit']:,}/s",
                _percent(row["of_limit"]),
            )
            for row in stages["forward"]
        ),
        (
            "CPU s for a million events: two workers, of one",
            f"{two['cpu_seconds_per_million']:.1f}",
            f"{two['one_worker']:.1f}",
            _percent(two["ratio"]),
        ),
    ]
    return markdown_table(("stage", "measured", "limit", "part of it"), rows)


def _percent(part: float) -> str:
    return f"{100 * part:.0f} %"


def _growth(results: Results) -> str:
    growth = results.get("growth")
    if not growth:
        return NOT_YET
    rows = [
        (
            f"{row['teams']:,}",
            str(row["partitions"]),
            f"{row['events_per_second']:,}",
            "-" if row["bytes_per_team"] is None else f"{row['bytes_per_team']:,}",
            f"{row['recovery_records']:,} in {row['recovery_seconds']:g} s",
            f"{row['recovery_rows_per_second']:,}",
            "correct" if row["correct"] else "**wrong**",
        )
        for row in growth
    ]
    head = ("teams", "partitions", "events/s", "bytes a team", "changelog rows read", "rows/s of cold recovery", "outputs")
    java = [row["kafka_streams_recovery_rows_per_second"] for row in growth if "kafka_streams_recovery_rows_per_second" in row]
    beside = [f"Kafka Streams restores the largest of them, its local state lost, at {java[0]:,} rows/s."] if java else []
    return "\n\n".join([markdown_table(head, rows), *_plot("growth.png", "Rate, memory and recovery over the number of teams"), *beside])


def _latency(results: Results) -> str:
    latency = results.get("latency")
    if not latency:
        return NOT_YET
    rows = [
        (title, f"{latency[f'{name}_p50_ms']:g} ms", f"{latency[f'{name}_p99_ms']:g} ms")
        for name, title in (("row", "webhook's 200 → audit row committed"), ("loops", "webhook's 200 → received by Loops"))
    ]
    return markdown_table((f"{latency['rate']} events/s, {latency['events']:,} events", "p50", "p99"), rows)


def _quiet(results: Results) -> str:
    quiet = results.get("quiet")
    if not quiet:
        return NOT_YET
    rows = [
        (
            str(row["partitions"]),
            f"{row['rate']}/s" if row["rate"] else "idle",
            f"{row['cpu_percent']:g}",
            f"{row['cpu_by_process']['kafka']:g}",
            *(_milliseconds(row, name) for name in ("gateway", "row")),
            f"{row['cpu_ms']:g}" if row["rate"] else "-",
            str(row["refused"]) if row["rate"] else "-",
            str(row["threads"]),
            str(row["rss_mb"]),
        )
        for row in quiet
    ]
    head = (
        "partitions",
        "webhooks",
        "CPU %",
        "Kafka's",
        "gateway p50, p99 ms",
        "row p50, p99 ms",
        "CPU ms each",
        "refused",
        "threads",
        "MB",
    )
    return "\n\n".join([markdown_table(head, rows), *_plot("quiet.png", "CPU over the rate, by the number of partitions")])


def _milliseconds(row: Mapping[str, Any], name: str) -> str:
    if not row["rate"]:
        return "-"
    more = "over " if name == "row" and row["late"] else ""
    return f"{more}{row[f'{name}_p50_ms']:g}, {more}{row[f'{name}_p99_ms']:g}"


def _quiet_ratio(results: Results) -> str:
    found = results.get("quiet_ratio")
    if not found:
        return NOT_YET
    few, many = found["partitions"]
    head = (f"{found['rate']} webhooks/s, {len(found['ratios'])} pairs", "CPU %", f"over that at {few}", "lowest and highest pair")
    low, high = min(found["ratios"]), max(found["ratios"])
    rows = [
        (f"{few} partition", f"{found['cpu_percent'][0]:g}", "1", ""),
        (
            f"{many} partitions",
            f"{found['cpu_percent'][1]:g}",
            f"{found['ratio']:g} (of sums {found['ratio_of_sums']:g})",
            f"{low:g}, {high:g}",
        ),
    ]
    return markdown_table(head, rows)


def _quiet_peers(results: Results) -> str:
    peers = results.get("quiet_peers")
    if not peers:
        return NOT_YET
    cells = {(row["job"], row["partitions"], row["rate"]): f"{row['cpu_job']:g} + {row['cpu_kafka']:g}" for row in peers}
    rates = sorted({row["rate"] for row in peers})
    named = {(row["job"], row["partitions"]): None for row in peers}
    rows = [(TITLES[job], str(number), *(cells.get((job, number, rate), "-") for rate in rates)) for job, number in named]
    return markdown_table(("job + Kafka, CPU %", "partitions", *(f"{rate}/s" for rate in rates)), rows)


PARTS: dict[str, Callable[[Results], str]] = {
    "machine": _machine,
    "jobs": _jobs,
    "stages": _stages,
    "growth": _growth,
    "latency": _latency,
    "quiet": _quiet,
    "quiet_ratio": _quiet_ratio,
    "quiet_peers": _quiet_peers,
}

_PART = re.compile(r"(<!-- bench: (\w+) -->\n).*?(<!-- end of \2 -->)", re.DOTALL)


def filled(text: str, results: Results, parts: Mapping[str, Callable[[Results], str]] = PARTS) -> str:
    """Return ``text`` with every part as ``results`` have it."""
    return _PART.sub(lambda part: f"{part[1]}{parts[part[2]](results)}\n{part[3]}", text)


def fill_document(path: Path = RESULTS / "latest.json") -> None:
    """Write the page anew."""
    results = orjson.loads(path.read_bytes()) if path.is_file() else {}
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")


if __name__ == "__main__":
    fill_document()
