"""How far a command has come: a bar on stderr, while that is a terminal."""

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn


def progress_bar(time_column: ProgressColumn | None = None) -> Progress:
    """Return a bar with a description, the count and the time so far, or another column for it; it vanishes at the end, and is not shown where
    nobody looks."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), time_column or TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
