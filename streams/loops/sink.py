"""A fake Loops that enforces the documented rules, for the embedded stack and the tests: ``tierstream loops-sink``.

Rules: a bearer key; the request's shape and types; 500 characters for each key and value; 409 for an Idempotency-Key that was
accepted within 24 hours; so many requests in any second, with ``x-ratelimit-*`` headers and 429.
Source: Loops documentation, "Send event", "API key", "API rate limiting".

Beside them: ``GET /_sent`` (``?offset=N`` leaves out the first N) and ``GET /_stats`` show what happened, ``POST /_faults`` breaks
things, ``POST /_reports`` has it report on mails to a gateway, ``POST /_reset`` starts afresh. Everything accepted is kept in memory, about half a kilobyte each.
"""

import asyncio
import math
import time
from bisect import bisect_right, insort
from collections import Counter, deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from streams.errors import ConfigurationError
from streams.gateway.signatures import standard_webhooks_key
from streams.loops.reports import Reporter, Reports

KEY_LIFETIME_SECONDS = 86_400.0
MAX_KEY_CHARACTERS = 100
MAX_CHARACTERS = 500
HANG_SECONDS = 60.0
"""How long an accepted request is left without its answer, unless the client goes away sooner."""

_ENVELOPE = frozenset({"email", "userId", "eventName", "eventProperties", "mailingLists"})
_LONG = "Some body key or value is longer than allowable."


