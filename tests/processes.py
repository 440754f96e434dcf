"""Processes that a test starts, and whether they run."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

PROC = Path("/proc/self").parent


def is_alive(pid: int) -> bool:
    """Whether a process of this number runs; one that has ended and waits to be reaped does not."""
    try:
        os.kill(pid, 0)
        # Between two looks at a process it may end: where there is a /proc, its file is missing then, or ESRCH is read.
        return not PROC.is_dir() or (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
    except PermissionError:
        return True


@asynccontextmanager
async def parent_running(script: str, *arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, list[int]]]:
    """Run a Python script that starts children and prints their pids on one line, and then waits; yield it and the pids."""
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", script, *arguments, stdout=asyncio.subprocess.PIPE)
    try:
        assert parent.stdout is not None
        async with asyncio.timeout(60):
            line = await parent.stdout.readline()
        yield parent, [int(pid) for pid in line.split()]
    finally:
        if parent.returncode is None:
            parent.send_signal(signal.SIGKILL)
        await parent.wait()
