"""The fake Loops reports on mails as Loops does: signed, in order, about workflows."""

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from schemas.kinds import Kind
from schemas.loops import LoopsPayload
from schemas.loops_webhooks import read_loops_report
from streams.gateway.signatures import standard_webhooks_key, verify_standard
from tests.sinks import post, served, served_sink
from tests.waiting import eventually

SECRET = "whsec_c2VjcmV0"


async def test_each_mail_is_reported_on_with_signatures_that_verify() -> None:
    received: list[bytes] = []

    async def take(request: Request) -> Response:
        body, headers = await request.body(), {name: value.encode() for name, value in request.headers.items()}
        key, now = standard_webhooks_key(SECRET), float(headers["webhook-timestamp"])
        assert verify_standard(body, headers["webhook-id"], headers["webhook-timestamp"], headers["webhook-signature"], key, now)
        received.append(body)
        return Response()

    async with served(Starlette(routes=[Route("/webhooks/loops", take, methods=["POST"])])) as gateway, served_sink() as sink:
        events = ["loop.email.sent", "email.spamReported", "contact.unsubscribed"]
        assert await post(f"{sink.url}/_reports", {"to": f"{gateway}/webhooks/loops", "secret": SECRET, "events": events})
        client = sink.client()
        await client.open()
        await client.send(LoopsPayload(email="asha@example.com", event_name=Kind.UPGRADED, event_properties={}), "key-1")
        await client.close()
        await eventually(lambda: sink.sink.reporter.answers == {200: 3})

    reports = [read_loops_report(body) for body in received]
    assert [report.name for report in reports] == events
    assert {report.email for report in reports} == {"asha@example.com"}
    assert [report.mail_id for report in reports] == ["mail-1", "mail-1", None]
    assert reports[0].kind is Kind.UPGRADED
    assert orjson.loads(received[1])["sourceType"] == "loop"


async def test_reports_with_no_signing_secret_or_another_field_are_refused() -> None:
    async with served_sink() as sink:
        assert "signing secret" in (await post(f"{sink.url}/_reports", {"to": "http://127.0.0.1:1", "secret": "whsec_%"}))["message"]
        assert "message" in await post(f"{sink.url}/_reports", {"to": "http://127.0.0.1:1", "secret": SECRET, "other": 1})
        assert sink.sink.reporter.wanted is None
