"""The fake Loops enforces the documented rules."""

import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
import pytest

from streams.loops.sink import create_sink

EVENT: dict[str, Any] = {"email": "asha@example.com", "eventName": "subscription.upgraded", "eventProperties": {"to": "pro"}}
DAY = 86_400.0


class Now:
    def __init__(self) -> None:
        self.seconds = 1_772_366_400.0

    def __call__(self) -> float:
        return self.seconds


class Caller:
    """Calls the ASGI application without a network."""

    def __init__(self, rate: float | None = None, api_key: str | None = None) -> None:
        self.now = Now()
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(create_sink(rate, api_key, clock=self.now)), base_url="http://loops")

    async def send(self, event: Any = EVENT, *, key: str | None = None, bearer: str | None = "key") -> httpx.Response:
        headers = {
            **({"idempotency-key": key} if key is not None else {}),
            **({"authorization": f"Bearer {bearer}"} if bearer is not None else {}),
        }
        return await self.http.post(
            "/api/v1/events/send", content=event if isinstance(event, bytes) else orjson.dumps(event), headers=headers
        )

    async def sent(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.http.get("/_sent")).json()
        return found

    async def break_it(self, **faults: Any) -> httpx.Response:
        return await self.http.post("/_faults", json=faults)


@pytest.fixture
async def loops() -> AsyncIterator[Caller]:
    caller = Caller()
    yield caller
    await caller.http.aclose()


async def test_sink_accepted_event_is_listed_in_order(loops: Caller) -> None:
    first = await loops.send(key="a")
    await loops.send({"email": "b@example.com", "eventName": "x"}, key="b")

    assert (first.status_code, first.json()) == (200, {"success": True})
    assert await loops.sent() == [
        {
            "idempotency_key": "a",
            "email": "asha@example.com",
            "eventName": "subscription.upgraded",
            "eventProperties": {"to": "pro"},
            "received_at": "2026-03-01T12:00:00.000+00:00",
        },
        {
            "idempotency_key": "b",
            "email": "b@example.com",
            "eventName": "x",
            "eventProperties": {},
            "received_at": "2026-03-01T12:00:00.000+00:00",
        },
    ]
    assert [mail["idempotency_key"] for mail in (await loops.http.get("/_sent?offset=1")).json()] == ["b"]
    assert (await loops.http.get("/_sent?offset=-1")).status_code == 400


async def test_sink_key_check_answers_for_a_good_key_only() -> None:
    loops = Caller(api_key="right")

    good = await loops.http.get("/api/v1/api-key", headers={"authorization": "Bearer right"})
    bad = await loops.http.get("/api/v1/api-key", headers={"authorization": "Bearer wrong"})

    assert (good.status_code, good.json()["success"]) == (200, True)
    assert (bad.status_code, bad.json()) == (401, {"success": False, "message": "Invalid API key"})
    await loops.http.aclose()


@pytest.mark.parametrize("bearer", [None, "", " "])
async def test_sink_missing_key_is_401_and_not_accepted(loops: Caller, bearer: str | None) -> None:
    assert (await loops.send(bearer=bearer)).status_code == 401
    assert await loops.sent() == []


@pytest.mark.parametrize(
    "event",
    [
        b"{",
        [],
        "text",
        {"email": "asha@example.com"},
        {**EVENT, "eventName": ""},
        {**EVENT, "eventName": 1},
        {"eventName": "x"},
        {"eventName": "x", "email": ""},
        {"eventName": "x", "email": 1},
        {"eventName": "x", "email": "no address"},
        {"eventName": "x", "userId": 7},
        {**EVENT, "eventProperties": []},
        {**EVENT, "eventProperties": {"a": [1]}},
        {**EVENT, "eventProperties": {"a": {}}},
        {**EVENT, "eventProperties": {"a": None}},
        {**EVENT, "mailingLists": {"a": "yes"}},
        {**EVENT, "tier": {"a": 1}},
        {**EVENT, "eventProperties": {"a": "x" * 499}},
        {**EVENT, "eventProperties": {"x" * 499: 1}},
        {**EVENT, "eventName": "x" * 499},
        {**EVENT, "tier": "x" * 499},
    ],
)
async def test_sink_request_that_breaks_a_rule_is_400_and_not_accepted(loops: Caller, event: object) -> None:
    answer = await loops.send(event)

    assert answer.status_code == 400
    assert answer.json()["success"] is False
    assert await loops.sent() == []


async def test_sink_value_of_exactly_500_characters_is_accepted(loops: Caller) -> None:
    assert (await loops.send({**EVENT, "eventProperties": {"a": "x" * 498}})).status_code == 200


async def test_sink_wrong_method_is_405(loops: Caller) -> None:
    assert (await loops.http.get("/api/v1/events/send")).status_code == 405


async def test_sink_key_used_within_24_hours_is_409_and_afterwards_accepted_again(loops: Caller) -> None:
    assert (await loops.send(key="a")).status_code == 200
    loops.now.seconds += DAY - 1
    assert (await loops.send({**EVENT, "eventName": "another"}, key="a")).status_code == 409
    loops.now.seconds += 1
    assert (await loops.send(key="a")).status_code == 200
    assert len(await loops.sent()) == 2


async def test_sink_key_of_a_refused_event_is_not_used_up(loops: Caller) -> None:
    await loops.send({"eventName": "x"}, key="a")

    assert (await loops.send(key="a")).status_code == 200


