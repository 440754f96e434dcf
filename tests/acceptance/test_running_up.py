"""Commands beside a running ``up``: they need no variable, never use it where an address is set, nor once it was killed."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from streams.settings import PREFIX
from tests import forked
from tests.acceptance.conftest import Running, started, until_ready
from tests.waiting import blocked_until

TEAM = "7b0c0de0-0000-4000-8000-000000000001"


def tierstream(up: Running, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return forked.tierstream(*arguments, cwd=up.directory, env={**clean, **variables}, timeout=120)


def test_verify_beside_a_running_up_needs_no_variable(up: Running) -> None:
    ran = tierstream(up, "verify", "--json")

    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["clean"] is True
    assert f"Using the tierstream up that runs in this directory (process {up.process.pid})." in ran.stderr


def test_topics_check_beside_a_running_up_finds_its_topics(up: Running) -> None:
    ran = tierstream(up, "topics", "check", "--json")

    assert (ran.returncode, json.loads(ran.stdout)) == (0, {"ok": True, "missing": [], "differences": []})


def test_verify_with_an_address_set_names_what_is_missing_and_does_not_use_up(up: Running) -> None:
    ran = tierstream(up, "verify", TIERSTREAM_KAFKA_BOOTSTRAP_SERVERS=up.url("kafka").removeprefix("kafka://"))

    assert ran.returncode == 2
    assert ran.stderr.startswith("tierstream: verify can not start: set TIERSTREAM_POSTGRES_DSN and TIERSTREAM_PLANS")


@pytest.fixture
def own_temporary() -> Iterator[str]:
    """Where a process that is killed leaves its data."""
    with tempfile.TemporaryDirectory(prefix="killed-", ignore_cleanup_errors=True) as directory:
        yield directory


def test_after_a_killed_up_its_file_is_not_used_and_the_missing_variables_are_named(tmp_path: Path, own_temporary: str) -> None:
    killed = started(tmp_path, "--single-process", TMPDIR=own_temporary)
    process = killed.process
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


def test_up_in_a_single_process_takes_a_webhook_through_all_stages_and_names_that_process_for_each(tmp_path: Path) -> None:
    up = started(tmp_path, "--single-process")
    try:
        until_ready(up)
        pids = up.ready()["pids"]
        event = {"kind": "onboarding.claimed", "team_id": TEAM, "id": "claim", "data": {"email": "o@example.com", "tier": "free"}}
        headers = {"Authorization": "Bearer demo-ingest"}
        answer = httpx.post(f"{up.url('gateway')}/v1/events", json=event, headers=headers, timeout=10, trust_env=False)
        blocked_until(
            lambda: [mail["email"] for mail in httpx.get(f"{up.url('loops')}/_sent", trust_env=False).json()] == ["o@example.com"], 30, 0.1
        )
    finally:
        up.process.send_signal(signal.SIGINT)
        status = up.process.wait(20)

    assert answer.status_code == 202
    assert pids["normalise"] == pids["classify"] == pids["audit"] == pids["forward"] != pids["gateway"]
    assert status in (0, 130)


def test_up_with_workers_and_a_single_process_is_one_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "streams.cli", "up", "--single-process", "--workers", "classify=2"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    assert (ran.returncode, ran.stderr) == (2, "tierstream: --single-process runs one process for all stages: leave --workers out.\n")
