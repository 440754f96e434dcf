"""Calling Docker and Compose."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CALL_SECONDS = 900.0


class RehearsalFailed(Exception):
    """What went wrong, in a sentence that can stand alone."""


class Docker:
    """The ``docker`` command, for one engine. Blocking."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """``environment`` is added to this process's own: which engine, and where its plugins are."""
        self.environment = dict(environment)

    def answers(self) -> bool:
        """Whether there is an engine, and Compose."""
        try:
            return all(self.attempt(*command).returncode == 0 for command in (("version",), ("compose", "version")))
        except OSError:
            return False

    def attempt(self, *arguments: str, seconds: float = CALL_SECONDS, directory: Path | None = None) -> "subprocess.CompletedProcess[str]":
        """Run a command and return how it ended. Raises OSError without ``docker``, and RehearsalFailed after ``seconds``."""
        try:
            return subprocess.run(
                ("docker", *arguments),
                env=os.environ | self.environment,
                cwd=directory,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise RehearsalFailed(f"`docker {' '.join(arguments)}` did not end within {seconds:g} s.") from error

    def run(self, *arguments: str, seconds: float = CALL_SECONDS, directory: Path | None = None) -> str:
        """Run a command and return what it printed. Raises RehearsalFailed with the end of its output when it fails."""
        done = self.attempt(*arguments, seconds=seconds, directory=directory)
        if done.returncode:
            end = "\n".join((done.stdout + done.stderr).strip().splitlines()[-20:])
            raise RehearsalFailed(f"`docker {' '.join(arguments)}` ended with status {done.returncode}:\n{end}")
        return done.stdout.strip()

    def has_image(self, name: str) -> bool:
        """Whether an image of that name is there."""
        return self.attempt("image", "inspect", name).returncode == 0

    def inspect(self, container: str) -> dict[str, Any]:
        """Return all that the engine knows of a container."""
        found: list[dict[str, Any]] = json.loads(self.run("inspect", container))
        return found[0]


class Compose:
    """One stack of ``docker-compose.yml``, under a project name of its own so that no other is touched. Blocking."""

    def __init__(self, docker: Docker, directory: Path, name: str, environment: Mapping[str, str]) -> None:
        """``directory`` holds the file; ``environment`` has the stack's settings."""
        self.docker = Docker(docker.environment | dict(environment))
        self.name = name
        self._directory = directory

    def run(self, *arguments: str, seconds: float = CALL_SECONDS) -> str:
        """Run ``docker compose`` with ``arguments`` and return what it printed. Raises RehearsalFailed."""
        command = ("compose", "--project-name", self.name, "--progress", "plain", *arguments)
        return self.docker.run(*command, seconds=seconds, directory=self._directory)

    def containers(self, service: str | None = None) -> list[dict[str, Any]]:
        """Return what the engine knows of the containers, of one service or of all."""
        return [self.docker.inspect(id) for id in self.run("ps", "--all", "--quiet", *((service,) if service else ())).split()]

    def is_healthy(self) -> bool:
        """Whether every container that is to run on is healthy, and every other one has ended well."""
        return all(map(_is_well, self.containers()))


def _is_well(container: dict[str, Any]) -> bool:
    state = container["State"]
    if container["HostConfig"]["RestartPolicy"]["Name"] == "no":
        return not state["Running"] and state["ExitCode"] == 0
    return bool(state["Running"]) and state.get("Health", {}).get("Status", "healthy") == "healthy"
