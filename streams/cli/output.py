"""What a command says of itself: a sentence for a person, or a line of the log where logs are JSON."""

import os
import sys

import structlog

from streams.errors import TierstreamError
from streams.logging import configure_logging
from streams.settings import PREFIX, Settings

_LOG_FORMAT = f"{PREFIX}LOG_FORMAT"


def report_error(error: TierstreamError, settings: Settings | None = None) -> None:
    """Print on stderr what ends the process. Without ``settings``, which may be what is wrong, the environment says how."""
    log_format = settings.log_format if settings is not None else os.environ.get(_LOG_FORMAT, "").strip()
    if log_format == "json":
        configure_logging(settings or Settings.model_construct(log_format="json", log_level="info"))
        structlog.get_logger("tierstream").critical("ended by an error", error=str(error), exit_code=error.exit_code)
    else:
        print(f"tierstream: {error}", file=sys.stderr)


def report(settings: Settings, sentence: str, event: str, **values: object) -> None:
    """Print ``sentence`` on stdout, or log ``event`` with its values."""
    if settings.log_format == "json":
        structlog.get_logger("tierstream").info(event, **values)
    else:
        print(sentence, flush=True)
