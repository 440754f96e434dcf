"""Child processes that never outlive us, their ports, and the tails of their logs."""

import asyncio
import os
import random
import signal
import socket
import sys
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from streams.errors import TierstreamError

_LAUNCHER = str(Path(__file__).with_name("launcher.py"))
# Below the ephemeral ports of Linux and macOS: while a broker is down, a client that dials its port again and again would
# sooner or later be given that very port as its own source port, be connected to itself, and keep the broker from binding it.
_FIRST_PORT, _LAST_PORT = 20_000, 32_000
_PORT_ATTEMPTS = 100

Output = int | IO[bytes]


async def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    output: Output = asyncio.subprocess.DEVNULL,
    death_signal: signal.Signals = signal.SIGKILL,
    user: str | None = None,
) -> asyncio.subprocess.Process:
    """Start ``argv`` in a session of its own, so that a terminal's Ctrl-C reaches only us; stdin is empty.

    ``output`` takes stdout and stderr. On Linux the child gets ``death_signal`` when the *thread* that runs this event loop
    ends; elsewhere it outlives a SIGKILL of ours. ``user`` needs root.
    """
    launcher = (sys.executable, "-I", "-S", _LAUNCHER, str(int(death_signal)), str(os.getpid()), user or "-")
    return await asyncio.create_subprocess_exec(
        *launcher,
        *argv,
        env=env,
        cwd=cwd,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )


async def stop(process: asyncio.subprocess.Process, *, grace_seconds: float, request: signal.Signals = signal.SIGTERM) -> int:
    """Send ``request``, wait for the end for ``grace_seconds``, and kill what is left of the process group then. Returns the exit status.

    Also kills when cancelled, so that no cancellation leaves a child behind.
    """
    if process.returncode is not None:
        return process.returncode
    try:
        process.send_signal(request)
        async with asyncio.timeout(grace_seconds):
            await process.wait()
    except (TimeoutError, ProcessLookupError):
        pass  # too slow, or ended on its own in this very moment
    finally:
        _kill_group(process.pid)
    return await process.wait()


def kill(process: asyncio.subprocess.Process) -> None:
    """SIGKILL the process and its whole group. Does nothing when it has ended."""
    if process.returncode is None:
        _kill_group(process.pid)


def _kill_group(leader: int) -> None:
    with suppress(ProcessLookupError):  # nothing is left
        os.killpg(leader, signal.SIGKILL)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now, outside the range that the kernel hands out."""
    for _ in range(_PORT_ATTEMPTS):
        port = random.randint(_FIRST_PORT, _LAST_PORT)
        if is_free(port):
            return port
    raise TierstreamError(f"No free TCP port was found on 127.0.0.1 between {_FIRST_PORT} and {_LAST_PORT}.")


def free_ports(count: int, besides: Collection[int | None] = ()) -> list[int]:
    """So many different ones, none of them in ``besides``."""
    found: list[int] = []
    while len(found) < count:
        port = free_port()
        if port not in found and port not in besides:
            found.append(port)
    return found


def is_free(port: int) -> bool:
    """Whether a server could listen on ``port`` of 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def last_lines(*logs: Path, count: int = 8) -> str:
    """The last ``count`` lines of each log that exists, without Java's stack traces, for an error that is to explain itself."""
    lines: list[str] = []
    for log in logs:
        if log.is_file():
            with log.open(encoding="utf-8", errors="replace") as file:
                lines += deque((line.rstrip() for line in file if line.strip() and not line.startswith("\tat ")), maxlen=count)
    return "\n".join(f"  {line}" for line in lines)