class Faults(BaseModel):
    """What is broken. A field that a request to ``/_faults`` does not hold stays as it is."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    rate: float | None = Field(default=None, gt=0, description="Requests a second; null is no limit.")
    others: float = Field(default=0.0, ge=0, le=10_000, description="Calls a second, evenly, that others make on the same account.")
    fail_next: int = Field(default=0, ge=0, description="That many events are answered with ``status`` and not accepted.")
    status: int = Field(default=500, ge=400, le=599)
    accept_then_timeout: int = Field(default=0, ge=0, description="That many events are accepted and never answered.")
    delay_seconds: float = Field(default=0.0, ge=0, description="Every answer is that late.")
    down: bool = Field(default=False, description="Every call gets 503 and a closed connection.")
    revoked: bool = Field(default=False, description="The API key is rejected, as after a rotation at Loops.")
    block: str | None = Field(default=None, description="Events that hold this text get ``block_status`` and a firewall's page.")
    block_status: int = Field(default=403, ge=200, le=599)
    page: int | None = Field(default=None, ge=200, le=599, description="Every call gets this status and a page that is not Loops'.")


class _Refusal(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class LoopsSink:
    """The state behind the routes. ``clock`` gives Unix seconds; a test may set it forward to age the keys."""

    def __init__(self, rate_per_second: float | None, api_key: str | None, clock: Callable[[], float]) -> None:
        self._rate = rate_per_second
        self.valid_key = api_key
        """The key that it takes, None for any."""
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Forget what was accepted, the keys, the counts, the faults and whom to report to."""
        self.reporter = Reporter(self._clock)
        self.faults = Faults(rate=self._rate)
        self.sent: list[dict[str, Any]] = []
        self._accepted_at: dict[str, float] = {}
        self._window: list[float] = []
        self._others_at: float | None = None
        self._arrivals: deque[float] = deque()
        self._peak = 0
        self._statuses: Counter[int] = Counter()

    def stats(self) -> dict[str, Any]:
        """Accepted events, answers by status, and the most calls in any second, those refused for the limit included."""
        return {
            "accepted": len(self.sent),
            "statuses": {str(status): count for status, count in self._statuses.items()},
            "peak_per_second": self._peak,
        }

    async def send_event(self, request: Request) -> Response:
        """``POST /api/v1/events/send``."""
        body = await request.body()
        if self.faults.block is not None and self.faults.block.encode() in body:
            return self._page(self.faults.block_status, "Request blocked")
        return await self._limited(request, lambda: self._accept(request, body))

    async def api_key(self, request: Request) -> Response:
        """``GET /api/v1/api-key``."""
        return await self._limited(request, lambda: ({"success": True, "teamName": "Fake Loops"}, False))

    async def _limited(self, request: Request, act: Callable[[], tuple[dict[str, Any], bool]]) -> Response:
        now = self._clock()
        self._count_arrival(now)
        if self.faults.page is not None:
            return self._page(self.faults.page, "We will be right back")
        if self.faults.down:
            return self._answer(503, {"success": False, "message": "Service unavailable"}, {"connection": "close"})
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if self.faults.revoked or scheme.lower() != "bearer" or not key.strip() or self.valid_key not in (None, key.strip()):
            return self._answer(401, {"success": False, "message": "Invalid API key"})
        headers, over = self._take_turn(now)
        if over:
            return self._answer(429, {"success": False, "message": "Rate limit exceeded"}, headers)
        try:
            content, hang = act()
        except _Refusal as refusal:
            return self._answer(refusal.status, {"success": False, "message": str(refusal)}, headers)
        if hang:
            await _until_gone(request)
        if self.faults.delay_seconds:
            await asyncio.sleep(self.faults.delay_seconds)
        return self._answer(200, content, headers)

    def _accept(self, request: Request, body: bytes) -> tuple[dict[str, Any], bool]:
        if self.faults.fail_next:
            self.faults.fail_next -= 1
            raise _Refusal(self.faults.status, "A fault, as ordered")
        event = _checked(body)
        key = request.headers.get("idempotency-key")
        now = self._clock()
        if key is not None:
            if len(key) > MAX_KEY_CHARACTERS:
                raise _Refusal(400, f"Idempotency-Key is longer than {MAX_KEY_CHARACTERS} characters.")
            if now - self._accepted_at.get(key, -KEY_LIFETIME_SECONDS) < KEY_LIFETIME_SECONDS:
                raise _Refusal(409, "Idempotency key has been used in the last 24 hours.")
            self._accepted_at[key] = now
        mail = {
            "idempotency_key": key,
            "email": event.get("email"),
            "eventName": event["eventName"],
            "eventProperties": event.get("eventProperties", {}),
            "received_at": datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds"),
        }
        others = {name: value for name, value in event.items() if name not in ("email", "eventName", "eventProperties")}
        self.sent.append({**mail, "others": others} if others else mail)
        self.reporter.report(event["eventName"], event.get("email"), len(self.sent))
        if self.faults.accept_then_timeout:
            self.faults.accept_then_timeout -= 1
            return {"success": True}, True
        return {"success": True}, False

    def _take_turn(self, now: float) -> tuple[dict[str, str], bool]:
        rate = self.faults.rate
        if rate is None:
            return {}, False
        # Under one a second, it is one in a longer time.
        limit, seconds = max(1, int(rate)), max(1.0, 1.0 / rate)
        self._let_others_call(now, limit, seconds)
        del self._window[: bisect_right(self._window, now - seconds)]
        over = len(self._window) >= limit
        if not over:
            self._window.append(now)
        return {"x-ratelimit-limit": str(limit), "x-ratelimit-remaining": str(max(0, limit - len(self._window)))}, over

    def _let_others_call(self, now: float, limit: int, seconds: float) -> None:
        """Count the calls that others have made since the last of ours, as far as the limit lets them."""
        if not self.faults.others:
            self._others_at = None
            return
        at, every = self._others_at or now, 1.0 / self.faults.others
        at += every * max(0, math.ceil((now - seconds - at) / every))  # those before the window count no more
        while at <= now:
            used = bisect_right(self._window, at) - bisect_right(self._window, at - seconds)
            if used < limit:
                insort(self._window, at)
            at += every
        self._others_at = at

    def _count_arrival(self, now: float) -> None:
        self._arrivals.append(now)
        while self._arrivals[0] <= now - 1.0:
            self._arrivals.popleft()
        self._peak = max(self._peak, len(self._arrivals))

    def _answer(self, status: int, content: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
        self._statuses[status] += 1
        return _json(content, status, headers)

    def _page(self, status: int, title: str) -> Response:
        self._statuses[status] += 1
        return Response(f"<!doctype html><title>{title}</title>", status, media_type="text/html")

    async def show_sent(self, request: Request) -> Response:
        """``GET /_sent``: a list, in the order of acceptance."""
        offset = request.query_params.get("offset", "0")
        if not offset.isdecimal():
            return _json({"message": "offset is a number of mails"}, 400)
        return _json(self.sent[int(offset) :])

    async def show_stats(self, _request: Request) -> Response:
        """``GET /_stats``."""
        return _json(self.stats())

    async def set_faults(self, request: Request) -> Response:
        """``POST /_faults``; answers with the faults that hold now."""
        try:
            wanted = Faults.model_validate_json(await request.body() or b"{}")
        except ValidationError as error:
            return _json({"message": str(error)}, 400)
        self.faults = self.faults.model_copy(update=wanted.model_dump(exclude_unset=True))
        return _json(self.faults.model_dump())

    async def set_reports(self, request: Request) -> Response:
        """``POST /_reports``: report on every mail from now on; an empty body ends that."""
        body = await request.body()
        try:
            wanted = Reports.model_validate_json(body) if body else None
            if wanted is not None:
                standard_webhooks_key(wanted.secret)
        except ValidationError as error:
            return _json({"message": str(error)}, 400)
        except ConfigurationError:
            return _json({"message": "secret is no signing secret: whsec_ and base64"}, 400)
        self.reporter.wanted = wanted
        return _json({"success": True})

    async def start_afresh(self, _request: Request) -> Response:
        """``POST /_reset``."""
        self.reset()
        return _json({"success": True})


def create_sink(rate_per_second: float | None, api_key: str | None, *, clock: Callable[[], float] = time.time) -> Starlette:
    """Return the fake as an ASGI application, ready to serve.

    ``rate_per_second`` None is no limit; ``api_key`` None takes any key that is not empty. ``app.state.sink`` is its ``LoopsSink``.
    """
    sink = LoopsSink(rate_per_second, api_key, clock)
    app = Starlette(
        routes=[
            Route("/api/v1/events/send", sink.send_event, methods=["POST"]),
            Route("/api/v1/api-key", sink.api_key, methods=["GET"]),
            Route("/_sent", sink.show_sent, methods=["GET"]),
            Route("/_stats", sink.show_stats, methods=["GET"]),
            Route("/_faults", sink.set_faults, methods=["POST"]),
            Route("/_reports", sink.set_reports, methods=["POST"]),
            Route("/_reset", sink.start_afresh, methods=["POST"]),
        ]
    )
    app.state.sink = sink
    return app


def _checked(body: bytes) -> dict[str, Any]:
    """Return the event that ``body`` holds. Raises _Refusal as Loops would."""
    try:
        event = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise _Refusal(400, "Invalid JSON.") from None
    if not isinstance(event, dict):
        raise _Refusal(400, "The body must be an object.")
    if not isinstance(event.get("eventName"), str) or not event["eventName"]:
        raise _Refusal(400, "eventName is required.")
    for name in ("email", "userId"):
        if not isinstance(event.get(name), str | None):
            raise _Refusal(400, f"{name} must be a string.")
    if not event.get("email") and not event.get("userId"):
        raise _Refusal(400, "An email or userId is required.")
    email = event.get("email")
    if email and (email.count("@") != 1 or email.startswith("@") or email.endswith("@") or any(character.isspace() for character in email)):
        raise _Refusal(400, "email is invalid.")
    properties, lists = event.get("eventProperties", {}), event.get("mailingLists", {})
    if not isinstance(properties, dict) or not isinstance(lists, dict):
        raise _Refusal(400, "eventProperties and mailingLists must be objects.")
    if not all(isinstance(value, bool) for value in lists.values()):
        raise _Refusal(400, "mailingLists must hold booleans.")
    contact = {name: value for name, value in event.items() if name not in _ENVELOPE}
    if not all(isinstance(value, str | int | float) for value in properties.values()):
        raise _Refusal(400, "An event property must be a string, a number or a boolean.")
    if not all(isinstance(value, str | int | float | None) for value in contact.values()):
        raise _Refusal(400, "A contact property must be a string, a number, a boolean or null.")
    for name, value in [*event.items(), *properties.items(), *lists.items()]:
        if _length(name) > MAX_CHARACTERS or (not isinstance(value, dict) and _length(value) > MAX_CHARACTERS):
            raise _Refusal(400, _LONG)
    return event


def _length(value: object) -> int:
    """Characters of the JSON text, quotes included, as JavaScript counts them."""
    return len(orjson.dumps(value).decode().encode("utf-16-le")) // 2


def _json(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, "application/json")


async def _until_gone(request: Request) -> None:
    try:
        async with asyncio.timeout(HANG_SECONDS):
            while (await request.receive())["type"] != "http.disconnect":
                pass
    except TimeoutError:
        return
