"""``tierstream``: the command line. Exit 0 on success, 1 on a found problem, 2 on a usage or configuration error.

An error is one sentence on stderr, never a traceback.
"""

from streams.cli.first_process import end_on_sigterm

end_on_sigterm()  # before the imports below, which take most of a second

# isort: split
import sys
from collections.abc import Callable
from functools import cache

import typer

from streams.cli import asyncapi, broker, deliveries, dlq, explain, imports, reconcile, replay, run, stack, verify
from streams.cli.output import report_error
from streams.errors import TierstreamError

app = typer.Typer(
    name="tierstream",
    help="Billing webhooks and onboarding events in; exact tier transitions out, as audit rows and lifecycle mail.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
stack.register(app)
run.register(app)
broker.register(app)
asyncapi.register(app)
verify.register(app)
imports.register(app)
reconcile.register(app)
explain.register(app)
dlq.register(app)
deliveries.register(app)
replay.register(app)


@cache
def _command() -> Callable[[], object]:
    """The whole command line, which takes a while to be made of all its functions."""
    return typer.main.get_command(app)


def main() -> None:
    """Run the command line; the console script's entry."""
    try:
        _command()()
    except TierstreamError as error:
        report_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
