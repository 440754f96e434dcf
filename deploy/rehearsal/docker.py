"""Calling Docker and Compose."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

CALL_SECONDS = 900.0
HEALTHY_SECONDS = 180.0
END_LINES = 20


class RehearsalFailed(Exception):
    """What went wrong, in a sentence that can stand alone."""


class Docker:
    """The ``docker`` command, for one engine. Blocking."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """``environment`` is added to this process's own: which engine, and where its plugins are."""
        self.environment = dict(environment)

    def engine_version(self) -> str | None:
        """Return the version of the engine; None where none answers, or there is no ``docker``."""
        return self._said("version", "--format", "{{.Server.Version}}")

    def compose_version(self) -> str | None:
        """Return the version of Compose; None where there is none that is a plugin of ``docker``."""
        return self._said("compose", "version", "--short")

    def _said(self, *arguments: str) -> str | None:
        try:
            done = self.attempt(*arguments)
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    def start(self, *arguments: str, directory: Path | None = None, errors: int = subprocess.STDOUT) -> "subprocess.Popen[str]":
        """Start a command. In a session of its own: a Ctrl-C is for us, who then stop it and take down what it left."""
        return subprocess.Popen(
            ("docker", *arguments),
            env=os.environ | self.environment,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            errors="replace",
            start_new_session=True,
        )

    def attempt(self, *arguments: str, seconds: float = CALL_SECONDS, directory: Path | None = None) -> "subprocess.CompletedProcess[str]":
        """Run a command and return how it ended. Raises OSError without ``docker``, and RehearsalFailed after ``seconds``."""
        process = self.start(*arguments, directory=directory, errors=subprocess.PIPE)
        try:
            output, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise RehearsalFailed(f"{shown(arguments)} did not end within {seconds:g} s.") from error
        finally:
            end(process)
        return subprocess.CompletedProcess(arguments, process.returncode, output, errors)

    def run(self, *arguments: str, seconds: float = CALL_SECONDS, directory: Path | None = None) -> str:
        """Run a command and return what it printed. Raises RehearsalFailed with the end of its output when it fails."""
        done = self.attempt(*arguments, seconds=seconds, directory=directory)
        if done.returncode:
            raise RehearsalFailed(f"{shown(arguments)} ended with status {done.returncode}:\n{last_lines(done.stdout + done.stderr)}")
        return done.stdout.strip()

    def has_image(self, name: str) -> bool:
        """Whether an image of that name is there."""
        return self.attempt("image", "inspect", name).returncode == 0

    def pull(self, name: str, answer_seconds: float) -> str | None:
        """Pull an image, however long that takes; return why it can not be had, where the registry says so or is silent for ``answer_seconds``."""
        process = self.start("pull", name)
        lines: list[str] = []
        reader = Thread(target=lambda: lines.extend(process.stdout or ()), daemon=True)
        reader.start()
        deadline = time.monotonic() + answer_seconds
        try:
            # Its first line comes when the registry has answered.
            while process.poll() is None and (lines or time.monotonic() < deadline):
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
            silent = process.poll() is None
        finally:
            stop(process)
            reader.join()
            end(process)
        if silent:
            return f"its registry does not answer within {answer_seconds:g} s"
        return None if process.returncode == 0 else last_lines("".join(lines), 1)

    def inspect(self, *containers: str) -> list[dict[str, Any]]:
        """Return all that the engine knows of some containers."""
        found: list[dict[str, Any]] = json.loads(self.run("inspect", *containers)) if containers else []
        return found


