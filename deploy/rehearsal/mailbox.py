"""What the fake Loops has accepted, over its restarts: it keeps its list in memory."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import Any

import httpx

from tests.verdict import accepted_mails

LOOK_SECONDS = 0.2

Mail = dict[str, Any]


class Mailbox:
    """Mails, gathered from lists that each begin anew with a restart."""

    def __init__(self) -> None:
        """Begin with none."""
        self.mails: list[Mail] = []
        """As often as the list that has one most often has it: after a restart Loops can not know what it accepted before."""

    @property
    def ids(self) -> set[str]:
        """The ids of the audit rows that the mails belong to."""
        return {mail["idempotency_key"] for mail in self.mails}

    def add(self, listed: Sequence[Mail]) -> None:
        """Add what a list has more often than was known."""
        known, counted = Counter(mail["idempotency_key"] for mail in self.mails), Counter[str]()
        for mail in listed:
            counted[mail["idempotency_key"]] += 1
            if counted[mail["idempotency_key"]] > known[mail["idempotency_key"]]:
                self.mails.append(mail)

    @contextmanager
    def watching(self, loops: str) -> Iterator[None]:
        """Look into the list of Loops again and again during the block, in which Loops is stopped."""
        over = Event()
        lists: list[Sequence[Mail]] = []

        def watch() -> None:
            while not over.is_set():
                with suppress(httpx.HTTPError):  # it is away just now
                    lists.append(asyncio.run(accepted_mails(loops)))
                over.wait(LOOK_SECONDS)

        watcher = Thread(target=watch, name="mailbox", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()
        for listed in lists:
            self.add(listed)
