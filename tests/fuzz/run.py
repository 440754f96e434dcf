"""The command line of ``make fuzz``: many changed bodies, one process, and a table of what became of them."""

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table

from tests.fuzz.bodies import SAMPLES, demo_bodies, request, sample_bodies
from tests.fuzz.flow import Flow, captured_log

BODIES = 100_000
SHOWN = 20
"""Broken laws that are printed; all are counted."""

STEP = 200


async def run(bodies: int, seed: int, samples: Path = SAMPLES, flow: Flow | None = None, progress: Progress | None = None) -> Flow:
    """Feed ``bodies`` requests of ``seed`` to ``flow`` (a new one unless given), and return it."""
    flow = flow or Flow()
    webhooks, events = demo_bodies()
    webhooks += sample_bodies(samples)
    task = progress.add_task("bodies", total=bodies) if progress else None
    with captured_log() as log:
        for number in range(bodies):
            await flow.feed(request(seed, number, webhooks, events), log)
            if progress and task is not None and number % STEP == STEP - 1:
                progress.advance(task, STEP)
        flow.finish()
    return flow


def as_json(flow: Flow, seed: int, samples: int, seconds: float) -> dict[str, Any]:
    """Return the result as ``bench/results/fuzz.json`` holds it."""
    places: dict[str, dict[str, int]] = {}
    for (place, outcome), count in sorted(flow.outcomes.items(), key=lambda item: (item[0][0], -item[1])):
        places.setdefault(place, {})[outcome] = count
    return {
        "bodies": flow.requests,
        "seed": seed,
        "samples": samples,
        "seconds": round(seconds, 1),
        "broken": len(flow.broken),
        "log_lines": flow.log_lines,
        "outcomes": places,
    }


def main() -> int:
    """Run, print, and say with the exit code whether every law held."""
    parser = argparse.ArgumentParser(description="Change real bodies and take each through gateway, normalise and classify.")
    parser.add_argument("--bodies", type=int, default=BODIES)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--samples", type=Path, default=SAMPLES, help="a directory of recorded deliveries, beside the demo's own bodies")
    parser.add_argument("--out", type=Path, help="write the result to this JSON file")
    arguments = parser.parse_args()
    console = Console(highlight=False)
    samples = len(sample_bodies(arguments.samples))
    source = f"{samples} recorded deliveries" if samples else "no recorded deliveries, for the directory is missing,"
    console.print(f"seed {arguments.seed}: {arguments.bodies:,} bodies made of {source} and of the demo's own")
    began = time.monotonic()
    with Progress("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console) as progress:
        flow = asyncio.run(run(arguments.bodies, arguments.seed, arguments.samples, progress=progress))
    result = as_json(flow, arguments.seed, samples, time.monotonic() - began)
    table = Table("where", "outcome", "count", title=f"{flow.requests:,} bodies in {result['seconds']} s")
    for place, outcomes in result["outcomes"].items():
        for outcome, count in outcomes.items():
            table.add_row(place, outcome, f"{count:,}")
    console.print(table)
    for number, sentence in flow.broken[:SHOWN]:
        console.print(f"body {number}: {sentence}", markup=False, soft_wrap=True)
    console.print(f"{len(flow.broken)} broken laws; {flow.log_lines} log lines")
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 1 if flow.broken else 0


if __name__ == "__main__":
    sys.exit(main())
