"""The image by itself: how large it is, whether two builds give the same files, any user id, and how its first process ends on SIGTERM."""

import hashlib
import hmac
import http.client
import json
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from deploy.rehearsal.docker import Docker, RehearsalFailed
from deploy.rehearsal.images import ROOT, named_images
from deploy.rehearsal.manifest import Entry, added, closed_to_others, differences, megabytes, read_manifest

TAG = "tierstream-image-check"
MAX_MEGABYTES = 80.0
"""What the image may have over its base. It has 75; 43 more are debug symbols, for one."""

RESTRICTED = ("--user=12345:0", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--tmpfs=/tmp")
"""A user that /etc/passwd does not know, in root's group and with none of its rights: what OpenShift does, for one."""

OURS = ("opt/tierstream", "etc/tierstream")
START_SECONDS = 60.0
STOP_SECONDS = 10.0
"""docs/deployment.md promises this of a gateway and of a worker."""

AT_ONCE_SECONDS = 5.0
"""For a process that has nothing under way; a request to Kafka may have to time out."""

STOPPED = 0
TERMINATED = 128 + 15
LOOK_SECONDS = 0.05
SECRET = "image-check"
NOBODY = "127.0.0.1:1"
"""No Kafka answers there."""

COMMON = {"TIERSTREAM_LOG_FORMAT": "json", "TIERSTREAM_KAFKA_BOOTSTRAP_SERVERS": NOBODY, "TIERSTREAM_ADMIN_HOST": "0.0.0.0"}
GATEWAY = COMMON | {"TIERSTREAM_RAZORPAY_WEBHOOK_SECRETS": SECRET, "TIERSTREAM_INGEST_TOKENS": SECRET}
WORKER = COMMON | {"TIERSTREAM_PLANS": "/etc/tierstream/examples/plans.toml", "TIERSTREAM_KAFKA_WAIT_SECONDS": "60"}


@dataclass(frozen=True)
class ImageReport:
    """What was measured. ``stops`` has the seconds from SIGTERM to the end, by what ran."""

    megabytes: float
    files: int
    seconds: float
    stops: dict[str, float] = field(default_factory=dict)


def check_image(docker: Docker, report: Callable[[str], None]) -> ImageReport:
    """Build the image twice, compare, and run it. Blocking: two or three minutes, most of it for the builds.

    Raises RehearsalFailed with the first thing that is not as docs/deployment.md says. Leaves no container behind, and of the builds their first stages, untagged.
    """
    began = time.monotonic()
    first, second = f"{TAG}:first", f"{TAG}:second"
    try:
        with tempfile.TemporaryDirectory(prefix="image-") as directory:
            size, files = check_files(docker, Path(directory), report, (first, second))
        check_any_user(docker, first, report)
        stops = check_stops(docker, first, report)
    finally:
        docker.attempt("image", "rm", "--force", first, second)
    return ImageReport(size, files, round(time.monotonic() - began, 1), stops)


def check_files(docker: Docker, work: Path, report: Callable[[str], None], tags: tuple[str, str]) -> tuple[float, int]:
    """Build both tags without a cache, and return the MB over the base and the number of files compared. Raises RehearsalFailed.

    The second build is of a copy of the checkout that only its owner can read, with other times: neither may show in the image.
    """
    base = read_image(docker, work, named_images()["python"])
    context = work / "context"
    copy_context(ROOT, context)
    manifests = []
    for tag, directory in zip(tags, (ROOT, context), strict=True):
        report(f"docker build --no-cache --tag {tag}")
        build(docker, directory, tag)
        manifests.append(added(read_image(docker, work, tag), base))
    first, second = manifests
    ours = {path: entry for path, entry in first.items() if path.startswith(OURS)}
    size, unequal, closed = megabytes(first), differences(first, second), closed_to_others(ours)
    if unequal:
        raise RehearsalFailed(f"Two builds of one checkout differ: {some(unequal)}.")
    if closed or not ours:
        raise RehearsalFailed(f"Not every user can read the image, or some can write to it: {some(closed) or 'it is empty'}.")
    if size > MAX_MEGABYTES:
        raise RehearsalFailed(f"The image has {size:g} MB over its base; {MAX_MEGABYTES:g} are allowed (MAX_MEGABYTES).")
    report(f"  {size:g} MB over its base; {len(first):,} files and directories are the same in both builds")
    return size, len(first)


def context_files(dockerfile: str) -> list[str]:
    """Return what a Dockerfile copies from the checkout. Pure."""
    lines = re.findall(r"^COPY (?!--from)(.+)$", dockerfile, re.MULTILINE)
    return [source.rstrip("/") for line in lines for source in line.split()[:-1]]


def copy_context(root: Path, target: Path) -> None:
    """Copy what a build needs, with rights for the owner alone, and the present as its time."""
    dockerfile = (root / "Dockerfile").read_text(encoding="utf-8")
    for name in ("Dockerfile", ".dockerignore", *context_files(dockerfile)):
        source, copy = root / name, target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, copy_function=shutil.copyfile, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, copy)
    for path in target.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)


