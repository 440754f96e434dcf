"""What is decided before an engine is started."""

import os
import shutil
from pathlib import Path

import pytest

from deploy.rehearsal.docker import RehearsalFailed
from deploy.rehearsal.engine import NONE_ANSWERS, call, engine, is_recent, mirror, why_not


@pytest.mark.parametrize(
    ("version", "recent"),
    [("2.26.1-4", True), ("v2.39.4", True), ("5.0.0", True), ("1.29.2", False), ("", False), ("dev", False), (None, False)],
)
def test_compose_is_recent_from_its_second_version_on(version: str | None, recent: bool) -> None:
    assert is_recent(version) is recent


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("sources.list.d/debian.sources", "Types: deb\nURIs: http://mirror.example/debian\nSuites: trixie\n"),
        ("sources.list", "# the mirror\ndeb http://mirror.example/debian bookworm main\n"),
        ("sources.list", "deb [arch=amd64 signed-by=/a.gpg] http://mirror.example/debian bookworm main\n"),
        ("sources.list", "deb http://mirror.example/debian-security bookworm main\ndeb http://mirror.example/debian bookworm main\n"),
    ],
)
def test_mirror_is_the_one_of_this_machine(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text, encoding="utf-8")

    assert mirror(tmp_path) == ("http://mirror.example/debian",)


def test_mirror_of_another_distribution_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text("deb http://mirror.example/ubuntu noble main\n", encoding="utf-8")

    assert mirror(tmp_path) == ()
    assert mirror(tmp_path / "nowhere") == ()


def test_reason_of_a_daemon_that_does_not_start_is_found_in_its_log() -> None:
    log = 'time="..." level=info msg="Starting up"\nfailed to start daemon: Error initializing network controller: no iptables\n'

    assert why_not(log) == "failed to start daemon: Error initializing network controller: no iptables"
    assert why_not("a\nb\nc\nd\n") == "b\nc\nd"


@pytest.mark.parametrize(("user", "apt"), [(1000, "/usr/bin/apt-get"), (0, None)])
def test_where_no_engine_answers_and_none_can_be_made_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: int, apt: str | None
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(shutil, "which", lambda command: apt)
    said: list[str] = []

    with pytest.raises(RehearsalFailed) as failed, engine(tmp_path / "kept", said.append):
        pass

    assert str(failed.value) == NONE_ANSWERS
    assert said == []


def test_call_that_fails_says_how() -> None:
    with pytest.raises(RehearsalFailed, match=r"`sh -c echo no mirror >&2; exit 100` ended with status 100:\nno mirror"):
        call(("sh", "-c", "echo no mirror >&2; exit 100"), {})
