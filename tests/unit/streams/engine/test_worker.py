"""SIGHUP: what may change is read again, and a terminal that goes still ends its process."""

import asyncio
import os
import pty
import signal
import subprocess
import sys

from streams.engine.worker import on_hangup

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
