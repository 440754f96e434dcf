"""Processes forked from one that has imported a stage already: importing costs each a second of a core, and tests start dozens of them.

``python -m tests.faults.forked FD`` is that one. It does nothing but fork, so it has a single thread, and what it forks is in no way
different from a process that has done its imports itself. Whatever ends a test run ends all of them.
"""

import asyncio
import atexit
import functools
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from streams.embedded.launcher import die_with_parent
from tests.faults import crashing_worker

ROOT = Path(__file__).parents[2]
_REQUEST_BYTES = 1 << 17


class Forked:
    """A process of ``crashing_worker`` with these arguments and this environment alone; ``sink`` gets every line that it prints."""

    def __init__(self, arguments: Sequence[str], *, env: Mapping[str, str], sink: Callable[[str], None]) -> None:
        self._request = json.dumps([arguments, dict(env)]).encode()
        self._sink = sink
        self._pid = 0
        self._end: asyncio.Task[int] | None = None

    @property
    def pid(self) -> int | None:
        """The process, or None while it does not run."""
        return self._pid if self._end and not self._end.done() else None

    async def start(self) -> None:
        """Have it forked; returns once it runs."""
        output, printed = os.pipe()
        status, write_status = os.pipe()
        try:
            assert len(self._request) < _REQUEST_BYTES
            await asyncio.to_thread(socket.send_fds, _server(), [self._request], [printed, write_status])
        finally:
            os.close(printed)
            os.close(write_status)
        lines, statuses = await _reader(output), await _reader(status)
        self._pid = int(await statuses.readline())
        self._end = asyncio.create_task(self._follow(lines, statuses))

    async def wait(self) -> int:
        """Wait until the process ends and its output is read; its exit status, negative for a signal."""
        assert self._end is not None
        return await asyncio.shield(self._end)

    def kill(self) -> None:
        """End it by SIGKILL, unless it has ended."""
        if self.pid is not None:
            os.kill(self._pid, signal.SIGKILL)

    async def _follow(self, lines: asyncio.StreamReader, statuses: asyncio.StreamReader) -> int:
        async for line in lines:
            self._sink(line.decode("utf-8", "replace").rstrip())
        return int(await statuses.readline())


async def _reader(end: int) -> asyncio.StreamReader:
    """Read a pipe; it is closed at its end."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(end, "rb"))
    return reader


@functools.cache
def _server() -> socket.socket:
    """Start the process that forks, once in a test run, and return what it takes requests by."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        command = [sys.executable, "-m", __name__, str(its.fileno())]
        process = subprocess.Popen(command, cwd=ROOT, pass_fds=[its.fileno()], stdin=subprocess.DEVNULL)

    def end() -> None:
        ours.close()
        process.wait(10)

    atexit.register(end)
    return ours


def serve(control: socket.socket) -> None:
    """Fork a process for each request until there is nobody to ask for one."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # whoever watches a process need not be waited for
    while True:
        request, handles, _, _ = socket.recv_fds(control, _REQUEST_BYTES, 2)
        if not request:
            return
        if os.fork() == 0:
            control.close()
            _watch(json.loads(request), *handles)
        for handle in handles:
            os.close(handle)


def _watch(request: tuple[list[str], dict[str, str]], output: int, status: int) -> None:
    """Fork the process itself, and say its number and how it ended; returns never."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    die_with_parent(signal.SIGKILL, os.getppid())
    watcher = os.getpid()
    pid = os.fork()
    if pid == 0:
        die_with_parent(signal.SIGKILL, watcher)
        os.close(status)
        _become(*request, output)
    os.close(output)
    os.write(status, b"%d\n" % pid)
    _, ended = os.waitpid(pid, 0)
    os.write(status, b"%d\n" % os.waitstatus_to_exitcode(ended))
    os._exit(0)


def _become(arguments: list[str], environment: dict[str, str], output: int) -> None:
    """Be the process from here on."""
    os.setsid()
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.environ.clear()
    os.environ.update(environment)
    crashing_worker.main(arguments)


def main() -> None:
    """Import what stages and the gateway import once they have their settings, and fork on request."""
    for name in ("agents.registry", "streams.engine.worker", "streams.gateway.server", "uvloop"):
        importlib.import_module(name)
    serve(socket.socket(fileno=int(sys.argv[1])))


if __name__ == "__main__":
    main()
