"""The client of Loops: every answer is a value."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from schemas.kinds import Kind
from schemas.loops import payload
from streams.errors import LoopsKeyRejected, LoopsUnavailable
from streams.loops.client import (
    Accepted,
    AlreadyAccepted,
    Answer,
    Denied,
    KeyAnswer,
    KeyRejected,
    LoopsClient,
    RateLimited,
    Refused,
    Unavailable,
    Unrecognised,
    read_event_answer,
    read_key_answer,
    retry_after_seconds,
)
from tests.sinks import ServedSink, served, served_sink

PAYLOAD = payload(Kind.UPGRADED, "asha@example.com", {"to": "pro"})


@pytest.fixture
async def sink() -> AsyncIterator[ServedSink]:
    async with served_sink(rate_per_second=10, api_key="key") as sink:
        yield sink


@pytest.fixture
async def client(sink: ServedSink) -> AsyncIterator[LoopsClient]:
    client = sink.client(timeout_seconds=0.3)
    await client.open()
    yield client
    await client.close()


async def test_client_event_is_accepted_under_its_key(sink: ServedSink, client: LoopsClient) -> None:
    reply = await client.send(PAYLOAD, "audit-1")

    assert (reply.answer, reply.rate_limit, reply.rate_remaining) == (Accepted(), 10.0, 9.0)
    assert [(mail["idempotency_key"], mail["eventName"]) for mail in sink.sink.sent] == [("audit-1", "subscription.upgraded")]


async def test_client_key_used_before_is_already_accepted(client: LoopsClient) -> None:
    await client.send(PAYLOAD, "audit-1")

    assert (await client.send(PAYLOAD, "audit-1")).answer == AlreadyAccepted()


async def test_client_over_the_limit_is_rate_limited(sink: ServedSink, client: LoopsClient) -> None:
    sink.break_it(rate=1)
    await client.send(PAYLOAD, "audit-1")

    assert (await client.send(PAYLOAD, "audit-2")).answer == RateLimited(None)


async def test_client_wrong_key_is_rejected(sink: ServedSink) -> None:
    client = sink.client(api_key="wrong")
    await client.open()

    assert (await client.send(PAYLOAD, "audit-1")).answer == Denied(401)
    with pytest.raises(LoopsKeyRejected, match=r"^Loops rejects the API key \(401\), and no mail is sent .* set TIERSTREAM_LOOPS_API_KEY"):
        await client.check_key()
    await client.close()


async def test_client_check_key_returns_when_loops_accepts_it(client: LoopsClient) -> None:
    await client.check_key()


async def test_client_accepted_without_an_answer_is_unavailable_and_then_already_accepted(sink: ServedSink, client: LoopsClient) -> None:
    sink.break_it(accept_then_timeout=1)

    assert (await client.send(PAYLOAD, "audit-1")).answer == Unavailable("no answer within 0.3 s")
    assert (await client.send(PAYLOAD, "audit-1")).answer == AlreadyAccepted()
    assert sink.keys == ["audit-1"]


async def test_client_loops_down_is_unavailable_and_comes_back_by_itself(sink: ServedSink, client: LoopsClient) -> None:
    sink.break_it(down=True)
    reply = await client.send(PAYLOAD, "audit-1")
    with pytest.raises(LoopsUnavailable):
        await client.check_key()
    sink.break_it(down=False)

    assert (reply.answer, reply.arrived) == (Unavailable("answer 503"), False)
    assert (await client.send(PAYLOAD, "audit-1")).answer == Accepted()


async def test_client_nobody_there_is_unavailable() -> None:
    client = LoopsClient("http://127.0.0.1:1", "key")
    await client.open()

    assert (await client.send(PAYLOAD, "audit-1")).answer == Unavailable("connection failed (ClientConnectorError)")
    await client.close()


OWN = b'{"success":false,"message":"Contact asha@example.com not found."}'
SAID = "Contact a***@example.com not found."
PAGE = b"<!doctype html><title>We will be right back</title>"
FOREIGN = "text/html, not of Loops"


@pytest.mark.parametrize(
    ("status", "body", "answer"),
    [
        (200, b'{"success":true}', Accepted()),
        (201, b'{"success":true,"id":"x"}', Accepted()),
        (200, PAGE, Unrecognised(200, FOREIGN)),
        (200, b"", Unrecognised(200, FOREIGN)),
        (200, b'{"success":"true"}', Unrecognised(200, FOREIGN)),
        (200, b'[{"success":true}]', Unrecognised(200, FOREIGN)),
        (200, b'{"status":"ok"}', Unrecognised(200, FOREIGN)),
        (200, OWN, Unrecognised(200, SAID)),
        (204, b"", Unrecognised(204, FOREIGN)),
        (301, PAGE, Unrecognised(301, FOREIGN)),
        (400, OWN, Refused(400, SAID)),
        (422, OWN, Refused(422, SAID)),
        (400, PAGE, Unrecognised(400, FOREIGN)),
        (400, b'{"success":false}', Unrecognised(400, FOREIGN)),
        (400, b'{"success":false,"errors":[{"code":9109}],"messages":[]}', Unrecognised(400, FOREIGN)),
        (422, b'{"message":"a"}', Unrecognised(422, FOREIGN)),
        (401, OWN, Denied(401)),
        (403, OWN, Denied(403)),
        (403, PAGE, Denied(403)),
        (402, OWN, Unrecognised(402, SAID)),
        (402, PAGE, Unrecognised(402, FOREIGN)),
        (404, OWN, Unrecognised(404, SAID)),
        (404, PAGE, Unrecognised(404, FOREIGN)),
        (405, b"", Unrecognised(405, FOREIGN)),
        (407, PAGE, Unrecognised(407, FOREIGN)),
        (410, PAGE, Unrecognised(410, FOREIGN)),
        (413, PAGE, Unrecognised(413, FOREIGN)),
        (451, PAGE, Unrecognised(451, FOREIGN)),
        (409, OWN, AlreadyAccepted()),
        (409, PAGE, Unrecognised(409, FOREIGN)),
        (408, PAGE, Unavailable("answer 408")),
        (425, PAGE, Unavailable("answer 425")),
        (429, OWN, RateLimited(2.0)),
        (429, PAGE, RateLimited(2.0)),
        (500, OWN, Unavailable("answer 500")),
        (503, PAGE, Unavailable("answer 503")),
        (521, PAGE, Unavailable("answer 521")),
    ],
)
def test_event_answer_takes_loops_own_word_to_accept_or_refuse(status: int, body: bytes, answer: Answer) -> None:
    assert read_event_answer(status, body, {"content-type": "text/html; charset=utf-8", "retry-after": "2"}) == answer


@pytest.mark.parametrize(
    ("status", "body", "answer"),
    [
        (200, b'{"success":true,"teamName":"Ours"}', Accepted()),
        (200, PAGE, Unrecognised(200, FOREIGN)),
        (200, OWN, Unrecognised(200, SAID)),
        (401, b'{"success":false,"message":"Invalid API key","error":"Invalid API key"}', KeyRejected(401)),
        (403, OWN, KeyRejected(403)),
        (401, PAGE, Unrecognised(401, FOREIGN)),
        (403, PAGE, Unrecognised(403, FOREIGN)),
        (403, b'{"message":"Forbidden"}', Unrecognised(403, FOREIGN)),
        (302, b"", Unrecognised(302, FOREIGN)),
        (400, OWN, Unrecognised(400, SAID)),
        (404, PAGE, Unrecognised(404, FOREIGN)),
        (405, PAGE, Unrecognised(405, FOREIGN)),
        (408, b"", Unavailable("answer 408")),
        (429, OWN, Unavailable("answer 429")),
        (500, PAGE, Unavailable("answer 500")),
    ],
)
def test_key_answer_takes_loops_own_word_to_reject(status: int, body: bytes, answer: KeyAnswer) -> None:
    assert read_key_answer(status, body, {"content-type": "text/html; charset=utf-8"}) == answer


async def test_client_redirection_is_not_followed_and_no_answer_to_the_event() -> None:
    async def elsewhere(_request: Request) -> Response:
        return Response(b"", 301, {"location": "/elsewhere"})

    async with served(Starlette(routes=[Route("/api/v1/events/send", elsewhere, methods=["POST"])])) as url:
        client = LoopsClient(url + "/", "key")
        await client.open()
        assert (await client.send(PAYLOAD, "audit-1")).answer == Unrecognised(301, "no content type, not of Loops")
        await client.close()


async def test_client_wrong_base_url_is_named_with_its_setting_and_without_its_query(sink: ServedSink) -> None:
    client = LoopsClient(sink.url + "/api?token=secret", "key")
    await client.open()

    with pytest.raises(LoopsUnavailable) as raised:
        await client.check_key()
    await client.close()

    assert str(raised.value) == (
        f"What answers at {sink.url}/api is not Loops (answer 404 to GET /api/v1/api-key, text/plain, not of Loops); "
        "correct TIERSTREAM_LOOPS_BASE_URL (https://app.loops.so, without a path) or let the calls through; mails wait until then."
    )


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        ("0.5", 0.5),
        ("99999", 300.0),
        ("Sun, 01 Mar 2026 12:00:30 GMT", 30.0),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("-5", None),
        ("nan", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(header, datetime(2026, 3, 1, 12, tzinfo=UTC)) == seconds
