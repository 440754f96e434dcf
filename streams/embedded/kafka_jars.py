"""Kafka's jars: fetched once by ``jgo``, verified against ``kafka_jars.lock``, kept in the user's cache.

The lock names every jar with its size and SHA-256, so a start resolves nothing and trusts nothing: it reads the lock, looks
whether the files are there, and is done. A line of it reads ``group:artifact:version SIZE SHA-256``; the first is Kafka itself.
``python -m streams.embedded.kafka_jars`` (``make lock``) resolves the dependencies anew and writes it.
"""

import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from streams.embedded.file_lock import exclusive_lock
from streams.errors import TierstreamError

KAFKA_VERSION = "4.1.2"
LOCK = Path(__file__).with_name("kafka_jars.lock")

_KAFKA = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}"
_LOG4J = "org.apache.logging.log4j"
_PARALLEL_DOWNLOADS = 4
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Jar:
    """One locked jar: Maven coordinates, size in bytes, SHA-256 in hexadecimal."""

    group: str
    artifact: str
    version: str
    size: int
    sha256: str

    @property
    def path(self) -> Path:
        """Where it lies in a Maven repository, relative to its root."""
        return Path(*self.group.split("."), self.artifact, self.version, f"{self.artifact}-{self.version}.jar")

    def is_in(self, directory: Path) -> bool:
        """Whether a file of the right size is there."""
        try:
            return (directory / self.path).stat().st_size == self.size
        except OSError:
            return False


def read_lock(path: Path = LOCK) -> tuple[Jar, ...]:
    """Read the lock; the order is that of the class path."""
    jars: list[Jar] = []
    for line in path.read_text(encoding="ascii").splitlines():
        if not line.startswith("#"):
            coordinates, size, sha256 = line.split()
            group, artifact, version = coordinates.split(":")
            jars.append(Jar(group, artifact, version, int(size), sha256))
    return tuple(jars)


def cache_dir() -> Path:
    """The user's cache directory of tierstream (``XDG_CACHE_HOME`` is heeded); it need not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The specification says that a relative path is to be ignored.
    root = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    return root / "tierstream"


def repository(cache: Path | None = None) -> Path:
    """The directory that holds this Kafka's jars, laid out as a Maven repository; it need not exist yet."""
    return (cache or cache_dir()) / f"kafka-{KAFKA_VERSION}"


def class_path(
    console: Console | None = None, *, cache: Path | None = None, jars: Sequence[Jar] | None = None, remote: str | None = None
) -> str:
    """Kafka's class path; whatever is missing is downloaded first, with a progress bar on ``console`` (default: stderr).

    Offline and a matter of milliseconds once the jars are there. Safe to call from several processes at once: one downloads,
    the others wait. An interrupted download is taken up again. ``jars`` are those of the lock, and ``remote`` is Maven Central, unless given.

    Raises TierstreamError when a jar can not be had or differs from the lock.
    """
    jars = read_lock() if jars is None else jars
    directory = repository(cache)
    if not all(jar.is_in(directory) for jar in jars):
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with exclusive_lock(directory / ".lock"):
                missing = [jar for jar in jars if not jar.is_in(directory)]
                if missing:  # no other process was faster
                    _download(missing, directory, remote, console or Console(stderr=True))
        except OSError as error:
            raise TierstreamError(
                f"Kafka's jars can not be kept in {directory} ({error.strerror}); set XDG_CACHE_HOME to a directory that is writable."
            ) from error
    return os.pathsep.join(str(directory / jar.path) for jar in jars)


