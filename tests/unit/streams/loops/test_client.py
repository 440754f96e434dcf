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
    KeyRejected,
    LoopsClient,
    RateLimited,
    Refused,
    Unavailable,
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

    assert (await client.send(PAYLOAD, "audit-1")).answer == KeyRejected(401)
    with pytest.raises(LoopsKeyRejected, match=r"^Loops rejects the API key \(401\); set TIERSTREAM_LOOPS_API_KEY"):
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


@pytest.mark.parametrize(
    ("status", "body", "answer"),
    [
        (200, b'{"success":true}', Accepted()),
        (201, b"", Accepted()),
        (200, b'{"success":false,"message":"no"}', Refused(200, "no")),
        (400, b'{"success":false,"message":"Contact asha@example.com not found."}', Refused(400, "Contact a***@example.com not found.")),
        (404, b"<html>", Refused(404, "<html>")),
        (405, b"", Refused(405, "no message")),
        (422, b'{"message":["a"]}', Refused(422, '{"message":["a"]}')),
        (409, b"", AlreadyAccepted()),
        (401, b"", KeyRejected(401)),
        (403, b"", KeyRejected(403)),
        (408, b"", Unavailable("answer 408")),
        (429, b"", RateLimited(2.0)),
        (301, b"", Unavailable("answer 301")),
        (500, b"", Unavailable("answer 500")),
        (503, b"", Unavailable("answer 503")),
    ],
)
async def test_client_status_gives_its_answer(status: int, body: bytes, answer: Answer) -> None:
    async def answering(_request: Request) -> Response:
        return Response(body, status, {"retry-after": "2", "location": "/elsewhere"})

    async with served(Starlette(routes=[Route("/api/v1/events/send", answering, methods=["POST"])])) as url:
        client = LoopsClient(url + "/", "key")
        await client.open()
        assert (await client.send(PAYLOAD, "audit-1")).answer == answer
        await client.close()


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
