"""Commands that check or prepare what the stages need: topics, tables, settings."""

import asyncio
import json
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from streams.cli.options import Json, plain_console
from streams.cli.output import report, report_error
from streams.cli.settings import DataDir, command_settings
from streams.errors import ConfigurationError, TopologyError
from streams.kafka import topic_admin
from streams.kafka.acls import ROLES, Acl, acls, commands
from streams.kafka.topic_state import Difference, remedies
from streams.settings import PREFIX, load_plans
from streams.topics import TOPICS


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    topics = typer.Typer(help="Create or check the topics; list the ACLs for them. Example: tierstream topics apply", no_args_is_help=True)
    topics.command("apply")(apply_topics)
    topics.command("check")(check_topics)
    topics.command("acls")(list_acls)
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


def list_acls(
    roles: Annotated[list[str] | None, typer.Argument(metavar="[ROLE]...", help=f"Only these: {', '.join(ROLES)}.")] = None,
    principal: Annotated[
        str, typer.Option("--principal", metavar="NAME", help="Who gets them; {role} stands for the role.")
    ] = "User:tierstream-{role}",
    as_commands: Annotated[bool, typer.Option("--commands", help="Print command lines of Kafka's kafka-acls.")] = False,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Print the ACLs that each process and command needs, and no more, on a broker that denies by default. Asks no broker.

    Example: tierstream topics acls forward feedback --principal User:forward --commands
    """
    unknown = [role for role in roles or () if role not in ROLES]
    if unknown:
        raise ConfigurationError(f"{unknown[0][:80]} is no role; choose from {', '.join(ROLES)}.")
    if as_json and as_commands:
        raise ConfigurationError("--json and --commands are two forms; leave out one of them.")
    if any(character in principal for character in "'\n"):
        raise ConfigurationError("--principal holds a quote or a newline; write it as User:name.")
    settings = command_settings(data_dir)
    found = [acl for role in ROLES if not roles or role in roles for acl in acls(settings, role)]
    if as_commands:
        for line in commands(found, principal, settings.kafka_bootstrap_servers or "BROKER:9092"):
            print(line)
    elif as_json:
        print(json.dumps([_acl_as_json(acl, principal) for acl in found], indent=2))
    else:
        table = Table("role", "resource", "name", "operations", box=None, pad_edge=False)
        for acl in found:
            table.add_row(acl.role, acl.resource, acl.name + ("*" if acl.is_prefix else ""), ", ".join(acl.operations))
        plain_console(width=None if sys.stdout.isatty() else 200).print(table)


def _acl_as_json(acl: Acl, principal: str) -> dict[str, object]:
    return {
        "role": acl.role,
        "principal": principal.replace("{role}", acl.role),
        "resource": acl.resource,
        "name": acl.name,
        "pattern": "prefixed" if acl.is_prefix else "literal",
        "operations": list(acl.operations),
    }


def _as_json(found: Sequence[Difference]) -> list[dict[str, str]]:
    return [{"topic": each.topic, "property": each.name, "is": each.found, "should_be": each.wanted} for each in found]


def migrate(
    roles: Annotated[
        bool, typer.Option("--roles", help="Also create the roles of the processes and commands, and give each what it needs.")
    ] = False,
    role_prefix: Annotated[str | None, typer.Option("--role-prefix", metavar="NAME", help="What their names begin with.")] = None,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Bring the PostgreSQL tables up to date. Safe to run twice, and from two places at once.

    Example: tierstream migrate --roles
    """
    from streams.stores.migrate import migrate as run_migrations
    from streams.stores.roles import PREFIX as ROLE_PREFIX
    from streams.stores.roles import checked_prefix

    if role_prefix is not None and not roles:
        raise ConfigurationError("--role-prefix names the roles of --roles; add that, or leave it out.")
    prefix = checked_prefix(role_prefix or ROLE_PREFIX) if roles else None
    settings = command_settings(data_dir, "migrate")
    assert settings.postgres_dsn is not None  # required just above
    applied = asyncio.run(run_migrations(settings.postgres_dsn.get_secret_value(), role_prefix=prefix))
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
