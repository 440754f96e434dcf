"""Razorpay's API: the subscriptions of an account, page by page.

Sources: Razorpay documentation, "Fetch all Subscriptions" (``count`` up to 100, ``skip``, ``from``, ``to``; basic auth) and "API rate limits" (429,
exponential back-off advised). It lists webhooks to partners alone (``GET /v2/accounts/:account_id/webhooks``), not to an account itself.
"""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any, Final, Self

import aiohttp
import orjson

from streams.errors import RazorpayRefused, RazorpayUnavailable
from streams.logging import mask_text
from streams.runtime.waiting import Backoff, Sleep

PAGE_ITEMS: Final = 100
"""The most that Razorpay gives in one page."""

MAX_PAGE_BYTES: Final = 33_554_432
"""A subscription has about 1 kB; of what is far larger it is not sure that it is Razorpay's."""

TRIES: Final = 6
"""Of one page: with the back-off up to half a minute. A reading of a million subscriptions is 10,000 pages."""

_BACKOFF: Final = Backoff(first_seconds=0.5, cap_seconds=15.0)
_MAX_RETRY_AFTER_SECONDS: Final = 60.0
_MAX_DESCRIPTION_CHARACTERS: Final = 200
_MAX_SKIP: Final = 10_000_000

JsonObject = dict[str, Any]


class _Passing(Exception):
    """A failure that may pass: 429, 5xx, a time-out, half an answer. ``retry_after`` is in seconds."""

    def __init__(self, why: str, retry_after: float | None = None) -> None:
        super().__init__(why)
        self.retry_after = retry_after


class RazorpayClient:
    """Calls Razorpay with an account's API key. For one event loop; use it as an async context manager."""

    def __init__(self, base_url: str, key_id: str, key_secret: str, *, timeout_seconds: float = 20.0, sleep: Sleep = asyncio.sleep) -> None:
        self._base_url = base_url
        self._headers = {"authorization": "Basic " + b64encode(f"{key_id}:{key_secret}".encode()).decode()}
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._sleep = sleep
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(headers=self._headers, timeout=self._timeout, cookie_jar=aiohttp.DummyCookieJar())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def subscriptions(self, created_up_to: int) -> AsyncIterator[JsonObject]:
        """Yield each subscription that was created up to a time (Unix seconds), once. With a bound, no new one shifts the pages.

        Raises RazorpayRefused when the key or the address is wrong, RazorpayUnavailable when a page does not come after several tries.
        """
        seen: set[str] = set()
        for skip in range(0, _MAX_SKIP, PAGE_ITEMS):
            items = await self._page({"count": PAGE_ITEMS, "skip": skip, "to": created_up_to})
            if not items:
                return
            new = [item for item in items if item["id"] not in seen]
            if not new:
                raise RazorpayRefused(f"{self._base_url} gives the same page again and again, so it is not Razorpay's API; {_CHECK_URL}.")
            seen.update(item["id"] for item in new)
            for item in new:
                yield item

    async def _page(self, query: dict[str, int]) -> list[JsonObject]:
        for retry in range(TRIES):
            try:
                return await self._get("/v1/subscriptions", query)
            except _Passing as failure:
                why, wait = str(failure), failure.retry_after
            if retry + 1 < TRIES:
                await self._sleep(_BACKOFF.delay(retry) if wait is None else wait)
        raise RazorpayUnavailable(f"Razorpay at {self._base_url} does not give its subscriptions ({why}); run the command again later.")

    async def _get(self, path: str, query: dict[str, int]) -> list[JsonObject]:
        assert self._session is not None, "enter the client first"
        try:
            async with self._session.get(self._base_url + path, params=query, allow_redirects=False) as response:
                body = await response.content.read(MAX_PAGE_BYTES + 1)
                while len(body) <= MAX_PAGE_BYTES and (more := await response.content.read(MAX_PAGE_BYTES)):
                    body += more
                status, retry_after = response.status, response.headers.get("retry-after", "")
        except TimeoutError:
            raise _Passing("no answer in time") from None
        except (aiohttp.InvalidURL, UnicodeError):
            raise RazorpayRefused(f"{self._base_url} can not be called; {_CHECK_URL}.") from None
        except aiohttp.ClientPayloadError:
            raise _Passing("its answer was cut off") from None
        except aiohttp.ClientError as error:
            raise _Passing(f"connection failed, {type(error).__name__}") from None
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            raise _Passing("429, too many requests", min(float(retry_after), _MAX_RETRY_AFTER_SECONDS) if retry_after.isdigit() else None)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise _Passing(f"answer {status}")
        return self._items(status, body)

    def _items(self, status: int, body: bytes) -> list[JsonObject]:
        try:
            found = orjson.loads(body)
        except orjson.JSONDecodeError:
            found = None
        if not isinstance(found, dict):
            raise RazorpayRefused(f"{self._base_url} answers {status} and not as Razorpay's API does; {_CHECK_URL}.")
        if status != HTTPStatus.OK:
            error = found.get("error")
            said = error.get("description") if isinstance(error, dict) else None
            description = f": {mask_text(said)[:_MAX_DESCRIPTION_CHARACTERS].rstrip('.')}" if isinstance(said, str) else ""
            remedy = _CHECK_KEY if status in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN) else _CHECK_URL
            raise RazorpayRefused(f"Razorpay at {self._base_url} refuses the request ({status}{description}); {remedy}.")
        items = found.get("items")
        if found.get("entity") != "collection" or not isinstance(items, list):
            raise RazorpayRefused(f"{self._base_url} answers with something else than a list of subscriptions; {_CHECK_URL}.")
        if found.get("count") not in (None, len(items)) or not all(
            isinstance(item, dict) and isinstance(item.get("id"), str) for item in items
        ):
            raise _Passing("a page that is not whole")
        return items


_CHECK_URL: Final = "check TIERSTREAM_RAZORPAY_API_URL"
_CHECK_KEY: Final = "check TIERSTREAM_RAZORPAY_KEY_ID and TIERSTREAM_RAZORPAY_KEY_SECRET"
