"""``tierstream reconcile``: what Razorpay says of its subscriptions against what tierstream has decided."""

import asyncio
import json
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from streams.cli.options import DryRun, Json, Yes, confirm, plain_console, reason
from streams.cli.progress import progress_bar
from streams.cli.settings import DataDir, command_settings
from streams.errors import ConfigurationError

if TYPE_CHECKING:
    from streams.operate.reconcile import Comparison
    from streams.operate.reconcile.compare import Drift


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(reconcile)


def reconcile(
    because: Annotated[
        str | None,
        typer.Option("--because", metavar="TEXT", callback=reason, help="Feed what is missing, and why: stands in the audit log."),
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Read every subscription from Razorpay's API and compare; with --because, feed what is missing as webhooks. Exit 1 when some is left.

    Example: tierstream reconcile --because "webhook was disabled on Monday" --yes
    """
    from streams.logging import configure_logging
    from streams.operate import reconcile as work
    from streams.operate.actions import operator_name

    if yes and because is None:
        raise ConfigurationError('--yes: nothing is fed without a reason; add --because "TEXT", or leave --yes out.')
    settings = command_settings(data_dir, "reconcile")
    configure_logging(settings)
    read_at = int(time.time())
    with progress_bar() as bar:
        task = bar.add_task("reading Razorpay's subscriptions", total=None)
        entities = asyncio.run(work.read_subscriptions(settings, read_at, lambda done: bar.update(task, completed=done)))
        bar.update(task, description="reading the teams")
        found = work.compare_all(settings, entities, read_at)
    fed = 0
    feedable = sum(drift.event is not None for drift in found.drift)
    if not as_json:
        _show(found)
    if found.sent_twice:
        print(
            f"tierstream: {found.sent_twice:,} of the newest webhooks came under two event ids: two webhooks of the account point here; delete one.",
            file=sys.stderr,
        )
    waiting = found.undecided
    if found.drift and (waiting.webhooks or waiting.team_events):
        print(
            f"tierstream: {waiting.webhooks:,} webhooks and {waiting.team_events:,} team events are not worked in yet, and may be what differs.",
            file=sys.stderr,
        )
    if feedable and because is not None and not dry_run:
        confirm(f"Feed {feedable:,} webhooks?", yes)
        fed = asyncio.run(work.feed(settings, found, because, operator_name(), time.time()))
    if as_json:
        drift = [_as_json(each, fed > 0) for each in found.drift]
        print(json.dumps({"subscriptions": found.subscriptions, "drift": drift, "fed": fed}))
    elif fed:
        print(f"{fed:,} webhooks fed")
    raise typer.Exit(1 if len(found.drift) > fed else 0)


def _show(found: "Comparison") -> None:
    if found.drift:
        table = Table("subscription", "team", "at Razorpay", "here", "problem", "webhook", box=None, pad_edge=False)
        for drift in found.drift:
            at_razorpay = f"{drift.status}, {drift.plan_id or 'no plan'}"
            here = f"{drift.ours.state}, {drift.ours.plan_id}" if drift.ours.plan_id else drift.ours.state
            table.add_row(
                drift.subscription_id, drift.team_id or "-", at_razorpay, here, drift.problem, drift.event or f"none: {drift.obstacle}"
            )
        plain_console(soft_wrap=True).print(table)
    feedable = sum(drift.event is not None for drift in found.drift)
    print(f"{found.subscriptions:,} subscriptions read, {len(found.drift):,} differ, {feedable:,} can be fed")


def _as_json(drift: "Drift", fed: bool) -> dict[str, object]:
    return {
        "subscription_id": drift.subscription_id,
        "team_id": drift.team_id,
        "status": drift.status,
        "plan_id": drift.plan_id,
        "here": {"state": drift.ours.state, "plan_id": drift.ours.plan_id},
        "problem": drift.problem,
        "event": drift.event,
        "at": drift.at or None,
        "obstacle": drift.obstacle,
        "fed": fed and drift.event is not None,
    }
