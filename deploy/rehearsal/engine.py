"""The engine to rehearse on: the one that answers, or one of our own."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from deploy.rehearsal.docker import Docker, RehearsalFailed, last_lines

SUITE = "trixie"
"""The Debian whose packages the stand-ins and Compose come from."""

BASE_IMAGE = "rehearsal-base"
OLDEST_COMPOSE = 2
START_SECONDS = 60.0
STOP_SECONDS = 40.0
LAUNCHER = Path(__file__).parents[2] / "streams" / "embedded" / "launcher.py"
NONE_ANSWERS = "No Docker engine answers: start one, or run this as root on Debian or Ubuntu, where an engine of its own can be made."

Report = Callable[[str], None]


@dataclass(frozen=True)
class Engine:
    """An engine with Compose, and whether it is one of our own: then anything may be built on it."""

    docker: Docker
    version: str
    compose: str
    is_own: bool


@contextmanager
def engine(directory: Path, report: Report) -> Iterator[Engine]:
    """Give the engine that answers, or start one that ends with the block. What is made, its images above all, is kept in ``directory``.

    Raises RehearsalFailed, with what to do, where there is none and none can be made.
    """
    directory.mkdir(parents=True, exist_ok=True)
    present = Docker({})
    if version := present.engine_version():
        report(f"the Docker engine that answers is used: {version}")
        yield _with_compose(present, directory, report, is_own=False)
        return
    if not _can_install():
        raise RehearsalFailed(NONE_ANSWERS)
    _install({"dockerd": "docker.io", "docker": "docker-cli"}, report)
    if present.engine_version():  # installing the package has started one
        yield _with_compose(present, directory, report, is_own=True)
        return
    # Sockets have short paths, and a checkout may have a long one.
    with tempfile.TemporaryDirectory(prefix="rehearsal-", ignore_cleanup_errors=True) as run, _daemon(directory, Path(run), report) as own:
        yield _with_compose(own, directory, report, is_own=True)


def _can_install() -> bool:
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def _install(packages: dict[str, str], report: Report) -> None:
    """Install the package of each command that is missing, one after the other: one may bring the next command with it."""
    updated = False
    for command, package in packages.items():
        if shutil.which(command, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"):
            continue
        report(f"installing Debian's package {package}")
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        if not updated:
            call(("apt-get", "update"), quiet)
            updated = True
        call(("apt-get", "install", "--yes", "--no-install-recommends", package), quiet)


@contextmanager
def _daemon(directory: Path, run: Path, report: Report) -> Iterator[Docker]:
    """Start an engine with its data in ``directory`` and its sockets in ``run``; stop it at the end of the block, and with this process."""
    docker = Docker({"DOCKER_HOST": f"unix://{run}/docker.sock"})
    log_file = directory / "dockerd.log"
    places = ("--data-root", str(directory / "data"), "--exec-root", str(run / "exec"), "--pidfile", str(run / "docker.pid"))
    launcher = (sys.executable, "-I", "-S", str(LAUNCHER), str(int(signal.SIGTERM)), str(os.getpid()), "-")
    began = time.monotonic()
    with log_file.open("wb") as log:
        daemon = subprocess.Popen(
            (*launcher, "dockerd", *places, "--host", docker.environment["DOCKER_HOST"]),
            env=os.environ | {"PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for us: what runs on it is taken down first
        )
    try:
        while not docker.engine_version():
            if daemon.poll() is not None or time.monotonic() > began + START_SECONDS:
                raise RehearsalFailed(f"dockerd does not start ({log_file}): {why_not(log_file.read_text(errors='replace'))}")
            time.sleep(0.2)
        report(f"started an engine of its own: Docker {docker.engine_version()}")
        left = docker.run("ps", "--all", "--quiet").split()
        if left:  # by a run that was killed
            docker.run("rm", "--force", "--volumes", *left)
        yield docker
    finally:
        daemon.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            daemon.wait(STOP_SECONDS)
        daemon.kill()
        daemon.wait()


def why_not(log: str) -> str:
    """Return what a daemon that does not start says of it, from its log."""
    said = re.findall(r"^(?:failed to start daemon: .*|.*level=fatal.*)$", log, re.MULTILINE)
    return str(said[-1]) if said else last_lines(log, 3)


def _with_compose(docker: Docker, directory: Path, report: Report, *, is_own: bool) -> Engine:
    """Return the engine, with Compose from Debian's package where ``docker`` has none."""
    if not is_recent(docker.compose_version()):
        docker = Docker(docker.environment | {"DOCKER_CONFIG": str(directory / "config")})
        if not is_recent(docker.compose_version()):
            if not _can_install():
                raise RehearsalFailed("`docker compose` is missing, or older than version 2: install Docker's Compose plugin.")
            _add_compose(docker, directory, report)
    version, compose = docker.engine_version(), docker.compose_version()
    if version is None or compose is None:
        raise RehearsalFailed(f"Compose does not run; remove {directory} and try again.")
    return Engine(docker, version, compose, is_own)


