"""Fills the tables of ``docs/guarantees.md`` from the results of ``make chaos`` (also with brokers), ``make outages`` and ``make fuzz``.

They stand between ``<!-- faults: NAME -->`` and ``<!-- end of NAME -->``. ``python -m tests.faults.document`` writes them; a test fails
where page and results differ.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from bench.document import markdown_table

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "guarantees.md"
RESULTS = ROOT / "bench" / "results"
NOT_YET = "*Not run yet.*"

Results = dict[str, Any]

_BROKEN = (
    ("kills", "kills"),
    ("stalls", "stalls"),
    ("broker restarts", "broker_restarts"),
    ("database outages", "database_outages"),
    ("Loops outages", "loops_outages"),
)
_FOUND = (("missing", "missing"), ("wrong", "wrong"), ("rows twice", "duplicate_rows"), ("mails twice", "duplicate_mails"))


_BROKERS = (
    ("leaders killed", "leaders_killed"),
    ("broker away", "brokers_paused"),
    ("two away", "two_brokers_away"),
    ("rolling restarts", "rolling_restarts"),
    ("kills of workers and gateway", "kills"),
    ("stalls", "stalls"),
)


def _chaos(results: Results) -> str:
    return _runs(results, _BROKEN)


def _cluster(results: Results) -> str:
    return _runs(results, _BROKERS)


def _runs(results: Results, broken: tuple[tuple[str, str], ...]) -> str:
    columns = (("events", "events"), ("audit rows", "rows"), ("mails", "mails"), *broken, *_FOUND)
    rows = [
        [
            f"{run['seed']}, {run['seconds'] / 60:.0f} min",
            *(f"{run[name]:,}" for _, name in columns),
            "clean" if run["verify_clean"] else "not",
        ]
        for run in results["runs"]
    ]
    return markdown_table(["seed", *(title for title, _ in columns), "`verify`"], rows)


def _outages(results: Results) -> str:
    head = ("window", "`publish()` p50, p99, max (µs)", "sent, spooled, dropped", "gateway p50, p99, max (ms)", "answers", "p99 to normal")
    rows = []
    for window in results["windows"]:
        call, answer = window["publish_us"], window["gateway_ms"]
        ratio = window["gateway_p99_to_normal"]
        rows.append(
            [
                f"{window['window']}, {window['seconds']:.0f} s",
                f"{call['p50']:,}, {call['p99']:,}, {call['max']:,}",
                f"{window['sent']:,}, {window['spooled']:,}, {window['dropped']:,}",
                f"{answer['p50']:.1f}, {answer['p99']:.1f}, {answer['max']:.1f}",
                ", ".join(f"{count:,} of {status}" for status, count in window["answers"].items()),
                "-" if ratio is None else f"{ratio:.2f}",
            ]
        )
    published, accepted = results["published"], results["accepted"]
    landed = (
        f"Of {published['count']:,} published events {published['lacking']} are missing on their topic and {published['repeated']} there twice; "
        f"of {accepted['count']:,} accepted webhooks {accepted['lacking']} and {accepted['repeated']}. "
        f"{results['cpus']} shared cores, with the broker and the senders on them."
    )
    return f"{markdown_table(head, rows)}\n\n{landed}"


def _fuzz(results: Results) -> str:
    rows = [
        [place, ", ".join(f"{outcome}: {count:,}" for outcome, count in outcomes.items())]
        for place, outcomes in results["outcomes"].items()
    ]
    made_of = f"{results['samples']} recorded deliveries and the demo's own" if results["samples"] else "the demo's own"
    summary = (
        f"{results['bodies']:,} bodies of seed {results['seed']}, made of {made_of}, in {results['seconds']:.0f} s: {results['broken']} broke "
        f"the law, and {results['log_lines']} log lines were written."
    )
    return f"{markdown_table(['where', 'outcomes'], rows)}\n\n{summary}"


PARTS: dict[str, Callable[[Results], str]] = {"chaos": _chaos, "cluster": _cluster, "outages": _outages, "fuzz": _fuzz}

_PART = re.compile(r"(<!-- faults: (\w+) -->\n).*?(<!-- end of \2 -->)", re.DOTALL)


def filled(text: str) -> str:
    """Return ``text`` with every part as the committed results have it."""

    def part(found: re.Match[str]) -> str:
        path = RESULTS / f"{found[2]}.json"
        content = PARTS[found[2]](orjson.loads(path.read_bytes())) if path.is_file() else NOT_YET
        return f"{found[1]}{content}\n{found[3]}"

    return _PART.sub(part, text)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
