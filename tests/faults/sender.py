"""A sender of webhooks, as light as it can be, in a process of its own: what it measures is the gateway, and not itself.

``python -m tests.faults.sender PORT PER_SECOND`` posts signed charges when they are due, however many are not answered yet, until
SIGTERM; then it waits for the answers. One line for each: when it was sent (monotonic seconds), how long its answer took, the
answer's status (0: none came), its event id.
"""

import asyncio
import random
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self, cast

import uvloop

from tests.faults.traffic import SECRET
from tests.load import Webhook, team_scenarios

NO_ANSWER = 0
ANSWERS_SECONDS = 20.0
REPORT_SECONDS = 0.1
PLANS = ("plan_hobby", "plan_pro", "plan_growth", "plan_team")


@dataclass(frozen=True, slots=True)
class Answered:
    """One request: when it was sent, in monotonic seconds; how long its answer took; its status; the webhook's event id."""

    sent_at: float
    took: float
    status: int
    event_id: str

    def line(self) -> str:
        """As it is printed."""
        return f"{self.sent_at:.6f} {self.took:.6f} {self.status} {self.event_id}\n"

    @classmethod
    def parse(cls, line: str) -> Self:
        """Read a printed line."""
        sent_at, took, status, event_id = line.split()
        return cls(float(sent_at), float(took), int(status), event_id)


def charges() -> Iterator[Webhook]:
    """Charges without end, a fifth of them for another plan than before."""
    chance = random.Random(1)
    payers = [
        (team_scenario, team_scenario.subscribe(chance.choice(PLANS)))
        for team_scenario in team_scenarios(1, 200, 0, int(time.time()) - 3_600)
    ]
    while True:
        team_scenario, subscription = chance.choice(payers)
        team_scenario.clock = int(time.time())
        yield team_scenario.charge(subscription, chance.choice(PLANS) if chance.random() < 0.2 else None)
        team_scenario.webhooks.clear()


def request(webhook: Webhook) -> bytes:
    """The whole of a request."""
    head = ["POST /webhooks/razorpay HTTP/1.1", "host: gateway", f"content-length: {len(webhook.body)}"]
    head += [f"{name}: {value}" for name, value in webhook.headers(SECRET).items()]
    return "\r\n".join([*head, "", ""]).encode() + webhook.body


class _Connection(asyncio.Protocol):
    """One connection, with at most one request under way."""

    def __init__(self, free: list["_Connection"]) -> None:
        self._free = free
        self._received = b""
        self._answer: asyncio.Future[int] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's does not inherit from it

    def connection_lost(self, _error: Exception | None) -> None:
        if self in self._free:
            self._free.remove(self)
        self._settle(NO_ANSWER)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if end and len(body) >= _content_length(head):
            self._received = b""
            self._settle(int(head[9:12]))

    def send(self, content: bytes) -> "asyncio.Future[int]":
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(content)
        return self._answer

    def _settle(self, status: int) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.set_result(status)
            if status != NO_ANSWER:
                self._free.append(self)


def _content_length(head: bytes) -> int:
    _, _, rest = head.lower().partition(b"content-length:")
    return int(rest.split(b"\r\n", 1)[0] or 0)


class Sender:
    """Posts to 127.0.0.1, over as many connections as it takes."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._free: list[_Connection] = []
        self._answered: list[Answered] = []

    async def send(self, webhook: Webhook) -> None:
        """Post one webhook and note its answer."""
        began = time.monotonic()
        try:
            if self._free:
                connection = self._free.pop()
            else:
                loop = asyncio.get_running_loop()
                _, connection = await loop.create_connection(lambda: _Connection(self._free), "127.0.0.1", self._port)
            status = await connection.send(request(webhook))
        except OSError:
            status = NO_ANSWER
        self._answered.append(Answered(began, time.monotonic() - began, status, webhook.event_id))

    def report(self) -> None:
        """Print what has been answered since."""
        answered, self._answered = self._answered, []
        sys.stdout.write("".join(one.line() for one in answered))
        sys.stdout.flush()

    async def run(self, per_second: float, stop: asyncio.Event) -> None:
        """Post until ``stop`` is set, and wait for the answers."""
        began, under_way, reported_at = time.monotonic(), set[asyncio.Task[None]](), 0.0
        for number, webhook in enumerate(charges(), start=1):
            await asyncio.sleep(max(0.0, began + number / per_second - time.monotonic()))
            if stop.is_set():
                break
            task = asyncio.create_task(self.send(webhook))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            if time.monotonic() - reported_at > REPORT_SECONDS:
                self.report()
                reported_at = time.monotonic()
        if under_way:
            await asyncio.wait(under_way, timeout=ANSWERS_SECONDS)
        self.report()


async def main(port: int, per_second: float) -> None:
    """Post until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await Sender(port).run(per_second, stop)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), float(sys.argv[2])))
