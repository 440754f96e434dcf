"""``tierstream import-tiers``: teams' tiers from the system that knew them before."""

import json
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import structlog
import typer

from streams.cli.options import DryRun, Json, reason
from streams.cli.progress import progress_bar
from streams.cli.settings import DataDir, command_settings

if TYPE_CHECKING:
    from streams.operate.imports import Result
    from streams.operate.imports.lines import Bad

SHOWN_BAD_LINES = 20

log = structlog.stdlib.get_logger(__name__)


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("import-tiers")(import_tiers)


def import_tiers(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV with a header, or a JSON object a line.")],
    because: Annotated[
        str,
        typer.Option(
            "--because",
            metavar="TEXT",
            callback=reason,
            help="Why you do it: stands in the log and in the records' headers with your name.",
        ),
    ],
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Import the other lines when some are bad; without it, none.")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Set teams' tiers as another system knew them: without audit rows, without mail. Exit 1 when lines are bad, and then nothing is done.

    Columns: team_id and tier; subscription_id, plan_id, email and occurred_at are optional. Running it again changes nothing.

    Example: tierstream import-tiers teams.csv --because "moving from the old billing"
    """
    from streams.logging import configure_logging
    from streams.operate import imports
    from streams.operate.actions import operator_name
    from streams.operate.imports.staging import Staging

    settings = command_settings(data_dir, "import-tiers")
    configure_logging(settings)
    options = imports.Options(because, operator_name(), skip_bad, dry_run)
    with Staging() as staging:
        try:
            with progress_bar() as bar:
                task = bar.add_task("reading the file", total=None)
                result = imports.import_tiers(
                    settings,
                    file,
                    staging,
                    options,
                    time.time(),
                    lambda what, done, total: bar.update(task, description=what, completed=done, total=total),
                )
        except KeyboardInterrupt:
            print("tierstream: Interrupted; what is imported stays, and the same command imports the rest.", file=sys.stderr)
            raise typer.Exit(130) from None
        if not dry_run:
            log.info(
                "tiers_imported",
                file=file.name,
                because=because,
                by=options.by,
                read=result.read,
                applied=result.applied,
                unchanged=result.unchanged,
                bad=result.bad,
            )
        if as_json:
            _print_json(result, staging.bad_lines())
        else:
            _show(result, staging.bad_lines(), dry_run)
    if result.without_plan:
        print(
            f"tierstream: {result.without_plan:,} lines name a subscription and no plan: their next charge counts as a change of plan.",
            file=sys.stderr,
        )
    raise typer.Exit(1 if result.bad and not skip_bad else 0)


def _show(result: "Result", bad: "Iterator[Bad]", dry_run: bool) -> None:
    for line in islice(bad, SHOWN_BAD_LINES):
        print(f"line {line.number}: {line.problem}")
    if result.bad > SHOWN_BAD_LINES:
        print(f"and {result.bad - SHOWN_BAD_LINES:,} bad lines more; --json lists all")
    done = "would be applied" if dry_run else "applied"
    print(f"{result.read:,} lines read: {result.applied:,} {done}, {result.unchanged:,} unchanged, {result.bad:,} bad")
    if result.held_back:
        print(f"{result.held_back:,} lines are fit and nothing is done: mend the bad ones, or leave them out with --skip-bad")


def _print_json(result: "Result", bad: "Iterator[Bad]") -> None:
    """Print the result line by line of ``bad``, of which there may be a million."""
    head = json.dumps({"read": result.read, "applied": result.applied, "unchanged": result.unchanged})
    print(f'{head[:-1]}, "bad": [', end="")
    for number, line in enumerate(bad):
        print(("," if number else "") + json.dumps({"line": line.number, "problem": line.problem}), end="")
    print("]}")
