"""``tierstream verify``: prove the accounting."""

import json
import secrets
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from streams.cli.options import Json, plain_console
from streams.cli.progress import progress_bar
from streams.cli.settings import DataDir, command_settings
from streams.settings import Settings

if TYPE_CHECKING:
    from collections import Counter

    from streams.operate.verify import OnProgress, Options
    from streams.operate.verify.report import Report


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(verify)


def verify(
    as_json: Json = False,
    shuffle: Annotated[int, typer.Option(min=0, metavar="N", help="Replay N random orders of each team's facts as well.")] = 0,
    seed: Annotated[int | None, typer.Option(help="Seed of those orders, to repeat a run.")] = None,
    snapshot: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Begin where this snapshot ends.")] = None,
    write_snapshot: Annotated[Path | None, typer.Option(dir_okay=False, help="Write a snapshot here if nothing differs.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Prove the accounting from topics and database: every event one outcome, every transition one row, every mail one entry.

    Reads only, also while everything runs; what is not processed yet is reported as pending. Exit 1 when anything differs.

    Example: tierstream verify --snapshot last.snapshot --write-snapshot last.snapshot
    """
    from streams.logging import configure_logging
    from streams.operate.verify import Options
    from streams.operate.verify.snapshot import Snapshot, SnapshotWriter

    settings = command_settings(data_dir, "verify")
    configure_logging(settings)
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    with ExitStack() as stack:
        begin = stack.enter_context(Snapshot(snapshot)) if snapshot else None
        writer = stack.enter_context(SnapshotWriter(write_snapshot)) if write_snapshot else None
        with progress_bar() as progress:
            task = progress.add_task("connecting", total=None)
            report = verify_running(
                settings,
                Options(shuffle, seed, begin, writer),
                lambda what, done, total: progress.update(task, description=what, completed=done, total=total),
            )
    if as_json:
        extra = {"seed": seed} if shuffle else {}
        print(json.dumps({**report.as_json(), **extra}, indent=2))
    else:
        show(report, plain_console())
        if shuffle:
            print(f"orders: seed {seed} (repeat with --shuffle {shuffle} --seed {seed})")
    if write_snapshot:
        written = f"snapshot written to {write_snapshot}" if report.clean else "no snapshot is written, for something differs"
        print(written, file=sys.stderr)
    raise typer.Exit(0 if report.clean else 1)


def verify_running(settings: Settings, options: "Options | None" = None, on_progress: "OnProgress | None" = None) -> "Report":
    """Verify the stack that ``settings`` lead to, and return the report. Blocking; call it in a thread beside an event loop.

    Raises TopologyError, KafkaUnavailable, PostgresUnavailable, SnapshotError, ConfigurationError.
    """
    from streams.kafka import topic_admin
    from streams.operate.logs import KafkaLogs
    from streams.operate.verify import Options
    from streams.operate.verify import verify as compare
    from streams.stores.accounts import StoredAccounts

    assert settings.postgres_dsn is not None  # ``require`` saw to it
    topic_admin.require(settings)
    with StoredAccounts(settings.postgres_dsn.get_secret_value()) as stores, KafkaLogs(settings) as logs:
        return compare(settings, logs, stores, options or Options(), on_progress or (lambda what, done, total: None))


def show(report: "Report", console: Console) -> None:
    """Print the checks as a table, then every difference, then what could not be checked."""
    table = Table("check", "compared", "differ", "pending or not checked", box=None, pad_edge=False)
    for check in report.checks:
        beside = [*_counts(check.pending), *(f"{words} (not checked)" for words in _counts(check.unchecked))]
        style = "red" if check.differing else ""
        table.add_row(check.name, f"{check.compared:,}", f"{check.differing:,}", ", ".join(beside), style=style)
    console.print(table)
    for line in report.differences():
        console.print(line, soft_wrap=True)
    for note in report.notes:
        console.print(note, soft_wrap=True)
    differing = sum(check.differing for check in report.checks)
    found = "1 difference." if differing == 1 else f"{differing:,} differences."
    console.print("Everything agrees." if report.clean else found, style="bold")


def _counts(counted: "Counter[str]") -> list[str]:
    return [f"{count:,} {words}" for words, count in counted.items() if count]
