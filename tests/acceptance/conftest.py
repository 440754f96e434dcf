"""``tierstream up`` as its users start it: a process of its own, known only by its ready file."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from streams.settings import Settings, load_settings
from tests.waiting import answered

READY_SECONDS = 120.0


@dataclass(frozen=True)
class Running:
    """A running ``tierstream up``."""

    process: subprocess.Popen[bytes]
    directory: Path
    ready_file: Path
    log: Path

    def ready(self) -> dict[str, Any]:
        """What the ready file says now."""
        return json.loads(self.ready_file.read_text())  # type: ignore[no-any-return]

    def url(self, name: str) -> str:
        """An address from the ready file."""
        return str(self.ready()[name])

    @property
    def settings(self) -> Settings:
        """Settings that reach its Kafka."""
        return load_settings(kafka_bootstrap_servers=self.url("kafka"), partitions=8, replication_factor=1)

    async def kill(self, name: str) -> None:
        """SIGKILL the first process of ``name``, and wait until the ready file names its successor."""
        old = self.ready()["pids"][name][0]
        os.kill(old, signal.SIGKILL)

        async def successors() -> list[int] | None:
            pids: list[int] = self.ready()["pids"][name]
            return None if old in pids else pids

        await answered(successors, lambda: f"{name} is back; {self.tail()}", 20)

    def tail(self) -> str:
        """The last lines that it printed."""
        return self.log.read_text(errors="replace")[-3_000:]


@pytest.fixture(scope="package")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The stack of ``SHARING_UP``; the fake Loops takes 2,000 requests a second, so that mails keep up."""
    directory = tmp_path_factory.mktemp("up")
    running = started(directory, TIERSTREAM_LOOPS_RATE_PER_SECOND="2000")
    try:
        until_ready(running)
        yield running
    finally:
        running.process.send_signal(signal.SIGINT)
        try:
            assert running.process.wait(15) == 0, running.tail()
        finally:
            running.process.kill()


def started(directory: Path, *options: str, **variables: str) -> Running:
    """Start an ``up`` in ``directory``. The caller ends it."""
    ready_file, log = directory / "ready.json", directory / "up.log"
    command = [sys.executable, "-m", "streams.cli", "up", *options, "--ready-file", str(ready_file)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=directory, env={**os.environ, **variables}, stdout=output, stderr=output)
    return Running(process, directory, ready_file, log)


def until_ready(running: Running) -> None:
    """Wait until the ready file is there, up to ``READY_SECONDS``."""
    deadline = time.monotonic() + READY_SECONDS
    while not running.ready_file.exists():
        assert running.process.poll() is None, running.tail()
        assert time.monotonic() < deadline, running.tail()
        time.sleep(0.1)
