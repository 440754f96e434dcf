"""Logging as a process has it, for the length of a test."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from streams.logging import LIBRDKAFKA


@contextmanager
def logging_restored() -> Iterator[None]:
    """Let the block configure logging, and set all of it back afterwards."""
    root, clients = logging.getLogger(), logging.getLogger(LIBRDKAFKA)
    handlers, level, filters = list(root.handlers), root.level, list(clients.filters)
    levels = {name: logger.level for name, logger in root.manager.loggerDict.items() if isinstance(logger, logging.Logger)}
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        clients.filters[:] = filters
        for name, was in levels.items():
            logging.getLogger(name).setLevel(was)
        structlog.reset_defaults()
