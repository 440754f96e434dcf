"""``TIERSTREAM_TEST_STACK`` chooses where the integration tests' servers come from."""

import asyncio
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ANY_TEST = "tests/integration/test_migrate.py::test_migrate_table_made_by_hand_is_taken_over"


async def run_a_test(**environment: str) -> tuple[int, str]:
    """Run an integration test that needs a database, in a session of its own; its exit status and output."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", ANY_TEST]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env={**os.environ, **environment}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, output.decode()


async def test_containers_without_a_docker_engine_skip_with_a_reason() -> None:
    status, output = await run_a_test(TIERSTREAM_TEST_STACK="containers", DOCKER_HOST="tcp://127.0.0.1:1")

    assert status == 0, output
    assert "needs a Docker engine, and none answers" in output
    assert "1 skipped" in output


async def test_external_servers_are_used_as_they_are_given(servers: tuple[str, str]) -> None:
    kafka, postgres = servers

    status, output = await run_a_test(TIERSTREAM_TEST_STACK="external", TIERSTREAM_TEST_KAFKA=kafka, TIERSTREAM_TEST_POSTGRES=postgres)

    assert status == 0, output
    assert "1 passed" in output


async def test_external_without_an_address_says_which_is_missing() -> None:
    status, output = await run_a_test(TIERSTREAM_TEST_STACK="external", TIERSTREAM_TEST_KAFKA="127.0.0.1:1", TIERSTREAM_TEST_POSTGRES="")

    assert status == 1
    assert "needs an address in TIERSTREAM_TEST_POSTGRES" in output


async def test_unknown_stack_is_refused() -> None:
    status, output = await run_a_test(TIERSTREAM_TEST_STACK="kubernetes")

    assert status == 1
    assert "TIERSTREAM_TEST_STACK=kubernetes: choose embedded, external or containers" in output