def build(docker: Docker, directory: Path, tag: str) -> None:
    """Build an image with nothing from a cache. Raises RehearsalFailed."""
    classic = Docker(docker.environment | {"DOCKER_BUILDKIT": "0"})  # needs no plugin
    classic.run("build", "--no-cache", "--force-rm", "--quiet", "--tag", tag, str(directory))


def read_image(docker: Docker, work: Path, image: str) -> dict[str, Entry]:
    """Return every file of an image. Raises RehearsalFailed."""
    archive = work / "image.tar"
    container = docker.run("create", image)
    try:
        docker.run("export", "--output", str(archive), container)
    finally:
        docker.run("rm", container)
    try:
        return read_manifest(archive)
    finally:
        archive.unlink()


def some(phrases: Sequence[str], most: int = 5) -> str:
    """Return the first few, and how many more there are. Pure."""
    rest = len(phrases) - most
    return "; ".join(phrases[:most]) + (f"; and {rest:,} more" if rest > 0 else "")


def check_any_user(docker: Docker, image: str, report: Callable[[str], None]) -> None:
    """Raise RehearsalFailed unless commands and the gateway work for a user that the image does not know."""
    settings = [f"--env={name}={value}" for name, value in GATEWAY.items()]
    for command in ("--help", "check-config"):
        docker.run("run", "--rm", *RESTRICTED, *settings, image, command, seconds=START_SECONDS)
    with running(docker, image, GATEWAY, "gateway") as gateway:
        gateway.until_alive()
    report(f"  --help, check-config and the gateway work with {' '.join(RESTRICTED)}")


def check_stops(docker: Docker, image: str, report: Callable[[str], None]) -> dict[str, float]:
    """Return how many seconds each process took from SIGTERM to its end, as the first of its container. Raises RehearsalFailed.

    That is as which Kubernetes starts it, and ``docker run`` without ``--init``: a signal that it does not handle is lost.
    """
    stops = {}
    with running(docker, image, GATEWAY, "gateway") as gateway:
        gateway.until_alive()
        answer = drained(gateway)
        stops["gateway, a request under way"] = gateway.ended(STOP_SECONDS, STOPPED)
        if answer != http.client.SERVICE_UNAVAILABLE:  # there is no Kafka
            raise RehearsalFailed(f"A request that was under way at SIGTERM was answered {answer} and not 503.")
    for stage in ("normalise", "classify"):
        with running(docker, image, WORKER, "worker", stage) as worker:
            worker.until_logged("Waiting up to")
            worker.terminate()
            stops[f"{stage}, waiting for Kafka"] = worker.ended(AT_ONCE_SECONDS, STOPPED)
    with running(docker, image, WORKER, "topics", "apply") as topics:
        topics.until_logged("Waiting up to")
        topics.terminate()
        stops["topics apply, waiting for Kafka"] = topics.ended(AT_ONCE_SECONDS, TERMINATED)
    with running(docker, image, GATEWAY | {"PYTHONVERBOSE": "1"}, "gateway") as early:
        early.until_logged("/streams/cli/__init__.py")  # its first module, of a thousand
        early.terminate()
        stops["gateway, importing its modules"] = early.ended(AT_ONCE_SECONDS, STOPPED, TERMINATED)
    for name, seconds in stops.items():
        report(f"  {name}: {seconds:g} s from SIGTERM to its end")
    return stops


