"""Which dead letters a command is about. Pure."""

from dataclasses import dataclass
from datetime import UTC, datetime

from schemas.reasons import DEAD_LETTER_REASONS
from streams.errors import ConfigurationError
from streams.operate.dead_letters.letters import DeadLetter, Place

STAGES = ("gateway", "normalise", "classify", "audit", "forward", "feedback")
"""Who writes dead letters."""


@dataclass(frozen=True, slots=True)
class Filters:
    """What a dead letter must have; None takes any. ``since`` and ``until`` (Unix seconds) are about when it was parked: from the one up to,
    but not with, the other. ``at`` is its own place, or that of the record that it is of."""

    reason: str | None = None
    stage: str | None = None
    key: str | None = None
    since: float | None = None
    until: float | None = None
    at: Place | None = None

    def matches(self, letter: DeadLetter) -> bool:
        """Whether a command is about ``letter``."""
        return (
            self.reason in (None, letter.reason)
            and self.stage in (None, letter.stage)
            and (self.key is None or self.key == letter.key)
            and (self.since is None or letter.time >= self.since)
            and (self.until is None or letter.time < self.until)
            and (self.at is None or self.at in (letter.place, letter.origin))
        )


def filters_of(
    *, reason: str | None, stage: str | None, key: str | None, since: str | None, until: str | None, at: str | None, topic_prefix: str
) -> Filters:
    """Return the filters as an operator wrote them. Raises ConfigurationError for what can not match anything."""
    reasons = sorted(reason.value for reason in DEAD_LETTER_REASONS)
    if reason is not None and reason not in reasons:
        raise ConfigurationError(f"--reason {reason}: no dead letter has that reason; choose one of {', '.join(reasons)}.")
    if stage is not None and stage not in STAGES:
        raise ConfigurationError(f"--stage {stage}: there is no such stage; choose one of {', '.join(STAGES)}.")
    began, ended = _moment("--since", since), _moment("--until", until)
    if began is not None and ended is not None and began >= ended:
        raise ConfigurationError(f"--since {since} is not before --until {until}: nothing can lie between them.")
    return Filters(reason, stage, key, began, ended, None if at is None else Place.parse(at, topic_prefix))


def _moment(option: str, text: str | None) -> float | None:
    """Return Unix seconds of a time as RFC 3339 with an offset, or as Unix seconds; a date is its midnight in UTC."""
    if text is None:
        return None
    if text.isascii() and text.isdigit() and len(text) <= 12:
        return float(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is not None and moment.tzinfo is None and len(text) == len("2026-03-01"):
        moment = moment.replace(tzinfo=UTC)
    if moment is None or moment.tzinfo is None:
        raise ConfigurationError(f"{option} {text} is no time: write it like 2026-03-01T12:00:00+00:00, as a date, or as Unix seconds.")
    return moment.timestamp()