async def test_sink_key_over_100_characters_is_400(loops: Caller) -> None:
    assert (await loops.send(key="k" * 101)).status_code == 400
    assert (await loops.send(key="k" * 100)).status_code == 200


async def test_sink_more_than_the_limit_in_a_sliding_second_is_429() -> None:
    loops = Caller(rate=3)
    statuses, remaining = [], []
    for step in (0.0, 0.3, 0.3, 0.3, 0.2):  # the last is 1.1 s after the first
        loops.now.seconds += step
        answer = await loops.send()
        statuses.append(answer.status_code)
        remaining.append(answer.headers["x-ratelimit-remaining"])
        assert answer.headers["x-ratelimit-limit"] == "3"

    assert statuses == [200, 200, 200, 429, 200]
    assert remaining == ["2", "1", "0", "0", "0"]
    assert (await loops.http.get("/_stats")).json() == {"accepted": 4, "statuses": {"200": 4, "429": 1}, "peak_per_second": 4}
    await loops.http.aclose()


async def test_sink_faults_fail_the_next_events_without_accepting_them(loops: Caller) -> None:
    assert (await loops.break_it(fail_next=2, status=503)).json() == {
        "rate": None,
        "others": 0.0,
        "fail_next": 2,
        "status": 503,
        "accept_then_timeout": 0,
        "delay_seconds": 0.0,
        "down": False,
        "revoked": False,
        "block": None,
        "block_status": 403,
        "page": None,
    }

    assert [(await loops.send(key="a")).status_code for _ in range(3)] == [503, 503, 200]
    assert len(await loops.sent()) == 1


async def test_sink_faults_down_closes_connections_until_it_is_lifted(loops: Caller) -> None:
    await loops.break_it(down=True)
    answer = await loops.send()
    await loops.break_it(down=False)

    assert (answer.status_code, answer.headers["connection"]) == (503, "close")
    assert (await loops.send()).status_code == 200


async def test_sink_faults_set_and_lift_the_rate(loops: Caller) -> None:
    await loops.break_it(rate=1)
    assert [(await loops.send()).status_code for _ in range(2)] == [200, 429]
    await loops.break_it(rate=None)
    assert (await loops.send()).status_code == 200


async def test_sink_faults_delay_every_answer_to_an_accepted_event(loops: Caller) -> None:
    await loops.break_it(delay_seconds=0.05)
    began = time.monotonic()

    assert (await loops.send()).status_code == 200

    assert time.monotonic() - began >= 0.05
    assert len(await loops.sent()) == 1


@pytest.mark.parametrize("faults", [{"rate": 0}, {"fail_next": -1}, {"status": 200}, {"unknown": 1}])
async def test_sink_faults_that_make_no_sense_are_400(loops: Caller, faults: dict[str, Any]) -> None:
    assert (await loops.break_it(**faults)).status_code == 400


async def test_sink_reset_forgets_mails_keys_and_faults(loops: Caller) -> None:
    await loops.send(key="a")
    await loops.break_it(down=True)

    await loops.http.post("/_reset")

    assert await loops.sent() == []
    assert (await loops.send(key="a")).status_code == 200


async def test_sink_blocked_event_gets_a_firewalls_page_and_all_else_its_answer(loops: Caller) -> None:
    await loops.break_it(block="<script", block_status=403)

    blocked = await loops.send({**EVENT, "eventProperties": {"name": "<script>x</script>"}}, key="a")
    others = [await loops.send(key="b"), await loops.http.get("/api/v1/api-key", headers={"authorization": "Bearer key"})]

    assert (blocked.status_code, blocked.headers["content-type"].partition(";")[0]) == (403, "text/html")
    assert [answer.json()["success"] for answer in others] == [True, True]
    assert [mail["idempotency_key"] for mail in await loops.sent()] == ["b"]


@pytest.mark.parametrize("status", [200, 404])
async def test_sink_page_is_the_answer_to_everything_and_accepts_nothing(loops: Caller, status: int) -> None:
    await loops.break_it(page=status)

    answers = [await loops.send(key="a"), await loops.http.get("/api/v1/api-key", headers={"authorization": "Bearer key"})]

    assert [(answer.status_code, answer.text) for answer in answers] == [
        (status, "<!doctype html><title>We will be right back</title>")
    ] * 2
    assert await loops.sent() == []


async def test_sink_others_use_their_part_of_the_limit() -> None:
    caller = Caller(rate=10)
    await caller.break_it(others=4)
    await caller.send()
    caller.now.seconds += 1.0

    answers = [await caller.send() for _ in range(8)]

    assert [answer.status_code for answer in answers] == [200] * 6 + [429] * 2
    assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == ["5", "4", "3", "2", "1", "0", "0", "0"]
    await caller.break_it(others=0)
    caller.now.seconds += 1.0
    assert (await caller.send()).headers["x-ratelimit-remaining"] == "9"
    await caller.http.aclose()


async def test_sink_revoked_key_is_401_until_it_is_lifted(loops: Caller) -> None:
    await loops.http.post("/_faults", json={"revoked": True})
    assert (await loops.send()).json() == {"success": False, "message": "Invalid API key"}

    await loops.http.post("/_faults", json={"revoked": False})
    assert (await loops.send()).status_code == 200
