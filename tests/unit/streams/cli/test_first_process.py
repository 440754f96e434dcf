"""SIGTERM in a container without an ``init``: the kernel does nothing with it for the first process. In a container: ``make compose-test``."""

import os
import signal
from collections.abc import Iterator

import pytest

from streams.cli.first_process import end_on_sigterm


@pytest.fixture(autouse=True)
def _handler() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(("pid", "is_handled"), [(1, True), (2, False)])
def test_first_process_alone_has_a_handler_from_the_start(monkeypatch: pytest.MonkeyPatch, pid: int, is_handled: bool) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    monkeypatch.setattr(os, "getpid", lambda: pid)

    end_on_sigterm()

    assert (signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL) is is_handled


def test_first_process_ends_as_any_other_would(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = list[int]()
    monkeypatch.setattr(os, "getpid", lambda: 1)
    monkeypatch.setattr(os, "_exit", ended.append)
    end_on_sigterm()

    signal.raise_signal(signal.SIGTERM)

    assert ended == [143]
