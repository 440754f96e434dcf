"""Loops' HTTP interface, as far as tierstream needs it. Every answer is a value; nothing is retried here.

Between us and Loops stand proxies, firewalls and wrong addresses, which answer with any status: only Loops' own JSON accepts or
refuses an event.

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
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import orjson

from schemas.loops import LoopsPayload
from streams.errors import LoopsKeyRejected, LoopsUnavailable
from streams.logging import mask_text

MAX_RETRY_AFTER_SECONDS = 300.0
"""The longest Retry-After that is believed."""

_MAX_MESSAGE_CHARACTERS = 300
_MAX_MEDIA_TYPE_CHARACTERS = 50
_REFUSING = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY})
"""With these Loops refuses the event itself. Its other answers are about the account, the key or the address."""

_DENYING = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
_RETRIED = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY})
_NUMBER = re.compile(r"\d+(\.\d+)?")


@dataclass(frozen=True, slots=True)
class Accepted:
    """2xx with ``success: true``: Loops has the event (which is not yet delivered), or accepts the key."""


@dataclass(frozen=True, slots=True)
class AlreadyAccepted:
    """Loops' own 409: the Idempotency-Key was used within 24 hours, so an earlier call of ours was accepted."""


@dataclass(frozen=True, slots=True)
class RateLimited:
    """429. ``retry_after`` is in seconds, or None when Loops named none."""

    retry_after: float | None


@dataclass(frozen=True, slots=True)
class Refused:
    """Loops' own 400 or 422: the same event will never be accepted. ``message`` is Loops', with addresses masked."""

    status: int
    message: str


@dataclass(frozen=True, slots=True)
class Denied:
    """401 or 403 to an event. Whether it is for the key or for this event, and whose word it is, ``check_key`` tells."""

    status: int


@dataclass(frozen=True, slots=True)
class KeyRejected:
    """Loops' own 401 or 403 to a check of the key."""

    status: int


@dataclass(frozen=True, slots=True)
class Unrecognised:
    """An answer that says nothing about the event: of the account (402), of a wrong address (404, 405, a redirection), or a page of
    something that is not Loops, whatever its status. ``detail`` says what came with the status, with addresses masked."""

    status: int
    detail: str


@dataclass(frozen=True, slots=True)
class Unavailable:
    """5xx, a time-out or a broken connection. The event may have been accepted all the same."""

    why: str


