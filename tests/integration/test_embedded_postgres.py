"""The embedded PostgreSQL is a real one: what it committed outlives it, and it never outlives us."""

import asyncio
import os
import signal
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from streams.embedded.postgres import EmbeddedPostgres
from streams.errors import PostgresUnavailable
from tests.processes import is_alive, parent_running
from tests.waiting import eventually


@pytest.fixture
async def postgres(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(tmp_path / "postgres", durable=getattr(request, "param", False))
    await server.start()
    yield server
    await server.stop()


@pytest.mark.parametrize("postgres", [True, False], ids=["durable", "ephemeral"], indirect=True)
async def test_postgres_killed_comes_back_on_its_port_with_what_it_committed(postgres: EmbeddedPostgres) -> None:
    dsn, first = postgres.dsn, postgres.pid
    await _execute(dsn, "CREATE TABLE kept AS SELECT 42 AS answer")

    postgres.kill()
    assert await postgres.wait() == -9
    assert postgres.pid is None
    await postgres.start()

    assert postgres.dsn == dsn
    assert postgres.pid not in (None, first)
    assert await _fetch(dsn, "SELECT answer FROM kept") == 42


async def test_postgres_killed_under_a_busy_backend_waits_for_its_end_and_comes_back(postgres: EmbeddedPostgres) -> None:
    connection = await asyncpg.connect(postgres.dsn)
    backend = connection.get_server_pid()
    busy = asyncio.create_task(connection.fetchval("SELECT count(*) FROM generate_series(1, 4000) a, generate_series(1, 4000) b"))
    await eventually(lambda: _is_running(backend))

    postgres.kill()
    await postgres.wait()
    await postgres.start()

    assert not is_alive(backend)
    await asyncio.wait((busy,))
    assert busy.exception() is not None or busy.result() == 16_000_000, "it may finish its query before it notices"
    connection.terminate()
    assert await _fetch(postgres.dsn, "SELECT 1") == 1


async def test_postgres_with_the_pid_file_of_a_process_of_another_kind_starts(postgres: EmbeddedPostgres) -> None:
    postgres.kill()
    await postgres.wait()
    pid_file = postgres.data_dir / "storage" / "postmaster.pid"
    _, *rest = pid_file.read_text().splitlines()
    pid_file.write_text("\n".join([str(os.getpid()), *rest]) + "\n")

    await postgres.start()

    assert await _fetch(postgres.dsn, "SELECT 1") == 1


async def test_postgres_stopped_ends_open_connections_and_its_processes(postgres: EmbeddedPostgres) -> None:
    connection = await asyncpg.connect(postgres.dsn)
    pids = [postgres.pid, connection.get_server_pid()]

    await postgres.stop()

    assert [pid for pid in pids if pid is not None and is_alive(pid)] == []
    connection.terminate()


async def test_postgres_without_the_password_lets_nobody_in(postgres: EmbeddedPostgres) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(host="127.0.0.1", port=postgres.port, user="postgres", password="guess", database="postgres")
    assert stat.S_IMODE((postgres.data_dir / "password").stat().st_mode) == 0o600


async def test_create_database_twice_gives_two_that_are_empty(postgres: EmbeddedPostgres) -> None:
    first, second = await postgres.create_database(), await postgres.create_database()

    await _execute(first, "CREATE TABLE mine (id int)")

    assert await _fetch(first, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 1
    assert await _fetch(second, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0


async def test_postgres_that_cannot_start_shows_the_end_of_its_log_and_leaves_no_process(postgres: EmbeddedPostgres) -> None:
    await postgres.stop()
    (postgres.data_dir / "storage" / "PG_VERSION").write_text("9.6\n")

    with pytest.raises(PostgresUnavailable, match=r"(?s)ended with status 1 .*postgres\.log and ends with\n.*9\.6"):
        await postgres.start()

    assert postgres.pid is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root must step down to run PostgreSQL")
async def test_postgres_of_root_in_a_directory_closed_to_others_runs_and_leaves_it_closed(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    server = EmbeddedPostgres(closed / "postgres", durable=False)

    await server.start()

    try:
        assert server.pid is not None
        assert Path(f"/proc/{server.pid}").stat().st_uid != 0
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    finally:
        await server.stop()


async def test_postgres_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = """
import asyncio, sys
from pathlib import Path
import asyncpg
from streams.embedded.postgres import EmbeddedPostgres

async def main():
    server = EmbeddedPostgres(Path(sys.argv[1]), durable=False)
    await server.start()
    connection = await asyncpg.connect(server.dsn)
    print(server.pid, connection.get_server_pid(), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""
    async with parent_running(script, str(tmp_path)) as (parent, pids):
        assert all(map(is_alive, pids))

        parent.send_signal(signal.SIGKILL)

        await eventually(lambda: not any(map(is_alive, pids)))


def _is_running(pid: int) -> bool:
    """Whether the process is on a processor, or wants to be."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "R"


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute(statement)
    await connection.close()


async def _fetch(dsn: str, query: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()
