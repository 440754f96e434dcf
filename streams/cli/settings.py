"""The settings of a command: as they are set, or those of the ``tierstream up`` that runs here."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from streams.embedded.running import DIRECTORY, running_stack
from streams.errors import ConfigurationError
from streams.logging import configure_logging
from streams.settings import PREFIX, Settings, load_settings
from streams.settings.roles import Role

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Use the tierstream up that runs with this data directory; by default the one of this directory."),
]

AcceptInitialTier = Annotated[
    bool,
    typer.Option(
        "--accept-initial-tier",
        help="Let another TIERSTREAM_INITIAL_TIER change the tier of teams that classify has decided on; without it, classify ends then.",
    ),
]

ADDRESSES = ("kafka_bootstrap_servers", "postgres_dsn", "loops_base_url")
"""Where any of these is set, in the environment or in the configuration file, a running ``up`` is not used."""

_OWN = ("gateway_port", "gateway_spool")
"""What belongs to the gateway of ``up``: another one needs a port and a spool of its own."""


def command_settings(data_dir: Path | None, role: Role | None = None) -> Settings:
    """Return the settings of a command, and report on stderr when they come from a running ``up``. Sets up the log where it is JSON.

    ``role`` names what must be set. What is set in the environment or the configuration file wins over what ``up`` uses. Raises
    ConfigurationError when something that ``role`` needs is missing, or no ``up`` runs with ``data_dir``.
    """
    settings = load_settings()
    set_addresses = [name for name in ADDRESSES if name in settings.model_fields_set]
    if data_dir is not None and set_addresses:
        raise ConfigurationError(f"--data-dir {data_dir}: {PREFIX}{set_addresses[0].upper()} is set as well; leave out one of them.")
    if not set_addresses:
        stack = running_stack(data_dir or DIRECTORY)
        if stack is not None:
            where = f"with {data_dir}" if data_dir else "in this directory"
            print(f"Using the tierstream up that runs {where} (process {stack.pid}).", file=sys.stderr)
            given = {variable.removeprefix(PREFIX).lower(): value for variable, value in stack.variables.items()}
            settings = load_settings(**{name: given[name] for name in given.keys() - settings.model_fields_set - set(_OWN)})
        elif data_dir is not None:
            raise ConfigurationError(f"--data-dir {data_dir}: no tierstream up runs with it; start one, or set the addresses.")
    if settings.log_format == "json":
        configure_logging(settings)
    if role is not None:
        settings.require(role)
    return settings
