"""A supervised command of our own: its output goes line by line to a sink, and it may have a check that says when it is ready."""

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from streams.embedded.process import kill, spawn, stop
from streams.errors import StageFailed

READY_SECONDS = 60.0
STOP_SECONDS = 5.0
_POLL_SECONDS = 0.05
_READ_BYTES = 65_536
_TAIL_LINES = 8
_COLOURS = ("cyan", "green", "yellow", "blue", "magenta", "bright_cyan", "bright_green", "bright_magenta")

LineSink = Callable[[str], None]


class Program:
    """One child process that can be started again and again; see ``Service`` for what the calls promise.

    ``env`` is added to our own environment. ``ready`` is asked every 50 ms until it says yes; it must raise nothing and take little time.
    ``sink`` gets every line of stdout and stderr, without its end.
    """

    def __init__(
        self,
        title: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        sink: LineSink | None = None,
        ready: Callable[[], Awaitable[bool]] | None = None,
        ready_seconds: float = READY_SECONDS,
        stop_seconds: float = STOP_SECONDS,
    ) -> None:
        self.title = title
        self._argv = tuple(argv)
        self._env = dict(env or {})
        self._sink = sink
        self._ready = ready
        self._ready_seconds = ready_seconds
        self._stop_seconds = stop_seconds
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The process, or None while it does not run."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self) -> None:
        """Start the command and return when it is ready. Does nothing when it runs.

        Raises StageFailed with its last lines when it ends before that or is not ready in time; it is killed then.
        """
        if self.pid is not None:
            return
        self._tail.clear()
        process = await spawn(self._argv, env={**os.environ, **self._env}, output=asyncio.subprocess.PIPE)
        self._process = process
        assert process.stdout is not None  # a pipe was asked for
        self._reader = asyncio.create_task(self._pump(process.stdout), name=f"output of {self.title}")
        try:
            async with asyncio.timeout(self._ready_seconds):
                while self._ready and not await self._ready():
                    if process.returncode is not None:
                        await self._reader
                        raise StageFailed(self._explain(f"ended with status {process.returncode} before it was ready"))
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError as error:
            self.kill()
            raise StageFailed(self._explain(f"was not ready within {self._ready_seconds:g} s")) from error
        except BaseException:
            self.kill()
            raise

    async def wait(self) -> int:
        """Wait until the process ends and its output is read; its exit status, negative for a signal."""
        if self._process is None:
            return 0
        status = await self._process.wait()
        if self._reader:
            await asyncio.wait((self._reader,), timeout=1)  # a grandchild may hold the pipe for ever
        return status

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL for the whole process group after the grace."""
        if self._process:
            await stop(self._process, grace_seconds=self._stop_seconds)
            await self.wait()

    def kill(self) -> None:
        """SIGKILL for the whole process group."""
        if self._process:
            kill(self._process)

    async def _pump(self, stream: asyncio.StreamReader) -> None:
        rest = b""
        while chunk := await stream.read(_READ_BYTES):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._take(line)
        if rest:
            self._take(rest)

    def _take(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace").rstrip("\r")
        if text.strip():
            self._tail.append(text)
        if self._sink:
            self._sink(text)

    def _explain(self, failure: str) -> str:
        tail = "\n".join(f"  {line}" for line in self._tail)
        return f"{self.title} {failure}" + (f"; its last lines are\n{tail}" if tail else ", and it said nothing.")


def console_sink(console: Console, title: str, number: int = 0) -> LineSink:
    """Print each line behind the title in a colour of its own; ``number`` chooses the colour."""
    prefix = Text(f"{title:>11} ", style=_COLOURS[number % len(_COLOURS)])

    def show(line: str) -> None:
        console.print(prefix + Text.from_ansi(line), soft_wrap=True)

    return show


def file_sink(path: Path) -> LineSink:
    """Append each line to ``path``, whose directory is made when it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)

    def append(line: str) -> None:
        # Opened anew each time: the file may be rotated or removed while the stack runs, and lines are few.
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    return append
