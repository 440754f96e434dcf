"""Commands beside a running ``up``: they need no variable, never use it where an address is set, nor once it was killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

from streams.settings import PREFIX
from tests.acceptance.conftest import Running, until_ready


def tierstream(up: Running, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    command = [sys.executable, "-m", "streams.cli", *arguments]
    return subprocess.run(command, cwd=up.directory, env={**clean, **variables}, capture_output=True, text=True, timeout=120)


def test_verify_beside_a_running_up_needs_no_variable(up: Running) -> None:
    ran = tierstream(up, "verify", "--json")

    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["clean"] is True
    assert f"Using the tierstream up that runs in this directory (process {up.process.pid})." in ran.stderr


def test_topics_check_beside_a_running_up_finds_its_topics(up: Running) -> None:
    ran = tierstream(up, "topics", "check", "--json")

    assert (ran.returncode, json.loads(ran.stdout)) == (0, {"ok": True})


def test_verify_with_an_address_set_names_what_is_missing_and_does_not_use_up(up: Running) -> None:
    ran = tierstream(up, "verify", TIERSTREAM_KAFKA_BOOTSTRAP_SERVERS=up.url("kafka").removeprefix("kafka://"))

    assert ran.returncode == 2
    assert ran.stderr.startswith("tierstream: verify can not start: set TIERSTREAM_POSTGRES_DSN and TIERSTREAM_PLANS")


def test_after_a_killed_up_its_file_is_not_used_and_the_missing_variables_are_named(tmp_path: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    ready_file = tmp_path / "ready.json"
    with (tmp_path / "up.log").open("wb") as log:
        command = [sys.executable, "-m", "streams.cli", "up", "--ready-file", str(ready_file)]
        process = subprocess.Popen(command, cwd=tmp_path, env=clean, stdout=log, stderr=log)
    killed = Running(process, tmp_path, ready_file, tmp_path / "up.log")
    try:
        until_ready(killed)
        beside = tierstream(killed, "topics", "check")
    finally:
        process.kill()
        process.wait(10)
    after = tierstream(killed, "verify")

    assert (beside.returncode, f"(process {process.pid})" in beside.stderr) == (0, True)
    assert (tmp_path / ".tierstream" / "up.env").exists()
    assert after.returncode == 2
    assert after.stderr.startswith("tierstream: verify can not start: set TIERSTREAM_KAFKA_BOOTSTRAP_SERVERS and TIERSTREAM_POSTGRES_DSN")
