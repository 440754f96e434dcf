"""The short form of ``python -m tests.faults.network``: the network fails in the middle of requests, answers and connections."""

import random
from dataclasses import replace

from rich.console import Console

from tests.faults.network import SHORT, run


async def test_whatever_the_network_loses_rows_and_mails_are_those_of_a_sequential_run() -> None:
    plan = replace(SHORT, seed=random.SystemRandom().randrange(1_000_000))
    console = Console()
    console.print(f"seed {plan.seed}")

    report = await run(plan, console.print)

    assert report.findings.exact, f"seed {plan.seed}\n{report.findings}"
    assert report.findings.rows > 100
