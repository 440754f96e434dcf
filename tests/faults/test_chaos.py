"""The short form of ``make chaos``: each stage killed at least twice, a stall, a broker, database and Loops outage."""

import random

from rich.console import Console

from tests.faults.chaos import SHORT, Plan, run


async def test_whatever_dies_rows_and_mails_are_those_of_a_sequential_run() -> None:
    plan = Plan(**{**SHORT.__dict__, "seed": random.SystemRandom().randrange(1_000_000), "orders": 5})
    console = Console()
    console.print(f"seed {plan.seed}")

    report = await run(plan, console)

    assert report.findings.exact, f"seed {plan.seed}\n{report.findings}"
    assert report.verified.clean, f"seed {plan.seed}\n{report.verified.differences()}"
    assert all(report.counts[f"kills of {stage}"] >= 2 for stage in ("normalise", "classify", "audit", "forward"))
    assert report.findings.rows > 200
    assert report.findings.due_records > 20