def is_recent(compose: str | None) -> bool:
    """Whether a version of Compose is one that knows ``up --wait``; the first Compose does not."""
    found = re.match(r"v?(\d+)\.", compose or "")
    return found is not None and int(found[1]) >= OLDEST_COMPOSE


def _add_compose(docker: Docker, directory: Path, report: Report) -> None:
    make_base(docker, directory, report)
    report(f"taking Compose from the package of Debian {SUITE}")
    package = directory / "compose"
    shutil.rmtree(package, ignore_errors=True)
    package.mkdir()
    fetch = "apt-get update && cd /out && apt-get download docker-compose"
    docker.run("run", "--rm", "--volume", f"{package}:/out", BASE_IMAGE, "sh", "-c", fetch)
    call(("dpkg-deb", "--extract", str(next(package.glob("*.deb"))), str(package / "files")), {})
    config = directory / "config"
    (config / "cli-plugins").mkdir(parents=True, exist_ok=True)
    shutil.copy(package / "files/usr/libexec/docker/cli-plugins/docker-compose", config / "cli-plugins")
    logins = Path.home() / ".docker" / "config.json"
    if logins.is_file():
        shutil.copy(logins, config)
    shutil.rmtree(package)


def make_base(docker: Docker, directory: Path, report: Report) -> None:
    """Import a minimal Debian that trusts the certificates of this machine and takes its packages from the same mirror."""
    if docker.has_image(BASE_IMAGE):
        return
    _install({"debootstrap": "debootstrap"}, report)
    report(f"making an image of a minimal Debian {SUITE}")
    root = directory / "base"
    shutil.rmtree(root, ignore_errors=True)
    call(("debootstrap", "--variant=minbase", "--include=ca-certificates", SUITE, str(root), *mirror()), {})
    certificates = Path("/etc/ssl/certs/ca-certificates.crt")
    if certificates.is_file():
        shutil.copy(certificates, root / "etc/ssl/certs/")
    archive = directory / "base.tar"
    call(("tar", "--directory", str(root), "--create", "--file", str(archive), "."), {})
    docker.run("import", str(archive), BASE_IMAGE)
    archive.unlink()
    shutil.rmtree(root)


def mirror(sources: Path = Path("/etc/apt")) -> Sequence[str]:
    """Return the mirror that this machine's own packages come from, as far as its files say one; Ubuntu's has no Debian."""
    for path in (*sorted(sources.glob("sources.list.d/*.sources")), sources / "sources.list"):
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        for address in re.findall(r"^(?:URIs:|deb(?:\s+\[[^]]*\])?)\s+(\S+)", text, re.MULTILINE):
            if address.rstrip("/").endswith("debian"):
                return (str(address),)
    return ()


def call(command: Sequence[str], environment: dict[str, str]) -> None:
    """Run a command of this machine. Raises RehearsalFailed with the end of its output when it fails."""
    done = subprocess.run(
        command,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        start_new_session=True,  # as docker.start
        check=False,
    )
    if done.returncode:
        raise RehearsalFailed(f"`{' '.join(command)}` ended with status {done.returncode}:\n{last_lines(done.stdout + done.stderr)}")
