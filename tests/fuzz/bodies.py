"""Requests made of real bodies by a seeded engine that changes their structure, their text and their bytes.

The real ones are those of the demo and, where the folder is there, deliveries that Razorpay has sent. A number and a seed give the
same request every time.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from streams.demo.deliveries import EVENTS, WEBHOOKS
from streams.demo.scenario import build_scenario
from streams.gateway.http import MAX_BODY_BYTES
from tests.fuzz.structure import restructured
from tests.fuzz.text import BYTE_CHANGES, TEXT_CHANGES
from tests.fuzz.values import Chance

SAMPLES = Path(__file__).parents[3] / "shared" / "samples" / "razorpay"
NOW = 1_780_000_000
"""When the first request arrives, in Unix seconds."""

SECONDS_APART = 60
"""Seconds between two requests."""

LARGE = 1 / 2_000
"""The share of bodies that are longer than the gateway takes."""

FORGED = 0.08
AS_IT_IS = 0.1
OF_SERVICES = 0.25

_ADDRESS = re.compile(rb"[^\s@\"\\<>{}\[\],:;/|=()']{1,64}@[\w.-]{1,100}")


@dataclass(frozen=True, slots=True)
class Request:
    """One request: ``change`` says what was done to its body, ``at`` when it arrives (Unix seconds)."""

    number: int
    at: int
    route: str
    body: bytes
    event_id: bytes | None
    forged: bool
    change: str

    @property
    def addresses(self) -> set[str]:
        """All in the body that looks like somebody's address: none of it belongs into a log."""
        return {found.decode("utf-8", "replace") for found in _ADDRESS.findall(self.body)}


def demo_bodies() -> tuple[list[bytes], list[bytes]]:
    """Return the demo's webhooks and its services' events."""
    deliveries = build_scenario(NOW).deliveries
    return ([each.body for each in deliveries if each.route == WEBHOOKS], [each.body for each in deliveries if each.route == EVENTS])


def sample_bodies(directory: Path = SAMPLES) -> list[bytes]:
    """Return the recorded deliveries in ``directory``; none where it is missing."""
    bodies = [path.read_bytes() for path in sorted(directory.glob("*.json"))]
    return [body for body in bodies if b'"payload"' in body]


def request(seed: int, number: int, webhooks: Sequence[bytes], events: Sequence[bytes]) -> Request:
    """Return request ``number`` of ``seed``, made of ``webhooks`` or ``events``."""
    at = NOW + number * SECONDS_APART
    chance = Chance(f"{seed}/{number}", at)
    of_service = chance.random() < OF_SERVICES
    body, change = changed(chance, events if of_service else webhooks)
    event_id = (
        chance.choice((None, b"", b"\xff\x00id", b"x" * 101)) if chance.random() < 0.1 else b"Fz%012d" % chance.randrange(number + 50)
    )
    return Request(number, at, EVENTS if of_service else WEBHOOKS, body, event_id, chance.random() < FORGED, change)


def changed(chance: Chance, real: Sequence[bytes]) -> tuple[bytes, str]:
    """Return one of the ``real`` bodies, changed in some places, and the names of the changes."""
    body, names = chance.choice(real), list[str]()
    if chance.random() < AS_IT_IS:
        return body, "none"
    if chance.random() < 0.8:
        body, names = restructured(chance, body)
    if chance.random() < 0.2 or not names:
        change = chance.choice(TEXT_CHANGES)
        body = change(chance, body, chance.choice(real))
        names.append(change.__name__.strip("_"))
    if chance.random() < 0.12:
        for _ in range(chance.randint(1, 4)):
            byte_change = chance.choice(BYTE_CHANGES)
            body = byte_change(chance, body)
            names.append(byte_change.__name__.strip("_"))
    if chance.random() < LARGE:
        body, names = body + b" " * MAX_BODY_BYTES, [*names, "large"]
    return body, ", ".join(names)
