"""Kafka's jars come from the lock, and from the cache once they are there."""

import gc
import hashlib
import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest
from rich.console import Console

from streams.embedded import kafka_jars
from streams.embedded.kafka_jars import KAFKA_VERSION, Jar, cache_dir, class_path, read_lock, repository
from streams.errors import TierstreamError

# jgo leaves the connection of an answer other than 200 to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning")

CONTENT = b"a small jar" * 10_000


def jar(artifact: str, content: bytes = CONTENT) -> Jar:
    return Jar("org.example", artifact, "1.0", len(content), hashlib.sha256(content).hexdigest())


class Repository(BaseHTTPRequestHandler):
    """A Maven repository in which every jar has the same content, but for those called ``broken``; ``flaky`` fails once."""

    requested: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        first = name not in self.requested
        self.requested.append(name)
        found = name.endswith(".jar") and not (name.startswith("flaky") and first) and not name.startswith("absent")
        body = b"?" * len(CONTENT) if name.startswith("broken") else CONTENT
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(body) if found else 0))
        self.end_headers()
        if found:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def remote() -> Iterator[str]:
    Repository.requested = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Repository) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
    gc.collect()


def fetch(cache: Path, remote: str, *jars: Jar) -> list[str]:
    """Ask for the class path, and say what was asked of the repository."""
    Repository.requested.clear()
    class_path(Console(quiet=True), cache=cache, jars=jars, remote=remote)
    return sorted(name for name in Repository.requested if name.endswith(".jar"))


def test_lock_begins_with_kafka_of_the_pinned_version_and_binds_its_logging() -> None:
    jars = read_lock()

    assert (jars[0].artifact, jars[0].version) == ("kafka_2.13", KAFKA_VERSION)
    assert {found.version for found in jars if found.group == "org.apache.kafka"} == {KAFKA_VERSION}
    assert {"log4j-slf4j-impl", "log4j-core"} <= {found.artifact for found in jars}
    assert len({found.path for found in jars}) == len(jars)
    assert all(found.size > 0 and len(found.sha256) == 64 for found in jars)


def test_class_path_downloads_what_is_missing_once(tmp_path: Path, remote: str) -> None:
    assert fetch(tmp_path, remote, jar("a"), jar("b")) == ["a-1.0.jar", "b-1.0.jar"]
    assert fetch(tmp_path, remote, jar("a"), jar("b")) == []
    assert fetch(tmp_path, remote, jar("a"), jar("c")) == ["c-1.0.jar"]

    paths = class_path(cache=tmp_path, jars=(jar("b"), jar("a"))).split(os.pathsep)
    assert [Path(path).name for path in paths] == ["b-1.0.jar", "a-1.0.jar"]
    assert all(Path(path).read_bytes() == CONTENT for path in paths)


def test_class_path_fetches_a_truncated_jar_again(tmp_path: Path, remote: str) -> None:
    fetch(tmp_path, remote, jar("a"))
    (repository(tmp_path) / jar("a").path).write_bytes(CONTENT[:100])

    assert fetch(tmp_path, remote, jar("a")) == ["a-1.0.jar"]

    assert (repository(tmp_path) / jar("a").path).read_bytes() == CONTENT


def test_class_path_after_an_interrupted_download_begins_that_jar_anew(tmp_path: Path, remote: str) -> None:
    partial = repository(tmp_path) / ".partial" / jar("a").path
    partial.parent.mkdir(parents=True)
    partial.write_bytes(CONTENT[:100])

    assert fetch(tmp_path, remote, jar("a")) == ["a-1.0.jar"]

    assert (repository(tmp_path) / jar("a").path).read_bytes() == CONTENT


def test_class_path_tries_a_failed_download_again(tmp_path: Path, remote: str) -> None:
    assert fetch(tmp_path, remote, jar("flaky")) == ["flaky-1.0.jar", "flaky-1.0.jar"]


def test_class_path_refuses_a_jar_that_differs_from_the_lock(tmp_path: Path, remote: str) -> None:
    with pytest.raises(TierstreamError, match=r"broken-1\.0\.jar differs from kafka_jars\.lock"):
        fetch(tmp_path, remote, jar("broken"))

    assert not (repository(tmp_path) / jar("broken").path).exists()


def test_class_path_without_the_jar_anywhere_says_which_and_what_to_do(tmp_path: Path, remote: str) -> None:
    with pytest.raises(TierstreamError, match=r"absent-1\.0\.jar can not be downloaded .*TIERSTREAM_KAFKA_BOOTSTRAP_SERVERS"):
        fetch(tmp_path, remote, jar("absent"))


def test_class_path_with_no_room_for_the_cache_says_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(TierstreamError, match="set XDG_CACHE_HOME"):
        class_path(cache=tmp_path / "file", jars=(jar("a"),))


@pytest.mark.parametrize(
    ("variable", "expected"), [("/some/cache", "/some/cache/tierstream"), ("relative", "~/.cache/tierstream"), ("", "~/.cache/tierstream")]
)
def test_cache_dir_heeds_an_absolute_xdg_cache_home(monkeypatch: pytest.MonkeyPatch, variable: str, expected: str) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", variable)

    assert cache_dir() == Path(expected).expanduser()
    assert kafka_jars.repository().parent == cache_dir()