Answer = Accepted | AlreadyAccepted | RateLimited | Refused | Denied | Unrecognised | Unavailable
KeyAnswer = Accepted | KeyRejected | Unrecognised | Unavailable
_Response = tuple[int, bytes, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer, with the account's limit and what is left of it where Loops said so."""

    answer: Answer
    rate_limit: float | None = None
    rate_remaining: float | None = None

    @property
    def arrived(self) -> bool:
        """Whether it is Loops' own answer to the call."""
        return isinstance(self.answer, Accepted | AlreadyAccepted | RateLimited | Refused)


class EventSender(Protocol):
    """What the forwarder needs of Loops."""

    async def send(self, payload: LoopsPayload, idempotency_key: str) -> Reply:
        """Send one event and return what came of it. Never raises for a failed call."""

    async def check_key(self) -> None:
        """Return when Loops accepts the key. Raises LoopsKeyRejected, and LoopsUnavailable when it does not say."""


class LoopsClient:
    """Calls Loops over kept-alive connections. For one event loop; ``open`` and ``close`` it there."""

    def __init__(self, base_url: str, api_key: str, *, timeout_seconds: float = 10.0, max_connections: int = 64) -> None:
        self._base_url = base_url.rstrip("/")
        self._address = _without_secrets(self._base_url)
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
        response = await self._call("POST", "/api/v1/events/send", payload.to_json(), {"idempotency-key": idempotency_key})
        if isinstance(response, Unavailable):
            return Reply(response)
        status, body, headers = response
        return Reply(
            read_event_answer(status, body, headers),
            _number(headers.get("x-ratelimit-limit")),
            _number(headers.get("x-ratelimit-remaining")),
        )

    async def check_key(self) -> None:
        """Return when Loops accepts the key. Raises LoopsKeyRejected, and LoopsUnavailable when it does not say."""
        response = await self._call("GET", "/api/v1/api-key")
        match response if isinstance(response, Unavailable) else read_key_answer(*response):
            case Accepted():
                return
            case KeyRejected(status):
                raise key_rejected(status)
            case Unrecognised(status, detail):
                raise LoopsUnavailable(
                    f"What answers at {self._address} is not Loops (answer {status} to GET /api/v1/api-key, {detail}); "
                    "correct TIERSTREAM_LOOPS_BASE_URL (https://app.loops.so, without a path) or let the calls through; mails wait until then."
                )
            case Unavailable(why):
                raise LoopsUnavailable(
                    f"Loops at {self._address} does not say whether it accepts the key ({why}); mails wait until it does."
                )

    async def _call(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> _Response | Unavailable:
        assert self._session is not None, "open the client first"
        try:
            async with self._session.request(
                method, self._base_url + path, data=body, headers={**self._headers, **(headers or {})}, allow_redirects=False
            ) as response:
                return response.status, await response.read(), response.headers
        except TimeoutError:
            return Unavailable(f"no answer within {self._timeout_seconds:g} s")
        except (aiohttp.ClientError, OSError) as error:
            return Unavailable(f"connection failed ({type(error).__name__})")


def key_rejected(status: int) -> LoopsKeyRejected:
    """The error of a key that Loops rejects."""
    return LoopsKeyRejected(
        f"Loops rejects the API key ({status}), and no mail is sent until it accepts it; make the key valid again at Loops, or set "
        "TIERSTREAM_LOOPS_API_KEY to a valid one and start the forwarder again."
    )


def read_event_answer(status: int, body: bytes, headers: Mapping[str, str]) -> Answer:
    """Return what an answer to an event means. The status alone is anybody's: accepted or refused takes Loops' own JSON. Pure."""
    content = _json(body)
    if 200 <= status < 300 and content.get("success") is True:
        return Accepted()
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return RateLimited(retry_after_seconds(headers.get("retry-after"), datetime.now(UTC)))
    if status in _DENYING:
        return Denied(status)
    if status >= 500 or status in _RETRIED:
        return Unavailable(f"answer {status}")
    if (message := _failure(content)) is not None:
        if status in _REFUSING:
            return Refused(status, message)
        if status == HTTPStatus.CONFLICT:
            return AlreadyAccepted()
    return _unrecognised(status, content, headers)


def read_key_answer(status: int, body: bytes, headers: Mapping[str, str]) -> KeyAnswer:
    """Return what an answer to a check of the key means; 429 is no answer to it. Pure."""
    content = _json(body)
    if 200 <= status < 300 and content.get("success") is True:
        return Accepted()
    if status in _DENYING and _failure(content) is not None:
        return KeyRejected(status)
    if status >= 500 or status in _RETRIED or status == HTTPStatus.TOO_MANY_REQUESTS:
        return Unavailable(f"answer {status}")
    return _unrecognised(status, content, headers)


def _failure(content: Mapping[str, object]) -> str | None:
    """The message of a failure as Loops writes it, addresses masked; None for anything else."""
    message = content.get("message")
    if content.get("success") is not False or not isinstance(message, str) or not message:
        return None
    return mask_text(message)[:_MAX_MESSAGE_CHARACTERS]


def _unrecognised(status: int, content: Mapping[str, object], headers: Mapping[str, str]) -> Unrecognised:
    media_type = headers.get("content-type", "").partition(";")[0].strip()[:_MAX_MEDIA_TYPE_CHARACTERS]
    return Unrecognised(status, _failure(content) or f"{media_type or 'no content type'}, not of Loops")


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


def _without_secrets(url: str) -> str:
    """``url`` as a sentence may show it: without user, password and query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _number(text: str | None) -> float | None:
    return float(text) if text is not None and len(text) <= 20 and _NUMBER.fullmatch(text.strip()) else None


def _json(body: bytes) -> dict[str, object]:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}