class Container:
    """A container of the image under way. Blocking."""

    def __init__(self, docker: Docker, id: str, command: str) -> None:
        """``command`` is for messages."""
        self._docker = docker
        self._id = id
        self._command = command
        self._told = time.monotonic()

    def address(self, port: int) -> tuple[str, int]:
        """Return where this machine reaches a published port."""
        host, _, number = self._docker.run("port", self._id, f"{port}/tcp").splitlines()[0].rpartition(":")
        return host, int(number)

    def logs(self) -> str:
        """Return all that it printed."""
        done = self._docker.attempt("logs", self._id)
        return done.stdout + done.stderr

    def until_alive(self) -> None:
        """Return once a gateway answers on its admin port, as Kubernetes asks, and on its public one. Raises RehearsalFailed."""
        self._until(lambda: self._answers(9464, "/metrics") and self._answers(8080, "/healthz"), "answer /metrics and /healthz")

    def _answers(self, port: int, path: str) -> bool:
        try:
            return status_of(self.address(port), path) == http.client.OK
        except (OSError, http.client.HTTPException):
            return False

    def until_logged(self, text: str) -> None:
        """Return once it has printed ``text``. Raises RehearsalFailed."""
        self._until(lambda: text in self.logs(), f"print {text!r}")

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not condition():
            state = self._docker.inspect(self._id)[0]["State"]
            if not state["Running"]:
                raise RehearsalFailed(f"`{self._command}` did not {what}; it ended with status {state['ExitCode']}: {self.logs()[-2000:]}")
            if time.monotonic() > deadline:
                raise RehearsalFailed(f"`{self._command}` did not {what} within {START_SECONDS:g} s: {self.logs()[-2000:]}")
            time.sleep(LOOK_SECONDS)

    def terminate(self) -> None:
        """Send SIGTERM to its first process."""
        self._docker.run("kill", "--signal=TERM", self._id)
        self._told = time.monotonic()

    def ended(self, within_seconds: float, *statuses: int) -> float:
        """Return the seconds from SIGTERM to the end. Raises RehearsalFailed where it goes on, or ends with another status."""
        while (state := self._docker.inspect(self._id)[0]["State"])["Running"]:
            if time.monotonic() - self._told > within_seconds:
                raise RehearsalFailed(f"`{self._command}` went on for {within_seconds:g} s after SIGTERM: {self.logs()[-500:]}")
            time.sleep(LOOK_SECONDS)
        if state["ExitCode"] not in statuses:
            wanted = " or ".join(map(str, statuses))
            raise RehearsalFailed(
                f"`{self._command}` ended on SIGTERM with status {state['ExitCode']} and not {wanted}: {self.logs()[-2000:]}"
            )
        return round(time.monotonic() - self._told, 1)


@contextmanager
def running(docker: Docker, image: str, environment: dict[str, str], *command: str) -> Iterator[Container]:
    """Run the image without rights while the block runs; its ports are published on ports of 127.0.0.1 that are free."""
    settings = [f"--env={name}={value}" for name, value in environment.items()]
    ports = ("--publish=127.0.0.1::8080", "--publish=127.0.0.1::9464")
    id = docker.run("run", "--detach", *RESTRICTED, *ports, *settings, image, *command)
    try:
        yield Container(docker, id, f"tierstream {' '.join(command)}")
    finally:
        docker.run("rm", "--force", id)


def status_of(address: tuple[str, int], path: str) -> int:
    """Return the status of a GET. Raises OSError, HTTPException."""
    connection = http.client.HTTPConnection(*address, timeout=STOP_SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def signed_webhook(body: bytes) -> bytes:
    """Return the head of a webhook that is signed with ``SECRET``. Pure."""
    signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    lines = (
        "POST /webhooks/razorpay HTTP/1.1",
        "Host: gateway",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        f"X-Razorpay-Signature: {signature}",
        "X-Razorpay-Event-Id: evt_image",
    )
    return "\r\n".join((*lines, "", "")).encode()


def drained(gateway: Container) -> int:
    """Send a half of a webhook, SIGTERM, and the other half once the gateway stops; return the status that it is answered with."""
    body = json.dumps({"event": "subscription.charged", "payload": {}}).encode()
    with socket.create_connection(gateway.address(8080), timeout=STOP_SECONDS) as connection:
        connection.sendall(signed_webhook(body) + body[:10])
        gateway.terminate()
        gateway.until_logged("gateway stops")
        try:
            connection.sendall(body[10:])
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            return answer.status
        except (OSError, http.client.HTTPException) as error:
            raise RehearsalFailed(f"A request that was under way at SIGTERM got no answer: {error!r}.") from error
