"""The command that describes the topics to other teams."""

import json

import typer

from streams.cli.options import Json
from streams.cli.settings import DataDir, command_settings
from streams.contracts.asyncapi import document


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(asyncapi)


def asyncapi(as_json: Json = True, data_dir: DataDir = None) -> None:
    """Print the topics as an AsyncAPI 3.0 document: kinds, keys, headers, schemas, retention. It is JSON in any case; nothing is connected.

    Example: tierstream asyncapi > asyncapi.json
    """
    print(json.dumps(document(command_settings(data_dir)), indent=2, ensure_ascii=False))
