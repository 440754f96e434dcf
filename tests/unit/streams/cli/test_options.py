"""Asking before something is changed."""

import io
import sys

import pytest
import typer

from streams.cli.options import confirm
from streams.errors import ConfigurationError


def test_yes_asks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    confirm("Replay 3 dead letters?", True)


def test_where_nobody_can_answer_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    with pytest.raises(ConfigurationError, match=r"Replay 3 dead letters.*--yes.*--dry-run"):
        confirm("Replay 3 dead letters?", False)


@pytest.mark.parametrize(("answer", "goes_on"), [("y\n", True), ("n\n", False)])
def test_a_person_decides(monkeypatch: pytest.MonkeyPatch, answer: str, goes_on: bool) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    if goes_on:
        confirm("Replay?", False)
    else:
        with pytest.raises(typer.Abort):
            confirm("Replay?", False)
