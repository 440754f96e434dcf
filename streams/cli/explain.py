"""``tierstream explain``: why a team is where it is, and why a mail went out, or did not."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from streams.cli.options import Json, plain_console
from streams.cli.settings import DataDir, command_settings
from streams.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console

    from streams.operate.explain import Explanation


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(explain)


def explain(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="TEAM|SUBSCRIPTION|EVENT|AUDIT|EMAIL",
            help="A team id, a subscription id (sub_...), an event's id, an audit id or an address.",
        ),
    ],
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Say what happened to a team, and what did not: each event with its decision, its audit row and its mail, the oldest first.

    Reads only, also while everything runs. Exit 1 when nothing is found.

    Example: tierstream explain 5f0c1f0e-8a53-4c7b-9f0e-0d6a3a1f2b4c
    """
    from streams.logging import configure_logging

    settings = command_settings(data_dir, "explain")
    configure_logging(settings)
    explanation = explain_running(settings, subject)
    if as_json:
        print(json.dumps(explanation.as_json(), indent=2))
        return
    show(explanation, plain_console())


def explain_running(settings: Settings, subject: str) -> "Explanation":
    """Explain from the stack that ``settings`` lead to. Blocking; call it in a thread beside an event loop.

    Raises NotFound, KafkaUnavailable, PostgresUnavailable, DatabaseUnfit, ConfigurationError.
    """
    from streams.operate.explain import explain as found
    from streams.operate.logs import KafkaLogs
    from streams.stores.explanations import Explanations

    assert settings.postgres_dsn is not None  # ``require`` saw to it
    with Explanations(settings.postgres_dsn.get_secret_value()) as stores, KafkaLogs(settings) as logs:
        return found(settings, logs, stores, subject)


def show(explanation: "Explanation", console: "Console") -> None:
    """Print the team's tier, then each entry in some lines."""
    from streams.operate.explain.words import mail_words, reasoning

    if explanation.team_id is None:
        console.print("No team is known.", style="bold")
    else:
        since = f" since {explanation.since}" if explanation.since else ""
        console.print(f"Team {explanation.team_id} is on {explanation.tier}{since}.", style="bold", soft_wrap=True)
    for entry in explanation.entries:
        change = f"  {entry.before} → {entry.after}" if entry.before is not None and entry.before != entry.after else ""
        console.print(f"\n{entry.at}  {entry.type}  {entry.outcome}{change}", style="bold", soft_wrap=True)
        about = " ".join(
            f"{name} {value}" for name, value in (("event", entry.event_id), ("subscription", entry.subscription_id)) if value is not None
        )
        mail = mail_words(entry)
        row = f"{entry.kind} {entry.audit_id}{'' if entry.row_written else ', not written yet'}" if entry.audit_id else None
        lines = (
            ("why", reasoning(entry)),
            ("about", about or None),
            ("happened", entry.occurred_at),
            ("log", ", ".join(entry.places) or None),
            ("audit row", row),
            ("mail", mail),
            ("dead letter", ", ".join(entry.dead_letters) or None),
        )
        for name, text in lines:
            if text is not None:
                console.print(f"  {name:<12}{text}", soft_wrap=True)
    for note in explanation.notes:
        console.print(f"\n{note}", soft_wrap=True)
