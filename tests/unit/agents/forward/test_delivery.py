"""One mail's way to Loops: what each answer makes of it, and that it waits by itself when the answer concerns it alone."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest
import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from schemas.reasons import Reason
from streams.errors import LoopsUnavailable
from streams.loops.client import Answer, Denied, LoopsClient, RateLimited, Unavailable, Unrecognised, key_rejected
from streams.runtime.waiting import services_away
from tests.forward_doubles import Stage
from tests.sinks import served
from tests.stage_doubles import Record, id_of, record, team
from tests.waiting import eventually

OWN = b'{"success":false,"message":"No."}'
PAGE = b"<!doctype html>"
YES = b'{"success":true}'


@asynccontextmanager
async def handling(stage: Stage, *records: Record) -> AsyncIterator["asyncio.Task[Counter[Reason]]"]:
    """Handle records beside the block; what is left at its end is given up."""
    task = asyncio.create_task(stage.handle(*records))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize(
    ("event", "key", "outcome"),
    [
        ((200, YES), (200, YES), "sent"),
        ((200, PAGE), (200, PAGE), "all wait"),
        ((200, OWN), (200, YES), "all wait"),
        ((400, OWN), (200, YES), "refused"),
        ((422, OWN), (404, PAGE), "refused"),
        ((400, PAGE), (200, YES), "all wait"),
        ((409, OWN), (200, YES), "already_sent"),
        ((409, PAGE), (200, YES), "all wait"),
        ((401, OWN), (401, OWN), "paused"),
        ((401, OWN), (200, YES), "waits"),
        ((403, PAGE), (200, YES), "waits"),
        ((403, PAGE), (401, OWN), "paused"),
        ((403, PAGE), (403, PAGE), "all wait"),
        ((403, OWN), (403, OWN), "paused"),
        ((403, PAGE), (503, PAGE), "all wait"),
        ((402, OWN), (200, YES), "all wait"),
        ((404, PAGE), (404, PAGE), "all wait"),
        ((404, PAGE), (200, YES), "all wait"),
        ((405, PAGE), (401, OWN), "paused"),
        ((410, PAGE), (200, YES), "all wait"),
        ((451, PAGE), (200, YES), "all wait"),
        ((302, PAGE), (302, PAGE), "all wait"),
        ((500, OWN), (200, YES), "all wait"),
    ],
)
async def test_delivery_answer_to_the_event_and_to_the_key_check_gives_its_outcome(
    event: tuple[int, bytes], key: tuple[int, bytes], outcome: str
) -> None:
    def answering(status: int, body: bytes, methods: Iterable[str], path: str) -> Route:
        async def answer(_request: Request) -> Response:
            return Response(body, status)

        return Route(path, answer, methods=list(methods))

    routes = [answering(*event, ["POST"], "/api/v1/events/send"), answering(*key, ["GET"], "/api/v1/api-key")]
    stage, mail = Stage(), record()
    async with served(Starlette(routes=routes)) as url:
        client = LoopsClient(url, "key")
        await client.open()
        stage.loops = client  # type: ignore[assignment]
        stage.restarted()
        async with handling(stage, mail) as task:
            await eventually(lambda: task.done() or services_away(stage.name))
            if task.done():
                (seen,) = (reason.value for reason in task.result())
            else:
                seen = {"loops": "all wait", "loops api key": "paused"}[services_away(stage.name)[0]]

            assert seen == outcome
            assert stage.ledger.classification(mail) == (outcome if outcome in ("sent", "refused", "already_sent") else "in_flight")
            assert stage.dead_letters.reasons == ([Reason.REFUSED] if outcome == "refused" else [])
        await stage.key.aclose()
        await client.close()


async def test_delivery_denied_mail_waits_by_itself_with_its_key_and_is_sent_once_it_is_let_through() -> None:
    stage, blocked = Stage(), record()
    stage.loops.script(blocked, *[Denied(403)] * 5)

    with structlog.testing.capture_logs() as logs:
        assert await stage.handle(blocked) == Counter({Reason.WAITS: 1})
        async with stage.retrying():
            await eventually(lambda: stage.loops.accepted)
            await eventually(lambda: logs[-1]["event"] == "mail_released")

    assert [key for key, _ in stage.loops.calls] == [str(id_of(blocked))] * 6
    assert stage.ledger.held[id_of(blocked)].attempts == 6
    assert stage.loops.key_checks == 5
    assert [entry["event"] for entry in logs] == ["mail_held"] * 5 + ["mail_released"], "Loops was never away"
    assert "asha" not in str(logs)


@pytest.mark.parametrize("answer", [Unavailable("answer 500"), Unrecognised(404, "text/html, not of Loops")])
async def test_delivery_mail_that_alone_gets_no_answer_waits_by_itself(answer: Answer) -> None:
    stage, stuck, others = Stage(), record(team=team(0)), [record(team=team(number)) for number in range(1, 50)]
    stage.loops.script(stuck, *[answer] * 10**6)

    async with handling(stage, stuck, *others) as task:
        await eventually(lambda: len(stage.loops.accepted) == 49)
        assert await task == Counter({Reason.SENT: 49, Reason.WAITS: 1})
        assert services_away(stage.name) == [], "Loops is not away for one mail"


async def test_delivery_answer_that_all_get_keeps_all_waiting_as_for_an_outage() -> None:
    stage, mails = Stage(*[Unrecognised(402, "Pay.")] * 200), [record(team=team(number)) for number in range(20)]

    with structlog.testing.capture_logs() as logs:
        assert await stage.handle(*mails) == Counter({Reason.SENT: 20})

    assert stage.loops.most_under_way <= 20
    assert [entry["event"] for entry in logs].count("waiting") == 1
    (sentence,) = [entry["error"] for entry in logs if entry["event"] == "waiting"]
    assert sentence.startswith("Loops accepts the key and does not say what becomes of events (answer 402: Pay.)")


async def test_delivery_wrong_address_is_waited_for_in_the_words_of_the_key_check() -> None:
    stage, mail = Stage(*[Unrecognised(404, "text/html, not of Loops")] * 5), record()
    stage.loops.key_error = LoopsUnavailable("What answers there is not Loops; correct TIERSTREAM_LOOPS_BASE_URL.")

    with structlog.testing.capture_logs() as logs:
        assert await stage.handle(mail) == Counter({Reason.SENT: 1})

    assert [entry["error"] for entry in logs if entry["event"] == "waiting"] == [str(stage.loops.key_error)]
    assert stage.dead_letters.written == []


async def test_delivery_mails_that_are_denied_at_once_share_a_check_of_the_key() -> None:
    stage, mails = Stage(), [record(team=team(number)) for number in range(20)]
    for mail in mails:
        stage.loops.script(mail, Denied(401))
    stage.loops.key_error = key_rejected(401)
    gate = asyncio.Event()

    async def asked_again(_seconds: float) -> None:
        await gate.wait()

    stage.sleeps = asked_again  # type: ignore[assignment]
    stage.restarted()
    async with handling(stage, *mails) as task:
        await eventually(lambda: services_away(stage.name))
        await asyncio.sleep(0.05)
        assert (stage.loops.key_checks, len(stage.loops.calls)) == (1, 20)
        assert not task.done()

        stage.loops.key_error = None
        gate.set()
        assert await task == Counter({Reason.SENT: 20})
    assert (stage.loops.key_checks, len(stage.loops.calls)) == (2, 40)


async def test_delivery_check_of_the_key_takes_its_turn_in_the_limit() -> None:
    stage, blocked = Stage(RateLimited(None), Denied(403)), record()

    await stage.handle(blocked)

    assert stage.limiter.starts == len(stage.limiter.answered) == 3, "two calls and a check"


async def test_delivery_nothing_is_put_on_a_retry_topic_while_loops_answers_nobody() -> None:
    stage, mails = Stage(), [record(team=team(number), offset=number) for number in range(3)]
    for mail in mails:
        stage.loops.script(mail, Denied(403))
    await stage.handle(*mails)
    stage.loops.default = Unavailable("answer 500")  # to every event, while the key is accepted
    new = record(team=team(9))

    async with stage.retrying(), handling(stage, new):
        await eventually(lambda: stage.waiting.is_open)
        written, calls = len(stage.retries.written), len(stage.loops.calls)
        await eventually(lambda: len(stage.loops.calls) > calls + 20)
        assert len(stage.retries.written) == written

        stage.loops.default = None
        await eventually(lambda: len(stage.loops.accepted) == 4)
    assert not stage.waiting.is_open
