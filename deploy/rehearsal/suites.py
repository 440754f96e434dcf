"""A few integration tests on servers in containers: ``TIERSTREAM_TEST_STACK`` is ``containers``, or ``external`` with the stack's own servers."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from deploy.rehearsal.docker import Docker, RehearsalFailed, end, last_lines
from deploy.rehearsal.images import ANSWER_SECONDS, ROOT

CONTAINERS = ("test_exactly_once", "test_log_reader", "test_audit")
EXTERNAL = ("test_migrate", "test_ledger", "test_log_reader")
TEST_SECONDS = 600.0
STOP_SECONDS = 60.0


@dataclass(frozen=True)
class Suite:
    """Tests that have passed. Times in seconds."""

    stack: str
    files: list[str]
    passed: int
    seconds: float


def run_suite(docker: Docker, stack: str, names: Sequence[str], environment: Mapping[str, str]) -> Suite:
    """Run integration tests on ``stack``, with an engine that they may use. Raises RehearsalFailed unless all pass, and none is skipped."""
    files = [f"tests/integration/{name}.py" for name in names]
    began = time.monotonic()
    process = subprocess.Popen(
        (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files),
        cwd=ROOT,
        env=os.environ | docker.environment | dict(environment) | {"TIERSTREAM_TEST_STACK": stack},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # as docker.start
    )
    try:
        output, _ = process.communicate(timeout=TEST_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise RehearsalFailed(f"The tests on {stack} did not end within {TEST_SECONDS:g} s.") from error
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)  # it removes its containers
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
        end(process)
    passed = all_passed(output) if process.returncode == 0 else None
    if passed is None:
        raise RehearsalFailed(f"Tests with TIERSTREAM_TEST_STACK={stack} failed or were skipped:\n{last_lines(output, 60)}")
    return Suite(stack, files, passed, round(time.monotonic() - began, 1))


def all_passed(output: str) -> int | None:
    """Return the number of tests, from pytest's closing line; None unless all of them passed."""
    found = re.search(r"^(\d+) passed in ", last_lines(output, 1))
    return int(found[1]) if found else None


def without_ryuk(docker: Docker) -> dict[str, str]:
    """Return what testcontainers must be told where the image of Ryuk, which removes containers after a crash, can not be had."""
    from testcontainers.core.config import testcontainers_config

    image = testcontainers_config.ryuk_image
    if docker.has_image(image) or docker.pull(image, ANSWER_SECONDS) is None:
        return {}
    return {"TESTCONTAINERS_RYUK_DISABLED": "true"}
