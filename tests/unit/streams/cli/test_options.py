"""Asking before something is changed."""

import io
import sys
from typing import Any

import pytest
import typer

from streams.cli import app
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


def commands_with_a_reason() -> dict[str, tuple[Any, Any]]:
    found: dict[str, tuple[Any, Any]] = {}

    def walk(command: Any, name: str) -> None:
        for parameter in command.params:
            if "--because" in parameter.opts:
                found[name] = command, parameter
        for part, inner in getattr(command, "commands", {}).items():
            walk(inner, f"{name} {part}".strip())

    walk(typer.main.get_command(app), "")
    return found


WITH_A_REASON = commands_with_a_reason()


def test_every_command_that_changes_what_others_see_asks_for_a_reason() -> None:
    assert WITH_A_REASON.keys() == {"dlq replay", "dlq discard", "deliveries resolve", "import-tiers", "replay", "reconcile"}


@pytest.mark.parametrize("name", sorted(WITH_A_REASON))
def test_a_reason_is_trimmed_masked_and_never_empty(name: str) -> None:
    command, because = WITH_A_REASON[name]
    context = typer.Context(command)

    assert because.process_value(context, " asked by asha@example.com ") == "asked by a***@example.com"
    with pytest.raises(ConfigurationError, match="--because is empty"):
        because.process_value(context, " ")
