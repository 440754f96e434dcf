"""Processes forked from one that has imported tierstream already: importing costs each a second of a core, and tests start hundreds of them.

``python -m tests.forked FD`` is that one. It does nothing but fork, so it has a single thread, and what it forks is in no way
different from a process that has done its imports itself. Whatever ends a test run ends all of them.
"""

import asyncio
import atexit
import functools
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from streams.embedded.launcher import die_with_parent
from streams.embedded.stack import environment_of
from streams.settings import PREFIX, Settings

ROOT = Path(__file__).parents[1]
_REQUEST_BYTES = 1 << 17
_HANDLES = 3


class ForkedProcess:
    """A process that runs ``main()`` of ``module`` with these arguments and this environment alone. The rest is as of ``subprocess.Popen``."""

    def __init__(
        self, module: str, arguments: Sequence[str], *, env: Mapping[str, str], stdout: int, stderr: int, cwd: Path | None = None
    ) -> None:
        """Fork it; returns once it runs. ``stdout`` and ``stderr`` are file descriptors, which stay the caller's own."""
        self.returncode: int | None = None
        request = json.dumps([module, list(arguments), dict(env), str(cwd or Path.cwd())]).encode()
        assert len(request) < _REQUEST_BYTES
        self._status, status = os.pipe()
        try:
            socket.send_fds(_server(), [request], [stdout, stderr, status])
        finally:
            os.close(status)
        self._said = b""
        while b"\n" not in self._said:
            self._read()
        pid, _, self._said = self._said.partition(b"\n")
        self.pid = int(pid)

    def poll(self) -> int | None:
        """Return its exit status, negative for a signal; None while it runs."""
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return its exit status. Raises subprocess.TimeoutExpired."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._status], [], [], left)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            self._read()
            if b"\n" in self._said:
                os.close(self._status)
                self.returncode = int(self._said)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send it SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send it SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _read(self) -> None:
        part = os.read(self._status, 100)
        assert part, "the process that forks has ended"
        self._said += part


class Forked:
    """A process that can be started later; ``sink`` gets every line that it prints."""

    def __init__(self, module: str, arguments: Sequence[str], *, env: Mapping[str, str], sink: Callable[[str], None]) -> None:
        self._fork = functools.partial(ForkedProcess, module, arguments, env=env)
        self._sink = sink
        self._process: ForkedProcess | None = None
        self._end: asyncio.Task[int] | None = None

    @property
    def pid(self) -> int | None:
        """The process, or None while it does not run."""
        return self._process.pid if self._process and self._end and not self._end.done() else None

    async def start(self) -> None:
        """Have it forked; returns once it runs."""
        output, printed = os.pipe()
        try:
            self._process = await asyncio.to_thread(self._fork, stdout=printed, stderr=printed)
        finally:
            os.close(printed)
        self._end = asyncio.create_task(self._follow(self._process, await _reader(output)))

    async def wait(self) -> int:
        """Wait until the process ends and its output is read; its exit status, negative for a signal."""
        assert self._end is not None
        return await asyncio.shield(self._end)

    def kill(self) -> None:
        """End it by SIGKILL, unless it has ended."""
        if self._process is not None and self.pid is not None:
            self._process.kill()

    async def _follow(self, process: ForkedProcess, lines: asyncio.StreamReader) -> int:
        async for line in lines:
            self._sink(line.decode("utf-8", "replace").rstrip())
        return await asyncio.to_thread(process.wait)


def tierstream(*command: str, env: Mapping[str, str], cwd: Path | None = None, timeout: float = 60.0) -> "subprocess.CompletedProcess[str]":
    """Run a command of the command line in a process of its own, with this environment alone. Raises subprocess.TimeoutExpired."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = ForkedProcess("streams.cli", command, env=env, cwd=cwd, stdout=out.fileno(), stderr=err.fileno())
        try:
            status = process.wait(timeout)
        finally:
            process.kill()
        said = []
        for file in (out, err):
            file.seek(0)
            said.append(file.read().decode())
    return subprocess.CompletedProcess(command, status, *said)


async def operated(settings: Settings, *command: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run a command as an operator does, whose settings are these. ``variables`` are further ones, without their prefix."""
    own = {PREFIX + name: value for name, value in variables.items()}
    return await asyncio.to_thread(tierstream, *command, env={**environment_of(settings), "PATH": "/usr/bin:/bin", **own})


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
        request, handles, _, _ = socket.recv_fds(control, _REQUEST_BYTES, _HANDLES)
        if not request:
            return
        if os.fork() == 0:
            control.close()
            _watch(json.loads(request), *handles)
        for handle in handles:
            os.close(handle)


def _watch(request: tuple[str, list[str], dict[str, str], str], stdout: int, stderr: int, status: int) -> NoReturn:
    """Fork the process itself, and say its number and how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    die_with_parent(signal.SIGKILL, os.getppid())
    watcher = os.getpid()
    pid = os.fork()
    if pid == 0:
        die_with_parent(signal.SIGKILL, watcher)
        os.close(status)
        _become(*request, stdout, stderr)
    os.close(stdout)
    os.close(stderr)
    os.write(status, b"%d\n" % pid)
    _, ended = os.waitpid(pid, 0)
    os.write(status, b"%d\n" % os.waitstatus_to_exitcode(ended))
    os._exit(0)


def _become(module: str, arguments: list[str], environment: dict[str, str], directory: str, stdout: int, stderr: int) -> NoReturn:
    """Be the process from here on."""
    os.setsid()
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.close(stdout)
    os.close(stderr)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [module, *arguments]
    importlib.import_module(module).main()
    sys.exit(0)


def main() -> None:
    """Import what stages, commands and the gateway import once they have their settings, and fork on request."""
    for name in (
        "agents.registry",
        "streams.cli",
        "streams.engine.worker",
        "streams.gateway.server",
        "tests.faults.crashing_worker",
        "tests.faults.forward_worker",
        "uvloop",
    ):
        importlib.import_module(name)
    serve(socket.socket(fileno=int(sys.argv[1])))


if __name__ == "__main__":
    main()
