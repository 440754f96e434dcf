"""SIGHUP: what may change is read again, and a terminal that goes still ends its process. A start that does not come to an end can be stopped."""

import asyncio
import os
import pty
import signal
import subprocess
import sys
from typing import Any, cast

import pytest
from aiokafka.errors import GroupAuthorizationFailedError

from streams.engine.app import Stage
from streams.engine.worker import on_hangup, run_stages, start_app
from streams.errors import KafkaUnavailable
from streams.settings import Settings

READS_AGAIN = """
import asyncio
from streams.engine.worker import on_hangup

async def main():
    stop = asyncio.Event()
    with on_hangup(stop, lambda: print("read again", flush=True)):
        print("up", flush=True)
        await stop.wait()
    print("stopped", flush=True)

asyncio.run(main())
"""


class Starting:
    """A stage whose Faust app waits for a group that it can not join."""

    def __init__(self) -> None:
        self.app = self
        self.settings = Settings()
        self.refusal: BaseException | None = None
        self.cancelled = False

    async def start(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled = True


async def test_stage_that_does_not_come_to_start_is_stopped_when_it_is_told_to() -> None:
    stage, stop = Starting(), asyncio.Event()
    stopping = asyncio.create_task(stop.wait())
    starting = asyncio.create_task(start_app(cast(Stage, stage), cast(Any, stopping)))
    await asyncio.sleep(0)

    stop.set()
    await asyncio.wait_for(starting, 5)

    await asyncio.sleep(0)
    assert stage.cancelled


async def test_worker_that_waits_for_kafka_is_stopped_when_it_is_told_to() -> None:
    """Also while a request is under way, which nothing can interrupt: the thread that waits for it is left behind."""
    stop = asyncio.Event()
    settings = Settings(kafka_bootstrap_servers="127.0.0.1:1", kafka_wait_seconds=60)
    waiting = asyncio.create_task(run_stages(settings, [], stop))
    await asyncio.sleep(0.05)
    assert not waiting.done()

    stop.set()

    await asyncio.wait_for(waiting, 2)


async def test_stage_that_may_not_join_its_group_does_not_wait_for_ever() -> None:
    stage, stopping = Starting(), asyncio.create_task(asyncio.Event().wait())
    stage.refusal = GroupAuthorizationFailedError("tierstream.audit")
    try:
        with pytest.raises(KafkaUnavailable, match=r"does not allow this client to read tierstream\.audit; grant what"):
            await asyncio.wait_for(start_app(cast(Stage, stage), cast(Any, stopping)), 5)
    finally:
        stopping.cancel()


async def test_hangup_makes_every_call_each_time_and_none_after_the_block() -> None:
    stop, calls = asyncio.Event(), list[str]()
    before = signal.getsignal(signal.SIGHUP)

    with on_hangup(stop, lambda: calls.append("one"), lambda: calls.append("two")):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGHUP)
            await asyncio.sleep(0.05)

    assert calls == ["one", "two", "one", "two"]
    assert not stop.is_set()
    assert signal.getsignal(signal.SIGHUP) == before


def test_hangup_of_a_terminal_that_has_gone_stops_the_process() -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", READS_AGAIN], stdin=theirs, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            os.close(theirs)
            assert process.stdout.readline() == "up\n"
            process.send_signal(signal.SIGHUP)
            assert process.stdout.readline() == "read again\n"

            os.close(ours)
            process.send_signal(signal.SIGHUP)

            assert process.communicate(timeout=10)[0] == "stopped\n"
        finally:
            process.kill()
