"""The command line, as far as it goes without an engine."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy.rehearsal.engine import NONE_ANSWERS
from deploy.rehearsal.images import ROOT
from tests.processes import is_alive

COMMAND = (sys.executable, "-m", "deploy.rehearsal")


def run_with(directory: Path, docker: str, *arguments: str) -> "subprocess.Popen[str]":
    """Start it where ``docker`` is a script, and no other command can be found."""
    program = directory / "docker"
    program.write_text(f"#!/bin/sh\n{docker}\n", encoding="utf-8")
    program.chmod(0o755)
    return subprocess.Popen(
        (*COMMAND, "--kept", str(directory / "kept"), "--out", str(directory / "out.json"), *arguments),
        cwd=ROOT,
        env=os.environ | {"PATH": str(directory)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_without_an_engine_it_ends_with_one_sentence(tmp_path: Path) -> None:
    with run_with(tmp_path, "exit 1") as process:
        output, _ = process.communicate(timeout=60)

    assert (process.returncode, output.split("\n")) == (1, [NONE_ANSWERS, ""])
    assert not (tmp_path / "out.json").exists()


def test_engine_that_fails_ends_it_with_what_the_engine_said(tmp_path: Path) -> None:
    script = 'case "$1" in version) echo 28.0 ;; compose) echo 2.39.4 ;; *) echo no space left >&2; exit 1 ;; esac'
    with run_with(tmp_path, script) as process:
        output, _ = process.communicate(timeout=60)

    assert process.returncode == 1
    assert "can not be pulled: no space left" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_stops_what_is_under_way_and_says_so(tmp_path: Path, number: signal.Signals) -> None:
    pulling = tmp_path / "pulling"
    script = (
        f'case "$1" in version) echo 28.0 ;; compose) echo 2.39.4 ;; pull) echo $$ > {pulling}; exec /bin/sleep 60 ;; *) exit 1 ;; esac'
    )
    with run_with(tmp_path, script) as process:
        deadline = time.monotonic() + 60
        while not (pulling.is_file() and pulling.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)

    assert process.returncode == 130
    assert [line.partition(" s  ")[2] for line in output.splitlines()[-2:]] == ["interrupted; taking the stack and its engine down", "down"]
    while is_alive(int(pulling.read_text())) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(int(pulling.read_text()))
