"""Rights, limits and secrets, judged from what the engine and the container say."""

from collections.abc import Sequence
from typing import Any

import pytest

from deploy.rehearsal.rules import exceeded, shows_in
from deploy.rehearsal.steps import OURS

NOBODY = ("10001", "read-only", "0000000000000000", "1", "0")


def container(image: str = OURS, memory: int = 1 << 30, killed: bool = False) -> dict[str, Any]:
    return {
        "Path": "sh",
        "Args": ["-c", "exec tierstream"],
        "HostConfig": {"Memory": memory},
        "State": {"OOMKilled": killed, "Health": {"Log": [{"Output": "ready"}]}},
        "Config": {"Image": image, "Labels": {"com.docker.compose.service": "audit"}, "Env": ["TIERSTREAM_INGEST_TOKENS=secret"]},
    }


def test_container_with_what_the_file_gives_it_exceeds_nothing() -> None:
    assert exceeded(container(), NOBODY) == ""
    assert exceeded(container("postgres:17-alpine"), ("0", "writable", "00000000a80425fb", "0", "0")) == ""


@pytest.mark.parametrize(
    ("said", "more"),
    [
        (("0", *NOBODY[1:]), "more rights"),
        ((NOBODY[0], "writable", *NOBODY[2:]), "more rights"),
        ((*NOBODY[:2], "0000000000000400", *NOBODY[3:]), "more rights"),
        ((*NOBODY[:3], "0", "0"), "more rights"),
        ((*NOBODY[:4], "2"), "2 processes that ended"),
        ((), "does not tell"),
    ],
)
def test_container_with_more_is_told(said: Sequence[str], more: str) -> None:
    assert more in exceeded(container(), said)


def test_memory_is_limited_and_enough() -> None:
    assert "all the memory" in exceeded(container(memory=0), NOBODY)
    assert "was not enough" in exceeded(container(killed=True), NOBODY)


def test_secret_in_the_environment_alone_does_not_show() -> None:
    assert shows_in(container(), "COMMAND\ntierstream worker audit", "started", ["secret"]) == ""


@pytest.mark.parametrize(
    ("changed", "place"),
    [
        ({"Args": ["--token", "secret"]}, "the command line"),
        ({"Config": container()["Config"] | {"Healthcheck": {"Test": ["CMD", "curl", "-u", "a:secret"]}}}, "the command line"),
        ({"Config": container()["Config"] | {"Labels": {"token": "secret"}}}, "a label"),
        ({"State": {"Health": {"Log": [{"Output": "refused secret"}]}}}, "the health check's output"),
    ],
)
def test_secret_is_found_where_it_shows(changed: dict[str, Any], place: str) -> None:
    assert shows_in(container() | changed, "", "", ["other", "secret"]) == place


def test_secret_is_found_in_processes_and_log() -> None:
    assert shows_in(container(), "tierstream --token secret", "", ["secret"]) == "the command line"
    assert shows_in(container(), "", '{"token": "secret"}', ["secret"]) == "the log"
