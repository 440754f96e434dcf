"""What one line of an import does, given what was imported of its team before. Pure.

**The time of a line without one.** What Razorpay and services say must count more than a copy of another system, which may be older than
they are. So such an import happens before everything else: at the first second of 1970, which reads as "since nobody knows when". One that
corrects an earlier import of the team happens a second after that one, else which of the two counts would be left to their ids. Both follow
from what is known, so a second run finds the same.
"""

from dataclasses import dataclass

from agents.classify import service_ids
from schemas.envelope import derived_id
from schemas.serialize import rfc3339
from schemas.team_events import IMPORTED
from streams.operate.imports.lines import Line

SOURCE = "tierstream/import-tiers"
STAGE = "import-tiers"

SECOND = 1_000_000
"""In microseconds, as times are here."""

Statement = tuple[str, str | None, str | None, str | None]
"""What an import says of its team: tier, plan, subscription, e-mail."""


@dataclass(frozen=True, slots=True)
class Known:
    """The newest import of a team: when (Unix microseconds), and what it says; and the ids that the team has, as classify keeps them."""

    at: int
    said: Statement
    ids: bytes = b""


@dataclass(frozen=True, slots=True)
class New:
    """To be produced, with this time (Unix microseconds); ``link`` says whether its subscription's link is, too."""

    at: int
    link: bool


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The import and its link are there."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Can not be applied to what is known of the team."""

    problem: str


def said(line: Line) -> Statement:
    """Return what a line says, whenever."""
    return (line.tier, line.plan_id, line.subscription_id, line.email)


def event_id(line: Line, at: int) -> str:
    """Return the id of a line's ``team.imported``: it derives from all that the event says, so that the same one is a duplicate."""
    content = "\x1f".join((*(text or "" for text in said(line)), str(at)))
    return derived_id(STAGE, SOURCE, content, line.team_id, IMPORTED)


def decide(line: Line, known: Known | None, linked_team: str | None) -> New | Unchanged | Refused:
    """Compare a line with what was imported before; ``linked_team`` is whose its subscription was then."""
    link = line.subscription_id is not None and linked_team is None
    if line.subscription_id is not None and linked_team not in (None, line.team_id):
        return Refused("subscription_id: was imported for another team before; Razorpay's note of the subscription moves it")
    at = line.at
    if known is None:
        return New(at or 0, link)
    if known.said == said(line) and (at is None or at <= known.at):
        return New(known.at, link) if link else Unchanged()
    if at is None:
        return New((known.at // SECOND + 1) * SECOND, link)
    if service_ids.known(known.ids, f"{SOURCE}#{event_id(line, at)}", b"") is not service_ids.Known.NEW:
        return New(at, link) if link else Unchanged()
    if at <= known.at:
        return Refused(f"occurred_at: is not after the team's import of {rfc3339(known.at // SECOND)}, which says something else")
    return New(at, link)
