"""Loops' HTTP interface, as far as tierstream needs it. Every answer is a value; nothing is retried here.

Source: Loops documentation, "Send event" and "API key".
aiohttp, because it is a dependency of Faust already and makes 8,300 requests a second on one core where httpx makes 460.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Protocol

import aiohttp
import orjson

from schemas.loops import LoopsPayload
from streams.errors import LoopsKeyRejected, LoopsUnavailable
from streams.logging import mask_text

MAX_RETRY_AFTER_SECONDS = 300.0
"""The longest Retry-After that is believed."""

_MAX_MESSAGE_CHARACTERS = 300
_RETRIED = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY})
_NUMBER = re.compile(r"\d+(\.\d+)?")


@dataclass(frozen=True, slots=True)
class Accepted:
    """Loops has the event. It was accepted, which is not yet delivered."""


@dataclass(frozen=True, slots=True)
class AlreadyAccepted:
    """409: the Idempotency-Key was used within 24 hours, so an earlier call of ours was accepted."""


@dataclass(frozen=True, slots=True)
class RateLimited:
    """429. ``retry_after`` is in seconds, or None when Loops named none."""

    retry_after: float | None


@dataclass(frozen=True, slots=True)
class Refused:
    """Another 4xx: the same request will never be accepted. ``message`` is Loops' own, with addresses masked."""

    status: int
    message: str


@dataclass(frozen=True, slots=True)
class KeyRejected:
    """401 or 403."""

    status: int


@dataclass(frozen=True, slots=True)
class Unavailable:
    """5xx, a redirection, a time-out or a broken connection. The event may have been accepted all the same."""

    why: str


Answer = Accepted | AlreadyAccepted | RateLimited | Refused | KeyRejected | Unavailable


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer, with the account's limit and what is left of it where Loops said so."""

    answer: Answer
    rate_limit: float | None = None
    rate_remaining: float | None = None

    @property
    def arrived(self) -> bool:
        """Whether Loops answered at all."""
        return not isinstance(self.answer, Unavailable)


class EventSender(Protocol):
    """What the forwarder needs of Loops."""

    async def send(self, payload: LoopsPayload, idempotency_key: str) -> Reply:
        """Send one event and return what came of it. Never raises for a failed call."""


class LoopsClient:
    """Calls Loops over kept-alive connections. For one event loop; ``open`` and ``close`` it there."""

    def __init__(self, base_url: str, api_key: str, *, timeout_seconds: float = 10.0, max_connections: int = 64) -> None:
        self._base_url = base_url.rstrip("/")
        self._headers = {"authorization": f"Bearer {api_key}", "content-type": "application/json"}
        self._timeout_seconds = timeout_seconds
        self._max_connections = max_connections
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Make the session. Connects to nothing yet."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._max_connections),
                timeout=aiohttp.ClientTimeout(total=self._timeout_seconds),
                cookie_jar=aiohttp.DummyCookieJar(),
            )

    async def close(self) -> None:
        """Close every connection."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def send(self, payload: LoopsPayload, idempotency_key: str) -> Reply:
        """Send one event with its key (at most 100 characters). Never raises for a failed call."""
        return await self._call("POST", "/api/v1/events/send", payload.to_json(), {"idempotency-key": idempotency_key})

    async def check_key(self) -> None:
        """Return when Loops accepts the key. Raises LoopsKeyRejected, LoopsUnavailable."""
        reply = await self._call("GET", "/api/v1/api-key")
        match reply.answer:
            case Accepted():
                return
            case KeyRejected(status):
                raise key_rejected(status)
            case answer:
                raise LoopsUnavailable(
                    f"Loops at {self._base_url} does not say whether it accepts the key ({answer}); correct TIERSTREAM_LOOPS_BASE_URL, or try later."
                )

    async def _call(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Reply:
        assert self._session is not None, "open the client first"
        try:
            async with self._session.request(
                method, self._base_url + path, data=body, headers={**self._headers, **(headers or {})}, allow_redirects=False
            ) as response:
                text = await response.read()
                return Reply(
                    _answer(response.status, text, response.headers),
                    _number(response.headers.get("x-ratelimit-limit")),
                    _number(response.headers.get("x-ratelimit-remaining")),
                )
        except TimeoutError:
            return Reply(Unavailable(f"no answer within {self._timeout_seconds:g} s"))
        except (aiohttp.ClientError, OSError) as error:
            return Reply(Unavailable(f"connection failed ({type(error).__name__})"))


def key_rejected(status: int) -> LoopsKeyRejected:
    """The error that stops a forwarder whose key Loops rejects."""
    return LoopsKeyRejected(
        f"Loops rejects the API key ({status}); set TIERSTREAM_LOOPS_API_KEY to a valid one and start the forwarder again."
    )


def _answer(status: int, body: bytes, headers: Mapping[str, str]) -> Answer:
    if 200 <= status < 300:
        return Refused(status, _message(body)) if _json(body).get("success") is False else Accepted()
    match status:
        case HTTPStatus.CONFLICT:
            return AlreadyAccepted()
        case HTTPStatus.TOO_MANY_REQUESTS:
            return RateLimited(retry_after_seconds(headers.get("retry-after"), datetime.now(UTC)))
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
            return KeyRejected(status)
    if 400 <= status < 500 and status not in _RETRIED:
        return Refused(status, _message(body))
    # A redirection means a wrong base URL: the mails must wait for its correction, not go to the dead letters.
    return Unavailable(f"answer {status}")


def retry_after_seconds(header: str | None, now: datetime) -> float | None:
    """Read a Retry-After header, seconds or an HTTP date, as seconds from ``now``; None when it is absent or unreadable."""
    if header is None:
        return None
    seconds = _number(header)
    if seconds is None:
        try:
            moment = parsedate_to_datetime(header)
        except ValueError:
            return None
        seconds = (moment.replace(tzinfo=moment.tzinfo or UTC) - now).total_seconds()
    return min(max(0.0, seconds), MAX_RETRY_AFTER_SECONDS)


def _number(text: str | None) -> float | None:
    return float(text) if text is not None and len(text) <= 20 and _NUMBER.fullmatch(text.strip()) else None


def _json(body: bytes) -> dict[str, object]:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _message(body: bytes) -> str:
    said = _json(body).get("message")
    text = said if isinstance(said, str) and said else body.decode("utf-8", "replace") or "no message"
    return mask_text(text)[:_MAX_MESSAGE_CHARACTERS]