def _download(jars: Sequence[Jar], directory: Path, remote: str | None, console: Console) -> None:
    size = sum(jar.size for jar in jars)
    console.print(
        f"Fetching Apache Kafka {KAFKA_VERSION} once: {len(jars)} jars, {size / 1e6:.0f} MB, into {directory}",
        highlight=False,
        soft_wrap=True,
    )
    partial = directory / ".partial"
    columns = (TextColumn("Apache Kafka"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console) as progress, ThreadPoolExecutor(_PARALLEL_DOWNLOADS) as pool:
        task = progress.add_task("jars", total=size)

        def fetch(jar: Jar) -> None:
            whole = _fetch(jar, partial, remote, lambda received: progress.advance(task, received))
            (directory / jar.path).parent.mkdir(parents=True, exist_ok=True)
            whole.replace(directory / jar.path)

        downloads = [pool.submit(fetch, jar) for jar in jars]
        try:
            for download in downloads:
                download.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    shutil.rmtree(partial, ignore_errors=True)


def _fetch(jar: Jar, partial: Path, remote: str | None, advance: Callable[[int], None]) -> Path:
    """Download one jar into ``partial`` and return its path; what is there is whole, and is what the lock says."""
    received = 0

    @contextmanager
    def on_progress(name: str, total: int) -> Iterator[Callable[[int], None]]:
        def received_more(size: int) -> None:
            nonlocal received
            received += size
            advance(size)

        yield received_more

    artifact = _maven(partial, remote, on_progress).project(jar.group, jar.artifact).at_version(jar.version).artifact()
    for attempt in range(1, _ATTEMPTS + 1):
        (partial / jar.path).unlink(missing_ok=True)  # jgo takes a half-written file for a whole one
        try:
            file = Path(artifact.resolve())
            break
        except (RuntimeError, OSError) as error:  # not found, or no connection
            if attempt == _ATTEMPTS:
                raise TierstreamError(
                    f"Kafka's jar {jar.path.name} can not be downloaded ({type(error).__name__}); check the network, "
                    "or set TIERSTREAM_KAFKA_BOOTSTRAP_SERVERS to a broker that runs already."
                ) from error
            advance(-received)
            received = 0
    if hashlib.sha256(file.read_bytes()).hexdigest() != jar.sha256:
        file.unlink()
        raise TierstreamError(
            f"The downloaded {jar.path.name} differs from {LOCK.name} and was thrown away; try again, and distrust the network if it differs again."
        )
    return file


def _maven(directory: Path, remote: str | None = None, on_progress: Any = None) -> Any:
    """A Maven context that needs no Maven: jgo's resolver in Python, with ``directory`` as the local repository."""
    try:
        from jgo.maven import MavenContext, PythonResolver
    except ImportError as error:
        raise TierstreamError('The embedded Kafka needs the extra packages: pip install "tierstream[embedded]".') from error
    # A file that fails its remote checksum is only a warning to jgo; here the lock decides.
    logging.getLogger("jgo").setLevel(logging.ERROR)
    remotes = {"remote": remote} if remote else None
    return MavenContext(repo_cache=directory, remote_repos=remotes, resolver=PythonResolver(progress_callback=on_progress))


def resolve_lock(directory: Path) -> str:
    """Resolve Kafka's dependencies from its POMs and return the text of a new lock; downloads into ``directory``."""
    maven = _maven(directory)
    roots, dependencies = maven.resolver.resolve([maven.create_dependency(_KAFKA)])
    found = [dependency.artifact for dependency in (*roots, *dependencies)]
    # Kafka logs through SLF4J 1.7 and leaves the binding to its distribution; it must match the log4j that Kafka brings.
    log4j = next(artifact.version for artifact in found if artifact.artifactId == "log4j-core")
    found.append(maven.project(_LOG4J, "log4j-slf4j-impl").at_version(log4j).artifact())
    lines = ["# Written by `make lock`: group:artifact:version, size in bytes, SHA-256."]
    for artifact in found:
        content = artifact.resolve().read_bytes()
        lines.append(f"{artifact.groupId}:{artifact.artifactId}:{artifact.version} {len(content)} {hashlib.sha256(content).hexdigest()}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        LOCK.write_text(resolve_lock(Path(directory)), encoding="ascii")
