"""The running ``tierstream up`` of a directory: its settings in ``up.env``, for the commands that are called beside it.

``up`` holds a lock on the file that it has written for as long as it runs. A file that nobody locks is left from a killed process and
is never used, not even while its successor starts. It stands in ``.tierstream`` of the working directory, or in ``--data-dir``.
"""

import contextlib
import fcntl
import os
import shlex
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from streams.errors import ConfigurationError
from streams.settings import PREFIX

DIRECTORY = Path(".tierstream")
"""Where ``up`` without ``--data-dir`` writes, relative to the working directory."""

_FILE = "up.env"
_PID = f"{PREFIX}UP_PID"


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
    if running_stack(directory) is not None:
        yield False
        return
    path = directory / _FILE
    lines = {_PID: str(os.getpid()), **variables}
    try:
        file = _locked_file(path, "".join(f"{name}={shlex.quote(value)}\n" for name, value in lines.items()))
    except OSError as error:
        raise ConfigurationError(f"{directory} can not be written ({error.strerror}); start tierstream up elsewhere.") from error
    with file:
        try:
            yield True
        finally:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                    path.unlink()


def _locked_file(path: Path, text: str) -> IO[str]:
    """Replace ``path`` with ``text`` and return the open file, which holds the lock. It is locked before it has its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    file = os.fdopen(descriptor, "w", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(text)
        file.flush()
        os.replace(temporary, path)
    except BaseException:
        file.close()
        os.unlink(temporary)
        raise
    return file


def running_stack(directory: Path) -> RunningStack | None:
    """Return the ``up`` that runs with ``directory``, or None.

    Raises ConfigurationError when the file is another user's (its addresses could lead anywhere), or is not one of ``up``.
    """
    path = directory / _FILE
    try:
        with path.open(encoding="utf-8") as file:
            if not _is_locked(file.fileno()):
                return None
            owner, text = os.fstat(file.fileno()).st_uid, file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigurationError(f"{path} can not be read ({error.strerror}); set the addresses, or run as the user of up.") from error
    if owner != os.geteuid():
        raise ConfigurationError(f"{path} belongs to another user; set the addresses, or run as the user of up.")
    try:
        variables = dict(word.split("=", 1) for word in shlex.split(text, comments=True))
        return RunningStack(int(variables.pop(_PID)), variables)
    except (ValueError, KeyError) as error:
        raise ConfigurationError(f"{path} is not what tierstream up writes; remove it and start up again.") from error


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
