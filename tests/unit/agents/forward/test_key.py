"""The API key: a rejected one pauses, is asked for at intervals, and is gone on with when it works."""

import asyncio

import pytest
import structlog
from prometheus_client import REGISTRY

from agents.forward import key as key_module
from agents.forward.key import ApiKey
from streams.errors import LoopsUnavailable
from streams.loops.client import key_rejected
from streams.runtime.waiting import Backoff, describe_waits, services_away
from tests.stage_doubles import OpenLimiter, ScriptedLoops, Sleeps
from tests.waiting import eventually


def api_key(loops: ScriptedLoops, sleeps: Sleeps) -> ApiKey:
    return ApiKey("key", loops, OpenLimiter(), backoff=Backoff(1.0, 8.0), sleep=sleeps)


async def test_key_that_is_rejected_at_the_start_pauses_until_it_is_accepted_and_says_so_once() -> None:
    loops, sleeps = ScriptedLoops(), Sleeps()
    loops.key_error = key_rejected(401)
    key = api_key(loops, sleeps)
    with structlog.testing.capture_logs() as logs:
        await key.begin()
        assert services_away("key") == ["loops api key"]
        waiting = asyncio.create_task(key.accepted())
        await eventually(lambda: loops.key_checks > 20)
        assert not waiting.done()
        loops.key_error = LoopsUnavailable("no")
        await eventually(lambda: "does not say now" in str(describe_waits("key")))

        loops.key_error = None
        await waiting
    assert services_away("key") == []
    assert [entry["event"] for entry in logs] == ["waiting", "available_again"]
    assert 4.0 < max(sleeps.seconds) <= 8.0
    assert REGISTRY.get_sample_value("tierstream_forward_paused", {"reason": "key_rejected"}) == 0.0


async def test_key_is_left_unchecked_at_the_start_when_no_request_may_start(monkeypatch: pytest.MonkeyPatch) -> None:
    class UsedUp(OpenLimiter):
        async def start(self) -> float:
            return await asyncio.Event().wait() or 0.0

    monkeypatch.setattr(key_module, "BEGIN_SECONDS", 0.01)
    loops = ScriptedLoops()

    with structlog.testing.capture_logs() as logs:
        await ApiKey("key", loops, UsedUp()).begin()

    assert [entry["event"] for entry in logs] == ["loops_key_unchecked"]
    assert loops.key_checks == 0


async def test_confirm_says_whether_the_key_was_accepted_all_the_time() -> None:
    loops = ScriptedLoops()
    key = api_key(loops, Sleeps())
    assert await key.confirm() is True

    loops.key_error = key_rejected(403)
    confirming = [asyncio.create_task(key.confirm()) for _ in range(10)]
    await eventually(lambda: services_away("key"))
    loops.key_error = None
    assert await asyncio.gather(*confirming) == [False] * 10


async def test_confirm_without_an_answer_raises_and_does_not_pause() -> None:
    loops = ScriptedLoops()
    loops.key_error = LoopsUnavailable("no")
    key = api_key(loops, Sleeps())

    with pytest.raises(LoopsUnavailable):
        await key.confirm()
    await key.begin()
    await key.accepted()


async def test_failure_that_nobody_expects_while_it_is_paused_reaches_those_who_wait() -> None:
    loops = ScriptedLoops()
    loops.key_error = key_rejected(401)
    key = api_key(loops, Sleeps())
    await key.begin()
    loops.key_error = ZeroDivisionError()  # type: ignore[assignment]

    with pytest.raises(ZeroDivisionError):
        await key.accepted()


async def test_close_ends_the_questions() -> None:
    loops = ScriptedLoops()
    loops.key_error = key_rejected(401)
    key = api_key(loops, Sleeps())
    await key.begin()
    await key.aclose()

    asked = loops.key_checks
    await asyncio.sleep(0.01)
    assert loops.key_checks == asked
    assert services_away("key") == []
