"""Options that several commands share, and what they ask before they change something."""

import sys
from typing import Annotated

import typer
from rich.console import Console

from streams.errors import ConfigurationError
from streams.logging import mask_text


def reason(text: str | None) -> str | None:
    """Return the reason of ``--because`` as it is kept: trimmed, addresses masked; None where none is given. Raises ConfigurationError when it is empty."""
    if text is None:
        return None
    if not text.strip():
        raise ConfigurationError("--because is empty: say why, in a few words, for it is kept with your name.")
    return mask_text(text.strip())


Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Because = Annotated[
    str, typer.Option("--because", metavar="TEXT", callback=reason, help="Why you do it: stands in the audit log with your name.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Count and show what would be done, and change nothing.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def plain_console(*, stderr: bool = False, soft_wrap: bool = False, width: int | None = None) -> Console:
    """Return a console that prints text as it is: what comes from outside is no markup."""
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=soft_wrap, width=width)


def confirm(question: str, yes: bool) -> None:
    """Ask on the terminal unless ``yes``. Raises ConfigurationError where nobody can answer, typer.Abort when the answer is no."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigurationError(f"{question} Nobody can answer here: add --yes to do it, or --dry-run to see what it would do.")
    typer.confirm(question, abort=True, err=True)
