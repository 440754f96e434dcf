"""A real PgBouncer in transaction mode, in front of a real PostgreSQL."""

import asyncio
import os
import pwd
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from streams.embedded.process import free_port, last_lines, spawn, stop
from streams.stores.pool import connect

UNPRIVILEGED = "nobody"
"""Root's PgBouncer runs as this user, for it refuses to run as root."""

SERVER_CONNECTIONS = 5
"""Few, so that clients get each other's server connections all the time."""

_START_SECONDS = 15.0


def program() -> str:
    """Return the path of pgbouncer; skip the test that asks where there is none."""
    found = shutil.which("pgbouncer", path=os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin")))
    if found is None:
        pytest.skip("there is no pgbouncer here; install it (Debian: apt-get install pgbouncer)")
    return found


@asynccontextmanager
async def running_pgbouncer(server: str, directory: Path) -> AsyncIterator[str]:
    """Run a PgBouncer in transaction mode before the PostgreSQL at ``server`` (a DSN); gives its DSN for the same database.

    It has every database of that server under its own name, logs in as the user of ``server``, and lets anybody in.
    """
    target, port = urlsplit(server), free_port()
    config, log = directory / "pgbouncer.ini", directory / "pgbouncer.log"
    config.write_text(
        f"""
[databases]
* = host={target.hostname} port={target.port} user={target.username} password={target.password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {SERVER_CONNECTIONS}
max_client_conn = 1000
logfile =
""",
        encoding="ascii",
    )
    as_root = os.geteuid() == 0
    if as_root:
        os.chown(config, pwd.getpwnam(UNPRIVILEGED).pw_uid, -1)
    with log.open("ab") as output:
        process = await spawn((program(), str(config)), cwd=directory, output=output, user=UNPRIVILEGED if as_root else None)
    dsn = urlunsplit(target._replace(netloc=f"{target.username}@127.0.0.1:{port}"))
    try:
        await _until_it_answers(dsn, process, log)
        yield dsn
    finally:
        await stop(process, grace_seconds=3.0)


async def _until_it_answers(dsn: str, process: asyncio.subprocess.Process, log: Path) -> None:
    async with asyncio.timeout(_START_SECONDS):
        while True:
            assert process.returncode is None, f"pgbouncer ended with status {process.returncode}:\n{last_lines(log)}"
            try:
                connection = await connect(dsn, "test")
            except OSError:
                await asyncio.sleep(0.02)
            else:
                await connection.close()
                return
