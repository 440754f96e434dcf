"""Keeps processes alive: what dies is started again, what is started is stopped again, in reverse order."""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from streams.errors import TierstreamError

STABLE_SECONDS = 30.0
MAX_DELAY_SECONDS = 5.0
_FIRST_DELAY_SECONDS = 0.25


class Service(Protocol):
    """What can be supervised: EmbeddedKafka, EmbeddedPostgres, Program."""

    @property
    def pid(self) -> int | None:
        """The process, or None while it does not run."""

    async def start(self) -> None:
        """Start the process and return when it is ready; when that fails or is cancelled, leave none behind. Raises TierstreamError."""

    async def wait(self) -> int:
        """Wait until the process ends; its exit status, negative for a signal."""

    async def stop(self) -> None:
        """End the process in order, or by force after a grace of its own."""

    def kill(self) -> None:
        """End the process by force, without waiting."""


PidTable = Mapping[str, list[int]]


def restart_delay(deaths: int) -> float:
    """Seconds to wait before a restart, after ``deaths`` ends in a row without a stable run between them: none after the first."""
    return 0.0 if deaths <= 1 else min(_FIRST_DELAY_SECONDS * 2.0 ** min(deaths - 2, 16), MAX_DELAY_SECONDS)


@dataclass(slots=True)
class _Supervised:
    name: str
    service: Service
    pid: int | None = None
    watcher: asyncio.Task[None] | None = None


class Supervisor:
    """Starts services in layers, restarts those that die, and stops the layers in reverse order on leaving the ``async with`` block.

    ``on_change`` gets the table name → pids (in the order of their start) after every start and restart. A dead process's number
    stays in the table until its successor is ready, so that a name never vanishes from it. ``report`` gets one sentence for each end and restart.
    """

    def __init__(
        self,
        *,
        on_change: Callable[[PidTable], None] | None = None,
        report: Callable[[str], None] | None = None,
        stable_seconds: float = STABLE_SECONDS,
    ) -> None:
        self._on_change = on_change
        self._report = report or (lambda _: None)
        self._stable_seconds = stable_seconds
        self._layers: list[list[_Supervised]] = []  # what was started together is stopped together
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def pids(self) -> dict[str, list[int]]:
        """Name → pids, in the order of their start."""
        table: dict[str, list[int]] = {}
        for layer in self._layers:
            for member in layer:
                if member.pid is not None:
                    table.setdefault(member.name, []).append(member.pid)
        return table

    async def start(self, *services: tuple[str, Service]) -> None:
        """Start one layer, all of it at once, and return when every one is ready. Several services may share a name.

        Raises the first TierstreamError; the others of the layer are then stopped by leaving the block.
        """
        layer = [_Supervised(name, service) for name, service in services]
        self._layers.append(layer)
        try:
            async with asyncio.TaskGroup() as group:
                for member in layer:
                    group.create_task(self._start_one(member))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        self._emit_pids()

    async def run_until(self, stopped: asyncio.Event) -> None:
        """Return when ``stopped`` is set. Raises what keeps the supervisor itself from working, such as a ready file that can not be written."""
        waiting = asyncio.ensure_future(stopped.wait())
        try:
            await asyncio.wait((waiting, self._broken), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if self._broken.done():
            self._broken.result()

    def signal(self, name: str, number: int) -> None:
        """Send a signal to each process of that name which runs."""
        for pid in [member.service.pid for layer in self._layers for member in layer if member.name == name]:
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    async def stop(self) -> None:
        """Stop the layers in reverse order, each at once and in its own reverse order. Whatever happens, no process is left."""
        members = [member for layer in self._layers for member in layer]
        watchers = [member.watcher for member in members if member.watcher]
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)
        try:
            for layer in reversed(self._layers):
                await asyncio.gather(*(member.service.stop() for member in reversed(layer)))
        finally:
            for member in members:
                member.service.kill()
            self._layers.clear()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    async def _start_one(self, member: _Supervised) -> None:
        await member.service.start()
        member.pid = member.service.pid
        member.watcher = asyncio.create_task(self._watch(member), name=f"watch {member.name}")
        member.watcher.add_done_callback(self._watcher_ended)

    async def _watch(self, member: _Supervised) -> None:
        """Restart ``member`` whenever it ends, for ever."""
        deaths = 0
        born = time.monotonic()
        while True:
            status = await member.service.wait()
            deaths = 1 if time.monotonic() - born >= self._stable_seconds else deaths + 1
            self._report(f"{member.name} (process {member.pid}) {describe_status(status)} and is started again.")
            while True:
                await asyncio.sleep(restart_delay(deaths))
                born = time.monotonic()
                try:
                    await member.service.start()
                except (TierstreamError, OSError) as error:
                    deaths += 1
                    self._report(str(error))
                else:
                    break
            member.pid = member.service.pid or member.pid
            self._emit_pids()

    def _emit_pids(self) -> None:
        if self._on_change:
            self._on_change(self.pids)

    def _watcher_ended(self, watcher: asyncio.Task[None]) -> None:
        if not watcher.cancelled() and (error := watcher.exception()) and not self._broken.done():
            self._broken.set_exception(error)


def describe_status(status: int) -> str:
    """An exit status in words."""
    return f"ended with status {status}" if status >= 0 else f"was ended by signal {-status}"
