"""Commands beside a running ``up``: they need no variable, and never use it where an address is set."""

import json
import os
import subprocess
import sys

from streams.settings import PREFIX
from tests.acceptance.conftest import Running


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
