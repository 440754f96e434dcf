"""Producing an import: links, then tiers, some lines at a time."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final, TypeVar

from schemas.envelope import HEADERS, derived_id
from schemas.serialize import IMPORT_SCHEMA, LINK_SCHEMA, envelope, rfc3339
from schemas.team_events import IMPORTED, LINKED
from streams.errors import KafkaUnavailable
from streams.kafka.dead_letters import Headers
from streams.kafka.producer import AcknowledgedProducer, Record
from streams.operate.imports.decide import SECOND, SOURCE, STAGE, New, event_id
from streams.operate.imports.lines import Line
from streams.runtime.waiting import Backoff, Sleep
from streams.settings import Settings
from streams.topics import SUBSCRIPTION_LINKS, TEAM_EVENTS

CHUNK_LINES: Final = 2_000
"""What is acknowledged at once: few enough to arrive within ``ACK_SECONDS`` on a busy broker, many enough to cost little waiting."""

ACK_SECONDS: Final = 30.0
LINGER_MS: Final = 5.0
TRIES: Final = 8
"""Of one chunk: with the back-off about half a minute, longer than a broker's restart takes."""

_BACKOFF: Final = Backoff(first_seconds=0.5, cap_seconds=10.0)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_T = TypeVar("_T")


def reason_headers(because: str, by: str) -> Headers:
    """Return the headers of an import's records. The reason is none of the event's content: the same import for another one is the same."""
    return [*HEADERS, ("because", because.encode()), ("by", by.encode())]


def records_of(settings: Settings, line: Line, new: New, headers: Headers) -> tuple[Record | None, Record]:
    """Return the link of a line's subscription, if it is to be written, and the import of its tier. Pure."""
    at = _text(new.at)
    link = None
    if new.link and line.subscription_id is not None:
        link_id = derived_id(STAGE, SOURCE, f"{line.subscription_id}\x1f{new.at}", line.team_id, LINKED)
        data = {"subscription_id": line.subscription_id, "team_id": line.team_id}
        value = envelope(link_id, SOURCE, LINKED, line.team_id, at, None, link_id, LINK_SCHEMA, data)
        link = Record(SUBSCRIPTION_LINKS.full_name(settings), value, line.subscription_id.encode(), headers)
    import_id = event_id(line, new.at)
    given = {"tier": line.tier, "plan_id": line.plan_id, "subscription_id": line.subscription_id, "email": line.email}
    data = {name: value for name, value in given.items() if value is not None}
    value = envelope(import_id, SOURCE, IMPORTED, line.team_id, at, None, import_id, IMPORT_SCHEMA, data)
    return link, Record(TEAM_EVENTS.full_name(settings), value, line.team_id.encode(), headers)


async def publish(
    settings: Settings,
    lines: Iterable[tuple[Line, New]],
    headers: Headers,
    on_done: Callable[[int], None] = lambda done: None,
    sleep: Sleep = asyncio.sleep,
) -> None:
    """Produce ``lines``; a link is acknowledged before its tier is sent. ``on_done`` gets the number of lines that Kafka has.

    Raises KafkaUnavailable, saying how far it came, when Kafka acknowledges nothing for a while. What was sent may be sent again.
    """
    done = 0
    async with AcknowledgedProducer(settings, linger_ms=LINGER_MS) as producer:
        for chunk in _chunks(lines, CHUNK_LINES):
            records = [records_of(settings, line, new, headers) for line, new in chunk]
            try:
                await _send(producer, [link for link, _ in records if link is not None], sleep)
                await _send(producer, [tier for _, tier in records], sleep)
            except KafkaUnavailable as error:
                said = str(error).rstrip(".")
                raise KafkaUnavailable(f"{said}; {done:,} lines are imported, and the same command imports the rest.") from error
            done += len(chunk)
            on_done(done)


async def _send(producer: AcknowledgedProducer, records: Sequence[Record], sleep: Sleep) -> None:
    for retry in range(TRIES):
        try:
            await producer.send_many(records, timeout_seconds=ACK_SECONDS)
        except KafkaUnavailable:
            if retry + 1 == TRIES:
                raise
            await sleep(_BACKOFF.delay(retry))
        else:
            return


def _chunks(found: Iterable[_T], size: int) -> Iterator[list[_T]]:
    rest = iter(found)
    while chunk := list(islice(rest, size)):
        yield chunk


def _text(at: int) -> str:
    """Return Unix microseconds as RFC 3339: with whole seconds where they are whole, which is what classify reads fastest."""
    seconds, micros = divmod(at, SECOND)
    return rfc3339(seconds) if not micros else (_EPOCH + timedelta(microseconds=at)).isoformat()
