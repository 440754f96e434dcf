"""The benchmark's PostgreSQL, and processes that serve while something else is measured."""

import asyncio
import contextlib
import os
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.run import Program, process
from streams.embedded.postgres import EmbeddedPostgres
from streams.stores.migrate import migrate

READY_SECONDS = 60.0


@contextmanager
def running_postgres(directory: Path) -> Iterator[str]:
    """Run a PostgreSQL with its durability on, and tierstream's tables in it; gives its DSN."""
    with asyncio.Runner() as runner:
        server = EmbeddedPostgres(directory / "postgres")
        try:
            runner.run(server.start())
            runner.run(migrate(server.dsn))
            yield server.dsn
        finally:
            runner.run(server.stop())


@contextmanager
def serving(
    program: Program, directory: Path, name: str, ready_url: str, cores: Sequence[int] = (), seconds: float = READY_SECONDS
) -> Iterator[int]:
    """Run a program that serves, on ``cores`` only where the system can do that; gives its process id once ``ready_url`` answers 200.

    What it says goes to ``directory/NAME.log``. Raises TimeoutError when it is not ready within ``seconds``.
    """
    with contextlib.ExitStack() as stack:
        with pinned(cores):
            running = stack.enter_context(process(program.command, program.environment, directory, directory / f"{name}.log"))
        _until_ready(ready_url, seconds)
        yield running.pid


@contextmanager
def pinned(cores: Sequence[int]) -> Iterator[None]:
    """Have what is started in the block run on ``cores`` only. Linux; elsewhere it does nothing."""
    if not cores or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _until_ready(url: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise TimeoutError(f"{url} does not answer")
        time.sleep(0.05)
