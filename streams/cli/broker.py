"""Commands that check or prepare what the stages need: topics, tables, settings."""

import asyncio
import json
from collections.abc import Sequence
from typing import Annotated

import typer
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from streams.cli.options import Json
from streams.cli.output import report, report_error
from streams.cli.settings import DataDir, command_settings
from streams.errors import TopologyError
from streams.kafka import topic_admin
from streams.kafka.topic_state import Difference, remedies
from streams.settings import PREFIX, load_plans
from streams.topics import TOPICS


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    topics = typer.Typer(help="Create or check the topics. Example: tierstream topics apply", no_args_is_help=True)
    topics.command("apply")(apply_topics)
    topics.command("check")(check_topics)
    app.add_typer(topics, name="topics")
    app.command()(migrate)
    app.command("check-config")(check_config)


def apply_topics(
    alter: Annotated[
        bool, typer.Option("--alter", help="Also set what differs, where that deletes nothing: sizes, in-sync copies, longer retention.")
    ] = False,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Create the topics that are missing; refuse to change partitions or cleanup policy. Exit 1 when --alter has to leave something.

    Example: tierstream topics apply --alter
    """
    settings = command_settings(data_dir, "topics")
    created = topic_admin.once_reachable(settings, topic_admin.apply)
    altered = topic_admin.alter(settings) if alter else []
    left = topic_admin.compare(settings).differing
    if as_json:
        print(json.dumps({"created": created, "altered": _as_json(altered), "differences": _as_json(left)}))
    else:
        said = [f"created {name}" for name in created]
        said += [f"set {each.name}={each.wanted} of {each.topic}, which was {each.found}" for each in altered]
        report(
            settings, "\n".join(said) or f"all {len(TOPICS)} topics are there", "topics applied", created=created, altered=_as_json(altered)
        )
    if left:
        report_error(TopologyError(f"Left as they are: {'; '.join(map(str, left))}. {remedies(left)}"), settings)
        raise typer.Exit(1 if alter else 0)


def check_topics(as_json: Json = False, data_dir: DataDir = None) -> None:
    """Compare every property of the broker's topics with the topology; exit 1 when one differs.

    Example: tierstream topics check
    """
    settings = command_settings(data_dir, "topics")
    if as_json:
        found = topic_admin.compare(settings)
        ok = not (found.missing or found.differing)
        print(json.dumps({"ok": ok, "missing": found.missing, "differences": _as_json(found.differing)}))
        raise typer.Exit(0 if ok else 1)
    topic_admin.check(settings)
    print(f"all {len(TOPICS)} topics are as they should be")


def _as_json(found: Sequence[Difference]) -> list[dict[str, str]]:
    return [{"topic": each.topic, "property": each.name, "is": each.found, "should_be": each.wanted} for each in found]


def migrate(as_json: Json = False, data_dir: DataDir = None) -> None:
    """Bring the PostgreSQL tables up to date. Safe to run twice, and from two places at once.

    Example: tierstream migrate
    """
    from streams.stores.migrate import migrate as run_migrations

    settings = command_settings(data_dir, "migrate")
    assert settings.postgres_dsn is not None  # required just above
    applied = asyncio.run(run_migrations(settings.postgres_dsn.get_secret_value()))
    if as_json:
        print(json.dumps({"applied": applied}))
    else:
        report(
            settings, "\n".join(f"applied {name}" for name in applied) or "the tables are up to date", "tables migrated", applied=applied
        )


def check_config(as_json: Json = False, data_dir: DataDir = None) -> None:
    """Print the settings in force, secrets hidden; exit 2 when one is wrong.

    Example: TIERSTREAM_CONFIG=tierstream.toml tierstream check-config
    """
    settings = command_settings(data_dir)
    plans = load_plans(settings.plans) if settings.plans else {}
    shown: dict[str, str | None] = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            shown[name] = "(set)" if value.get_secret_value() else None
        else:
            shown[name] = None if value is None or value == "" else str(value)
    if as_json:
        print(json.dumps({"settings": shown, "plans": {plan: tier.label for plan, tier in plans.items()}}))
        return
    table = Table("setting", "value", "from")
    for name, text in shown.items():
        table.add_row(PREFIX + name.upper(), text or "-", "set" if name in settings.model_fields_set else "default")
    console = Console()
    console.print(table)
    if plans:
        console.print("plans: " + ", ".join(f"{plan} → {tier.label}" for plan, tier in plans.items()))