class Compose:
    """One stack of ``docker-compose.yml``, under a project name of its own so that no other is touched. Blocking."""

    def __init__(self, docker: Docker, directory: Path, name: str, environment: Mapping[str, str], profiles: Sequence[str] = ()) -> None:
        """``directory`` holds the file; ``environment`` has the stack's settings, ``profiles`` are in force besides what has none."""
        self.docker = Docker(docker.environment | dict(environment))
        self.name = name
        self.stale: list[str] = []
        """Containers that were gone, and that the engine still counted among those of the network, so that it could not be removed."""
        self._directory = directory
        self._profiles = [f"--profile={profile}" for profile in profiles]

    def run(self, *arguments: str, seconds: float = CALL_SECONDS) -> str:
        """Run ``docker compose`` with ``arguments`` and return what it printed. Raises RehearsalFailed."""
        command = ("compose", "--project-name", self.name, "--progress", "plain", *self._profiles, *arguments)
        return self.docker.run(*command, seconds=seconds, directory=self._directory)

    def down(self, *arguments: str) -> None:
        """Run ``down``. Raises RehearsalFailed.

        An engine that starts a container while that one ends may keep its endpoint for good; then nobody can remove the network.
        Such an endpoint is disconnected, once its container is known to be gone, and kept in ``stale``.
        """
        try:
            self.run("--profile", "ops", "down", *arguments)
        except RehearsalFailed as error:
            if "has active endpoints" not in str(error):
                raise
            network = f"{self.name}_default"
            (found,) = json.loads(self.docker.run("network", "inspect", network))
            connected = [endpoint["Name"] for endpoint in found["Containers"].values()]
            gone = [name for name in connected if self.docker.attempt("container", "inspect", name).returncode]
            for name in gone:
                self.docker.run("network", "disconnect", "--force", network, name)
            self.stale += gone
            self.run("--profile", "ops", "down", *arguments)

    def containers(self, service: str | None = None) -> list[dict[str, Any]]:
        """Return what the engine knows of the containers, of one service or of all."""
        return self.docker.inspect(*self.run("ps", "--all", "--quiet", *((service,) if service else ())).split())

    def unwell(self, service: str | None = None) -> list[str]:
        """Return the containers, of one service or of all, that are to run on and are not healthy, or were to end well and have not."""
        return [name_of(container) for container in self.containers(service) if not is_well(container)]

    def until_well(self, service: str | None = None, seconds: float = HEALTHY_SECONDS) -> None:
        """Return once no container of one service, or of all, is unwell. Raises RehearsalFailed after ``seconds``."""
        wait_until(lambda: not self.unwell(service), lambda: f"{', '.join(self.unwell(service))} healthy", seconds)


def is_well(container: Mapping[str, Any]) -> bool:
    """Whether a container is healthy, or has ended well where it is to end. ``container`` is what ``docker inspect`` says."""
    state = container["State"]
    if container["HostConfig"]["RestartPolicy"]["Name"] in ("", "no"):
        return not state["Running"] and state["ExitCode"] == 0
    return bool(state["Running"]) and state.get("Health", {}).get("Status", "healthy") == "healthy"


def name_of(container: Mapping[str, Any]) -> str:
    """The name of a container."""
    return str(container["Name"]).strip("/")


def wait_until(condition: Callable[[], bool], what: Callable[[], str], seconds: float, every_seconds: float = 0.3) -> None:
    """Return once ``condition`` holds. Raises RehearsalFailed, which says ``what`` does not, after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RehearsalFailed(f"Not within {seconds:g} s: {what()}.")
        time.sleep(every_seconds)


def end(process: "subprocess.Popen[str]") -> None:
    """Stop a command that may have ended by itself."""
    stop(process)
    for pipe in (process.stdout, process.stderr):
        if pipe:
            pipe.close()


def stop(process: "subprocess.Popen[str]") -> None:
    """End a command and what it started: Compose is a process of its own."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)


def shown(arguments: tuple[str, ...]) -> str:
    """A command of ``docker`` as one would type it."""
    return f"`docker {' '.join(arguments)}`"


def last_lines(text: str, count: int = END_LINES) -> str:
    """The end of what a command printed."""
    return "\n".join(text.strip().splitlines()[-count:])
