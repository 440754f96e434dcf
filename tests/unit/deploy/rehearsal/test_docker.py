"""What is read from Docker's answers, with a ``docker`` that is a script."""

from pathlib import Path
from typing import Any

import pytest

from deploy.rehearsal.docker import Compose, Docker, RehearsalFailed, is_well, last_lines, wait_until


def docker_that(directory: Path, script: str) -> Docker:
    """A ``docker`` that runs ``script``."""
    program = directory / "docker"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    return Docker({"PATH": f"{directory}:/usr/bin:/bin"})


@pytest.fixture(autouse=True)
def found_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


def container(*, policy: str = "unless-stopped", running: bool = True, status: int = 0, health: str | None = "healthy") -> dict[str, Any]:
    state: dict[str, Any] = {"Running": running, "ExitCode": status}
    if health:
        state["Health"] = {"Status": health}
    return {"State": state, "HostConfig": {"RestartPolicy": {"Name": policy}}}


@pytest.mark.parametrize(
    ("found", "well"),
    [
        (container(), True),
        (container(health=None), True),
        (container(health="starting"), False),
        (container(health="unhealthy"), False),
        (container(running=False), False),
        (container(policy="no", running=False, health=None), True),
        (container(policy="", running=False, health=None), True),
        (container(policy="no", running=False, status=1, health=None), False),
        (container(policy="no", running=True, health=None), False),
    ],
)
def test_container_is_well_when_it_is_healthy_or_has_ended_as_it_should(found: dict[str, Any], well: bool) -> None:
    assert is_well(found) is well


def test_versions_are_none_where_nothing_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing = docker_that(tmp_path, "echo cannot connect >&2; exit 1")
    assert (refusing.engine_version(), refusing.compose_version()) == (None, None)

    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert Docker({}).engine_version() is None


def test_failed_command_is_told_with_the_end_of_what_it_printed(tmp_path: Path) -> None:
    docker = docker_that(tmp_path, "seq 100; echo no space left >&2; exit 3")

    with pytest.raises(RehearsalFailed, match=r"^`docker build \.` ended with status 3:\n82\n") as failed:
        docker.run("build", ".")
    assert str(failed.value).endswith("100\nno space left")


def test_command_that_does_not_end_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(RehearsalFailed, match=r"`docker ps` did not end within 0\.2 s"):
        docker_that(tmp_path, "exec sleep 60").attempt("ps", seconds=0.2)


def test_pull_that_is_refused_says_why(tmp_path: Path) -> None:
    docker = docker_that(tmp_path, "echo 'Error response from daemon: no such host'; exit 1")

    assert docker.pull("postgres:17-alpine", 5) == "Error response from daemon: no such host"


def test_pull_from_a_registry_that_is_silent_is_given_up(tmp_path: Path) -> None:
    docker = docker_that(tmp_path, "exec sleep 60")

    assert docker.pull("postgres:17-alpine", 0.3) == "its registry does not answer within 0.3 s"


def test_pull_takes_its_time_once_the_registry_has_answered(tmp_path: Path) -> None:
    docker = docker_that(tmp_path, "echo 17-alpine: Pulling from library/postgres; sleep 1; echo Status: downloaded")

    assert docker.pull("postgres:17-alpine", 0.5) is None


def test_containers_that_are_not_well_are_named_when_time_is_up(tmp_path: Path) -> None:
    found = '[{"Name": "/s-kafka-1", "State": {"Running": false, "ExitCode": 1}, "HostConfig": {"RestartPolicy": {"Name": "always"}}}]'
    docker = docker_that(tmp_path, f"case $1 in compose) echo abc ;; inspect) echo '{found}' ;; esac")

    with pytest.raises(RehearsalFailed, match=r"Not within 0 s: s-kafka-1 healthy\."):
        Compose(docker, tmp_path, "s", {}).until_well(seconds=0)


def test_wait_until_returns_as_soon_as_it_holds() -> None:
    answers = iter([False, False, True])

    wait_until(lambda: next(answers), lambda: "it", 5, every_seconds=0)

    assert list(answers) == []


def test_last_lines_are_the_last() -> None:
    assert last_lines("a\nb\nc\n", 2) == "b\nc"
