"""Logs: one format for our own events and for those of Faust, aiokafka, uvicorn and librdkafka, on stderr.

The last processor before the renderer masks e-mail addresses and what looks like a secret in every value. It is a last
line of defence: no caller passes one on purpose.
"""

import logging
import re
import sys
import time
from collections.abc import Callable, MutableMapping
from typing import Any

import structlog
from structlog.typing import Processor

from streams.settings import Settings

MASK = "***"

LIBRDKAFKA = "librdkafka"
"""Logger of every librdkafka client. A broker that is away is reported on it ten times a second, so it is throttled."""

THROTTLE_SECONDS = 30.0

_QUIET = ("faust", "mode", "aiokafka", "kafka", "asyncio", "uvicorn", "httpx", "httpcore")
"""Libraries whose messages below warning do not help an operator."""

# Each starts with a bounded run, so that a long value without the sign costs no more than one pass.
_EMAIL = re.compile(r"([^\s@\"'\\<>()\[\]{},;:=/|\x1b]{1,64})@([^\s@\"'\\<>()\[\]{},;:=/|\x1b]{1,253})")
_CREDENTIALS = re.compile(r"://[^\s/@\"']{1,200}@")
_SECRET = re.compile(r"(?i)\b(bearer\s+|whsec_|password[=:]\s*|secret[=:]\s*|token[=:]\s*|api[_-]?key[=:]\s*)[^\s\"',;&]+")
_SECRET_NAME = re.compile(r"(?i)secret|password|token|api_?key|authorization|signature|dsn")


def mask_email(address: str) -> str:
    """Return ``address`` with all but the first character of its local part hidden: ``j***@example.com``.

    What is no address is hidden whole.
    """
    local, at, domain = address.rpartition("@")
    if not at or not domain:
        return MASK
    return f"{local[0] if len(local) > 1 else ''}{MASK}@{domain}"


def mask_text(text: str) -> str:
    """Return ``text`` with e-mail addresses, URL credentials and named secrets masked."""
    if "@" in text:
        text = _CREDENTIALS.sub(f"://{MASK}@", text)
        text = _EMAIL.sub(lambda match: mask_email(match[0]) if match[1] != MASK else match[0], text)
    return _SECRET.sub(lambda match: match[1] + MASK, text)


def mask_values(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Mask every value of a log event, however deep. A structlog processor."""
    return {name: _masked(name, value) for name, value in event.items()}


def _masked(name: str, value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if _SECRET_NAME.search(name):
        return MASK
    if isinstance(value, dict):
        return {str(key): _masked(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_masked("", item) for item in value]
    return mask_text(value if isinstance(value, str) else str(value))


class Throttle:
    """Lets one message of a kind through in ``interval_seconds``."""

    def __init__(self, interval_seconds: float = THROTTLE_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = interval_seconds
        self._clock = clock
        self._next: dict[str, float] = {}

    def passes(self, kind: str) -> bool:
        """Whether a message of this kind is due."""
        now = self._clock()
        if now < self._next.get(kind, now):
            return False
        self._next[kind] = now + self._interval
        return True


class ThrottledLogs(logging.Filter):
    """Throttles librdkafka's log lines by their kind (``FAIL``, ``ERROR``), which is the first argument of each."""

    def __init__(self, throttle: Throttle | None = None) -> None:
        super().__init__()
        self._throttle = throttle or Throttle()

    def filter(self, record: logging.LogRecord) -> bool:
        kind = record.args[0] if isinstance(record.args, tuple) and record.args else record.msg
        return self._throttle.passes(str(kind))


class ThrottledLibrary(logging.Filter):
    """Throttles what one library's loggers say, by logger and message template: aiokafka says the same some seventy times a
    second while no broker answers. For a handler: a logger's own filters do not see its children's records."""

    def __init__(self, library: str, throttle: Throttle | None = None) -> None:
        super().__init__()
        self._library = library
        self._throttle = throttle or Throttle()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.partition(".")[0] != self._library:
            return True
        return self._throttle.passes(f"{record.name}: {record.msg}")


class RetriedErrors(logging.Filter):
    """Makes a warning of an aiokafka error that is tried again, such as the coordinator that a new cluster has not got yet: an alert on
    errors is for those that last, and these are what makes a stage not ready. For a handler."""

    def filter(self, record: logging.LogRecord) -> bool:
        arguments = record.args if isinstance(record.args, tuple) else ()
        if (
            record.levelno == logging.ERROR
            and record.name.startswith("aiokafka.")
            and any(getattr(each, "retriable", False) for each in arguments)
        ):
            record.levelno, record.levelname = logging.WARNING, logging.getLevelName(logging.WARNING)
        return True


def configure_logging(settings: Settings) -> None:
    """Set up structlog and the standard library's logging, once a process, in ``main``.

    ``settings.log_level`` is the least severe level of our own events; libraries are heard from warning on.
    Replaces the root logger's handlers.
    """
    level = getattr(logging, settings.log_level.upper())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    render: Processor
    if settings.log_format == "json":
        render = structlog.processors.JSONRenderer()
    else:
        render = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, mask_values, render],
        )
    )
    handler.addFilter(ThrottledLibrary("aiokafka"))
    handler.addFilter(RetriedErrors())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _QUIET:
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
        library.setLevel(max(level, logging.WARNING))
    clients = logging.getLogger(LIBRDKAFKA)
    clients.filters[:] = [ThrottledLogs()]
