"""The engine to rehearse on: the one that answers, or one of our own."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from rich.console import Console

from deploy.rehearsal.docker import Docker, RehearsalFailed

SUITE = "trixie"
"""The Debian whose packages the stand-ins and Compose come from."""

BASE_IMAGE = "rehearsal-base"
START_SECONDS = 60.0
STOP_SECONDS = 30.0
PACKAGES = {"dockerd": "docker.io", "debootstrap": "debootstrap"}


@contextmanager
def engine(directory: Path, console: Console) -> Iterator[tuple[Docker, bool]]:
    """Give an engine with Compose, and whether it is one of our own, which ends with the block; its images are kept in ``directory``.

    Raises RehearsalFailed, with what to do, where there is none and none can be started.
    """
    present = Docker({})
    if present.answers():
        yield present, False
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise RehearsalFailed("No Docker engine with Compose answers: install both, or run this as root on a Debian machine.")
    directory.mkdir(parents=True, exist_ok=True)
    _install(console)
    own = Docker({"DOCKER_HOST": f"unix://{directory}/docker.sock", "DOCKER_CONFIG": str(directory / "config")})
    with ExitStack() as running:
        running.enter_context(_daemon(own, directory, console))
        make_base(own, directory, console)
        _add_compose(own, directory, console)
        yield own, True


def _install(console: Console) -> None:
    missing = [package for command, package in PACKAGES.items() if not shutil.which(command)]
    if missing:
        console.print(f"installing {', '.join(missing)}")
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        call(("apt-get", "update"), quiet)
        call(("apt-get", "install", "--yes", "--no-install-recommends", *missing), quiet)


@contextmanager
def _daemon(docker: Docker, directory: Path, console: Console) -> Iterator[None]:
    console.print("starting a Docker engine of its own")
    data = ("--data-root", str(directory / "data"), "--exec-root", str(directory / "exec"), "--pidfile", str(directory / "docker.pid"))
    with (directory / "dockerd.log").open("wb") as log:
        daemon = subprocess.Popen(
            ("dockerd", *data, "--host", docker.environment["DOCKER_HOST"]),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for us: what runs on it is taken down first
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while docker.attempt("version").returncode:
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise RehearsalFailed(f"dockerd does not answer; its log is {directory / 'dockerd.log'}.")
            time.sleep(0.2)
        yield
    finally:
        daemon.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            daemon.wait(STOP_SECONDS)
        daemon.kill()
        daemon.wait()


def make_base(docker: Docker, directory: Path, console: Console) -> None:
    """Import a minimal Debian that trusts the certificates of this machine and takes its packages from the same mirror."""
    if docker.has_image(BASE_IMAGE):
        return
    console.print(f"making a Debian {SUITE} to build the stand-ins on")
    root = directory / "base"
    shutil.rmtree(root, ignore_errors=True)
    call(("debootstrap", "--variant=minbase", "--include=ca-certificates", SUITE, str(root), *_mirror()), {})
    certificates = Path("/etc/ssl/certs/ca-certificates.crt")
    if certificates.is_file():
        shutil.copy(certificates, root / "etc/ssl/certs/")
    archive = directory / "base.tar"
    call(("tar", "--directory", str(root), "--create", "--file", str(archive), "."), {})
    docker.run("import", str(archive), BASE_IMAGE)
    archive.unlink()
    shutil.rmtree(root)


def _mirror() -> Sequence[str]:
    """The mirror that this machine's own packages come from, as far as its files say one."""
    sources = Path("/etc/apt")
    for path in (*sources.glob("sources.list.d/*.sources"), sources / "sources.list"):
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                words = [word for word in line.split() if not word.startswith("[")]
                if len(words) > 1 and words[0] in ("URIs:", "deb"):
                    return (words[1],)
    return ()


def _add_compose(docker: Docker, directory: Path, console: Console) -> None:
    plugin = directory / "config" / "cli-plugins" / "docker-compose"
    if plugin.is_file():
        return
    console.print("taking Compose from Debian's package")
    package = directory / "compose"
    shutil.rmtree(package, ignore_errors=True)
    package.mkdir()
    fetch = "apt-get update && cd /out && apt-get download docker-compose"
    docker.run("run", "--rm", "--volume", f"{package}:/out", BASE_IMAGE, "sh", "-c", fetch)
    call(("dpkg-deb", "--extract", str(next(package.glob("*.deb"))), str(package / "files")), {})
    plugin.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(package / "files/usr/libexec/docker/cli-plugins/docker-compose", plugin)
    shutil.rmtree(package)


def call(command: Sequence[str], environment: dict[str, str]) -> None:
    """Run a command of this machine. Raises RehearsalFailed with the end of its output when it fails."""
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        end = "\n".join((done.stdout + done.stderr).strip().splitlines()[-20:])
        raise RehearsalFailed(f"`{' '.join(command)}` ended with status {done.returncode}:\n{end}")
