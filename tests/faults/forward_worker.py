"""The ordinary process of forward, with short waits on the retry topics, that ends at a given point. Settings come from the environment."""

import argparse
import asyncio
import dataclasses
from collections.abc import Sequence
from functools import partial

from agents.registry import stage_factory
from streams.cli.run import serve
from streams.engine.worker import run_stages
from streams.settings import Settings, load_settings
from tests.faults.crash_points import POINTS, WAITING, arm, kill

CRASHES = {point.name: point for point in (*POINTS["forward"], *WAITING)}
"""By name: the places between two steps, also of a mail that comes to wait."""


def main() -> None:
    """Arm the point and run the process; returns never."""
    parser = argparse.ArgumentParser(prog="forward_worker", description=__doc__)
    parser.add_argument("--kill", metavar="POINT:COUNT", help="SIGKILL ourselves there")
    parser.add_argument("--retry-seconds", type=float, nargs=3, default=[0.2, 0.4, 0.8])
    arguments = parser.parse_args()
    if arguments.kill:
        name, _, count = arguments.kill.partition(":")
        arm(dataclasses.replace(CRASHES[name], count=int(count)), kill)
    settings = load_settings()
    serve(settings, partial(_run, settings, arguments.retry_seconds))


async def _run(settings: Settings, retry_seconds: Sequence[float], stop: asyncio.Event) -> None:
    await run_stages(settings, [stage_factory(settings, "forward", retry_seconds=retry_seconds)], stop)


if __name__ == "__main__":
    main()
