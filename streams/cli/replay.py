"""``tierstream replay``: decide webhooks again in a shadow, and let those that differ through."""

import asyncio
import json
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from streams.cli.options import DryRun, Json, Yes, confirm, plain_console, reason
from streams.cli.settings import DataDir, command_settings
from streams.errors import ConfigurationError
from streams.settings import Settings
from streams.topics import RAZORPAY_WEBHOOKS

if TYPE_CHECKING:
    from streams.operate.replay import Shadow


class ApplyTo(StrEnum):
    """How far a replay goes."""

    STATE = "state"
    FULL = "full"


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(replay)


def replay(
    start: Annotated[
        list[str], typer.Option("--from", metavar="TIME|TOPIC:PARTITION:OFFSET", help="Where to begin; a place for each partition.")
    ],
    apply: Annotated[
        ApplyTo | None, typer.Option(help="state: tiers and rows, no mails. full: mails too. Without it nothing changes.")
    ] = None,
    mail: Annotated[
        bool, typer.Option("--mail", help="With --apply full: also mails older than TIERSTREAM_FORWARD_MAX_AGE_SECONDS.")
    ] = False,
    because: Annotated[str | None, typer.Option(metavar="TEXT", callback=reason, help="Why you do it; required with --apply.")] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Decide webhooks again with today's plans, beside copies of the tables, and say what would differ in tiers, rows and mails.

    With --apply, those that differ are published again and take the same way as any webhook.

    Example: tierstream replay --from 2026-05-01T00:00:00Z
    """
    from streams.logging import configure_logging

    if apply is not None and because is None:
        raise ConfigurationError("--apply changes something: say why with --because TEXT.")
    if mail and apply is not ApplyTo.FULL:
        raise ConfigurationError("--mail lets old mails go, which --apply full alone does; add it, or leave out --mail.")
    settings = command_settings(data_dir, "replay")
    configure_logging(settings)
    begin = parse_start(settings, start)
    assert settings.postgres_dsn is not None  # ``require`` saw to it
    from streams.kafka import topic_admin
    from streams.operate.logs import KafkaLogs
    from streams.operate.replay import shadow
    from streams.operate.replay.apply import publish, write_ledger
    from streams.stores.replays import Replays

    topic_admin.require(settings)
    with Replays(settings.postgres_dsn.get_secret_value()) as stores, KafkaLogs(settings) as logs:
        found = shadow(settings, logs, stores, logs.offsets_at(RAZORPAY_WEBHOOKS, begin) if isinstance(begin, datetime) else begin)
        published = 0
        if apply is not None and because and not dry_run and found.differences:
            confirm(f"Publish {len(found.differences)} webhooks again (--apply {apply.value})?", yes)
            write_ledger(stores, found.differences, apply.value, mail)
            published = asyncio.run(publish(settings, found.differences, because, apply.value))
    if as_json:
        print(json.dumps({**found.as_json(), "published": published}, indent=2))
    else:
        show(found, published)


def parse_start(settings: Settings, given: list[str]) -> datetime | dict[int, int]:
    """Return a time, or the first offset by partition. Raises ConfigurationError for what is neither of them on ``razorpay.webhooks``."""
    if len(given) == 1 and (moment := _moment(given[0])) is not None:
        return moment
    starts: dict[int, int] = {}
    for place in given:
        topic, partition, offset = [*place.rsplit(":", 2), "", ""][:3]
        if topic not in (RAZORPAY_WEBHOOKS.name, RAZORPAY_WEBHOOKS.full_name(settings)) or not (
            partition.isdecimal() and offset.isdecimal()
        ):
            raise ConfigurationError(
                f"--from {place[:100]}: give one time with an offset, such as 2026-05-01T00:00:00Z, or {RAZORPAY_WEBHOOKS.name}:PARTITION:OFFSET."
            )
        if int(partition) >= settings.partitions:
            raise ConfigurationError(f"--from {place}: {RAZORPAY_WEBHOOKS.name} has the partitions 0 to {settings.partitions - 1}.")
        if int(partition) in starts:
            raise ConfigurationError(f"--from {place}: partition {partition} is given twice; give each once.")
        starts[int(partition)] = int(offset)
    return starts


def show(found: "Shadow", published: int) -> None:
    """Print the counts, then the teams whose tier would differ."""
    from rich.table import Table

    console = plain_console()
    console.print(f"{found.webhooks:,} webhooks decided again: {len(found.differences):,} differ.", style="bold")
    counts = (("stay dead letters", found.parked), ("audit rows that are missing", found.rows), ("their mails", found.mails))
    for name, counted in counts:
        if counted:
            console.print(f"  {name}: {', '.join(f'{count:,} {what}' for what, count in sorted(counted.items()))}", soft_wrap=True)
    if found.pending:
        console.print(f"  not worked in yet, and not looked at: {found.pending:,}")
    if found.tiers:
        table = Table("team", "is on", "would be on", box=None, pad_edge=False)
        for team, (was, now) in sorted(found.tiers.items()):
            table.add_row(team, was, now)
        console.print(table)
    if published:
        console.print(f"{published:,} webhooks published again.", style="bold")


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None
