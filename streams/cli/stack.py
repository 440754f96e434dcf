"""``up`` and ``demo``: the whole of tierstream on one machine, with nothing else installed."""

import asyncio
import re
from pathlib import Path
from typing import Annotated

import typer

from streams.cli.settings import AcceptInitialTier
from streams.errors import ConfigurationError

STAGES = ("normalise", "classify", "audit", "forward")
MAX_BROKERS = 9


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command()(up)
    app.command()(demo)


def up(
    ready_file: Annotated[Path | None, typer.Option(help="Write addresses and pids here, as JSON, when all is ready.")] = None,
    workers: Annotated[list[str] | None, typer.Option(help="STAGE=N: run N processes of a stage. May be repeated.")] = None,
    single_process: Annotated[
        bool, typer.Option("--single-process", help="Run all stages in one process, for a machine with little memory.")
    ] = False,
    data_dir: Annotated[Path | None, typer.Option(help="Keep the data here between runs; without it, it is thrown away.")] = None,
    accept_initial_tier: AcceptInitialTier = False,
    brokers: Annotated[int, typer.Option(min=1, max=MAX_BROKERS, help="Brokers of Kafka: with three, one may be away.")] = 1,
) -> None:
    """Start Kafka, PostgreSQL, the fake Loops, the gateway and every stage, and keep them running until Ctrl-C.

    What has an address set (TIERSTREAM_KAFKA_BOOTSTRAP_SERVERS, _POSTGRES_DSN, _LOOPS_BASE_URL) is used instead of started.

    Example: tierstream up --ready-file ready.json --workers classify=2
    """
    from streams.embedded.stack import run_up

    if workers and single_process:
        raise ConfigurationError("--single-process runs one process for all stages: leave --workers out.")
    counts = _worker_counts(workers or [])
    running = run_up(ready_file, counts, data_dir, single_process=single_process, accept_initial_tier=accept_initial_tier, brokers=brokers)
    asyncio.run(running)


def demo() -> None:
    """Simulate fifteen teams from sign-up to cancellation on a real stack, and show the outcome of every event.

    Leaves every TIERSTREAM_* variable aside, so that it never writes into anybody's services.

    Example: tierstream demo
    """
    from streams.demo import run_demo

    raise typer.Exit(asyncio.run(run_demo()))


def _worker_counts(options: list[str]) -> dict[str, int]:
    counts = dict.fromkeys(STAGES, 1)
    for option in options:
        stage, _, number = option.partition("=")
        if stage not in counts or not re.fullmatch("[0-9]{1,2}", number) or int(number) > 32:
            raise ConfigurationError(f"--workers {option}: write STAGE=N with one of {', '.join(STAGES)} and N from 0 to 32.")
        counts[stage] = int(number)
    return counts
