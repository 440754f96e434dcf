"""Commands that run one process: the gateway, stages, the fake Loops."""

import asyncio
import math
import os
import sys
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Annotated

import typer

from streams.cli.output import report, report_error
from streams.cli.settings import AcceptInitialTier, DataDir, command_settings
from streams.errors import ConfigurationError, TierstreamError
from streams.logging import configure_logging
from streams.settings import Settings, load_settings


class StageName(StrEnum):
    """The stages that ``worker`` runs."""

    NORMALISE = "normalise"
    CLASSIFY = "classify"
    AUDIT = "audit"
    FORWARD = "forward"
    FEEDBACK = "feedback"


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command()(gateway)
    app.command()(worker)
    app.command("loops-sink")(loops_sink)


def gateway(data_dir: DataDir = None) -> None:
    """Take webhooks and events over HTTP and land them on Kafka.

    Example: TIERSTREAM_RAZORPAY_WEBHOOK_SECRETS=... tierstream gateway
    """
    from streams.gateway.server import run

    settings = command_settings(data_dir, "gateway")
    serve(settings, lambda stop: run(settings, stop))


def worker(
    stages: Annotated[list[StageName], typer.Argument(help="One or more stages to run in this process.")],
    data_dir: DataDir = None,
    accept_initial_tier: AcceptInitialTier = False,
) -> None:
    """Run stages: read their topics, decide, write. Start more workers of a stage for more load.

    Example: tierstream worker normalise classify
    """
    from agents.registry import stage_factory
    from streams.engine.worker import run_stages

    if accept_initial_tier and StageName.CLASSIFY not in stages:
        raise ConfigurationError("--accept-initial-tier is for classify, which is not among the stages: leave it out.")
    settings = command_settings(data_dir)
    for stage in stages:
        settings.require(stage.value)
    factories = [stage_factory(settings, stage.value, accept_initial_tier) for stage in dict.fromkeys(stages)]
    serve(settings, lambda stop: run_stages(settings, factories, stop))


def loops_sink(
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen on; 0 chooses one.")] = 8025,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    rate: Annotated[float | None, typer.Option(help="Requests per second to enforce; none without it.")] = None,
) -> None:
    """Run the fake Loops: it enforces the documented rules and keeps what it accepted at /_sent.

    Example: tierstream loops-sink --port 8025 --rate 10
    """
    from streams.loops.sink import create_sink
    from streams.runtime.http_server import listen, serving

    if rate is not None and not 0 < rate < math.inf:
        raise ConfigurationError(f"--rate {rate:g}: write a number of requests above 0, or leave it out.")
    settings = load_settings()

    async def run(stop: asyncio.Event) -> None:
        async with serving(create_sink(rate_per_second=rate, api_key=None), listen(host, port, "LOOPS_SINK"), grace_seconds=1.0) as url:
            report(settings, f"fake Loops at {url}", "fake Loops started", url=url)
            await stop.wait()

    serve(settings, run)


def serve(settings: Settings, run: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run a long-lived process until SIGINT or SIGTERM, and leave with its exit code.

    Leaves by ``os._exit`` once all is closed: a thread that hangs in a call to a dead broker must not keep the process.
    """
    import uvloop

    from streams.engine.worker import stop_on_signals

    async def supervised() -> None:
        stop = asyncio.Event()
        stop_on_signals(stop)
        await run(stop)

    configure_logging(settings)
    code = 0
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(supervised())
    except TierstreamError as error:
        report_error(error, settings)
        code = error.exit_code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
