"""SIGTERM for a command that is the first process of its container."""

import os
import signal
from types import FrameType


def end_on_sigterm() -> None:
    """Let SIGTERM end the first process of a container with status 143, as it ends any other process.

    The kernel gives that process no default action: without a handler the signal is lost. Long-running commands put their own in its place.
    """
    if os.getpid() == 1:
        signal.signal(signal.SIGTERM, _end)


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)
