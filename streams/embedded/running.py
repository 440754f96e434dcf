"""The running ``tierstream up`` of a directory: its settings in ``up.env``, for the commands that are called beside it.

``up`` holds ``up.lock`` for as long as it runs, so that a file left behind by a killed process is never used. Both files stand in
``.tierstream`` of the working directory, or in ``--data-dir``.
"""

import contextlib
import fcntl
import os
import shlex
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from streams.embedded.ready_file import replace_file
from streams.errors import ConfigurationError
from streams.settings import PREFIX

DIRECTORY = Path(".tierstream")
"""Where ``up`` without ``--data-dir`` writes, relative to the working directory."""

_FILE = "up.env"
_LOCK = "up.lock"
_PID = f"{PREFIX}UP_PID"

_LOCK_SECONDS = 0.5
"""A command that checks whether ``up`` runs holds the lock for microseconds: ``up`` tries again for so long."""


@dataclass(frozen=True, slots=True)
class RunningStack:
    """A running ``up``: its process, and its settings by environment variable."""

    pid: int
    variables: Mapping[str, str]


@contextlib.contextmanager
def published(directory: Path, variables: Mapping[str, str]) -> Iterator[bool]:
    """Write ``variables`` to ``up.env`` in ``directory`` for the time of the block; gives whether it did.

    It does not where another ``up`` of the same directory runs already: commands go on to use that one. The file is readable for its
    owner only, since it holds passwords. Raises ConfigurationError when the directory can not be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / _LOCK).open("a")
    except OSError as error:
        raise ConfigurationError(f"{directory} can not be written ({error.strerror}); start tierstream up elsewhere.") from error
    with lock:
        if not _locked(lock.fileno()):
            yield False
            return
        file = directory / _FILE
        lines = {_PID: str(os.getpid()), **variables}
        replace_file(file, "".join(f"{name}={shlex.quote(value)}\n" for name, value in lines.items()))
        try:
            yield True
        finally:
            file.unlink(missing_ok=True)


def running_stack(directory: Path) -> RunningStack | None:
    """Return the ``up`` that runs with ``directory``, or None. Raises ConfigurationError when its file is not one of ``up``."""
    file = directory / _FILE
    try:
        with (directory / _LOCK).open() as lock:
            text = file.read_text(encoding="utf-8")
            if _locked(lock.fileno(), fcntl.LOCK_SH, 0.0):
                return None  # its process has ended without removing the file
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"{file} can not be read ({error.strerror}); set the addresses, or run as the user of up.") from error
    try:
        variables = dict(word.split("=", 1) for word in shlex.split(text, comments=True))
        return RunningStack(int(variables.pop(_PID)), variables)
    except (ValueError, KeyError) as error:
        raise ConfigurationError(f"{file} is not what tierstream up writes; remove it and start up again.") from error


def _locked(descriptor: int, how: int = fcntl.LOCK_EX, seconds: float = _LOCK_SECONDS) -> bool:
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.01)
        else:
            return True
