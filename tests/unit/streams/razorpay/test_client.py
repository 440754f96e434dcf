"""The client of Razorpay's API on a fake of it: paging, retries, and one sentence for each way in which it fails."""

from collections.abc import AsyncIterator

import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response

from streams.errors import RazorpayRefused, RazorpayUnavailable, TierstreamError
from streams.razorpay.client import PAGE_ITEMS, TRIES, RazorpayClient
from tests.razorpay_api import KEY_ID, KEY_SECRET, T0, RazorpayApi, error, served_razorpay, subscription


@pytest.fixture
async def api() -> AsyncIterator[RazorpayApi]:
    async with served_razorpay() as served:
        yield served


class Reading:
    """Reads all subscriptions, and notes the waits instead of waiting."""

    def __init__(self, url: str, secret: str = KEY_SECRET, timeout_seconds: float = 5.0) -> None:
        self.waits: list[float] = []
        self.client = RazorpayClient(url, KEY_ID, secret, timeout_seconds=timeout_seconds, sleep=self._note)

    async def _note(self, seconds: float) -> None:
        self.waits.append(seconds)

    async def ids(self, up_to: int = T0) -> list[str]:
        async with self.client as client:
            return [each["id"] async for each in client.subscriptions(up_to)]


def page(*items: object, **fields: object) -> Response:
    return JSONResponse({"entity": "collection", "count": len(items), "items": list(items), **fields})


async def test_every_subscription_is_read_once_page_by_page_up_to_a_time(api: RazorpayApi) -> None:
    api.subscriptions = [subscription(f"sub_{n}") for n in range(2 * PAGE_ITEMS + 1)]
    api.subscriptions.insert(0, subscription("sub_new", created_at=T0 + 1))

    assert await Reading(api.url).ids() == [f"sub_{n}" for n in range(2 * PAGE_ITEMS + 1)]
    assert [query["skip"] for query in api.queries] == ["0", "100", "200", "300"]
    assert {query["count"] for query in api.queries} == {"100"}


async def test_429_500_and_half_a_page_are_asked_for_again(api: RazorpayApi) -> None:
    api.subscriptions = [subscription("sub_1")]
    api.faults = [
        Response(status_code=429, headers={"retry-after": "7"}),
        Response(status_code=429),
        PlainTextResponse("oops", 500),
        page(subscription("sub_1"), count=2),
    ]
    reading = Reading(api.url)

    assert await reading.ids() == ["sub_1"]
    assert (len(reading.waits), reading.waits[0]) == (4, 7.0)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (Response(status_code=429), r"\(429, too many requests\); run the command again later\.$"),
        (Response(status_code=503), r"\(answer 503\); run"),
        (page(subscription("sub_1"), count=2), r"\(a page that is not whole\); run"),
        (page({"no": "id"}), r"\(a page that is not whole\); run"),
        (Response(b'{"entity":', headers={"content-length": "100"}), r"\((its answer was cut off|connection failed, \w+)\); run"),
    ],
)
async def test_what_does_not_pass_is_unavailable_after_some_tries(api: RazorpayApi, fault: Response, sentence: str) -> None:
    api.faults = [fault] * TRIES

    with pytest.raises(RazorpayUnavailable, match=sentence):
        await Reading(api.url).ids()
    assert len(api.queries) == TRIES


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (error(400, "The api key provided is invalid"), r"\(400: The api key provided is invalid\); check TIERSTREAM_RAZORPAY_KEY_ID and"),
        (PlainTextResponse("<html>", 200), "answers 200 and not as Razorpay's API does; check TIERSTREAM_RAZORPAY_API_URL"),
        (PlainTextResponse("", 301, {"location": "https://example.com"}), "answers 301 and not as Razorpay's"),
        (JSONResponse({"items": {}}), "something else than a list of subscriptions"),
        (error(404, "The requested URL was not found"), r"\(404: The requested URL was not found\); check TIERSTREAM_RAZORPAY_API_URL"),
    ],
)
async def test_what_stays_wrong_is_refused_at_once(api: RazorpayApi, fault: Response, sentence: str) -> None:
    api.faults = [fault]

    with pytest.raises(RazorpayRefused, match=sentence):
        await Reading(api.url).ids()
    assert len(api.queries) == 1


async def test_wrong_key_is_one_sentence_without_the_key(api: RazorpayApi) -> None:
    with pytest.raises(RazorpayRefused, match=r"\(401: Authentication failed\); check TIERSTREAM_RAZORPAY_KEY_ID") as raised:
        await Reading(api.url, secret="wr0ngS3cret").ids()

    assert "wr0ngS3cret" not in str(raised.value)


async def test_pages_that_never_end_are_not_read_for_ever(api: RazorpayApi) -> None:
    api.faults = [page(subscription("sub_1")) for _ in range(3)]

    with pytest.raises(RazorpayRefused, match="the same page again and again"):
        await Reading(api.url).ids()


async def test_nobody_there_is_unavailable() -> None:
    with pytest.raises(TierstreamError, match="connection failed"):
        await Reading("http://127.0.0.1:1").ids()
