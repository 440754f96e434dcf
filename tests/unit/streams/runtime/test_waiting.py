"""Waiting out a service that is away."""

import asyncio

import pytest
import structlog
from prometheus_client import REGISTRY

from streams.errors import KafkaUnavailable, LoopsKeyRejected, RowRejected
from streams.runtime.waiting import Backoff, Waiting, describe_waits, services_away
from tests.stage_doubles import Sleeps
from tests.waiting import eventually


class Service:
    """Fails the given number of times."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.calls = 0
        self.under_way = 0
        self.crowd: list[int] = []
        """How many calls were under way at the end of each."""

    async def call(self) -> str:
        self.calls += 1
        self.under_way += 1
        await asyncio.sleep(0)
        self.crowd.append(self.under_way)
        self.under_way -= 1
        if self.failures:
            self.failures -= 1
            raise KafkaUnavailable("away")
        return "answer"


@pytest.mark.parametrize(("retry", "ceiling"), [(0, 0.5), (1, 1.0), (2, 2.0), (3, 4.0), (4, 5.0), (10_000, 5.0)])
def test_backoff_ceiling_doubles_up_to_its_cap(retry: int, ceiling: float) -> None:
    assert Backoff(0.5, 5.0).ceiling(retry) == ceiling


def test_backoff_delay_lies_between_nothing_and_the_ceiling() -> None:
    delays = [Backoff(0.5, 5.0).delay(3) for _ in range(200)]

    assert all(0.0 <= delay <= 4.0 for delay in delays)
    assert len(set(delays)) > 100, "full jitter: no two callers come back together"


async def test_waiting_service_that_fails_a_while_returns_its_answer_in_the_end() -> None:
    service, sleeps = Service(failures=20), Sleeps()
    waiting = Waiting("test", "a", backoff=Backoff(1.0, 8.0), sleep=sleeps)

    assert await waiting.until_available(service.call) == "answer"

    assert service.calls == 21
    assert len(sleeps.seconds) == 20
    assert max(sleeps.seconds) <= 8.0


async def test_waiting_ends_with_the_last_caller_that_is_cancelled() -> None:
    service, stage = Service(failures=1_000_000), "test-cancelled"
    callers = [asyncio.create_task(Waiting(stage, "a").until_available(service.call))]
    await eventually(lambda: services_away(stage) == ["a"])

    callers[0].cancel()
    await asyncio.wait(callers)

    assert services_away(stage) == []


async def test_waiting_answer_none_is_an_answer() -> None:
    async def nothing() -> int | None:
        return None

    assert await Waiting("test", "none").until_available(nothing) is None


async def test_waiting_service_away_is_probed_by_one_caller_at_a_time() -> None:
    service = Service(failures=100)
    waiting = Waiting("test", "b", backoff=Backoff(1.0, 8.0), sleep=Sleeps())

    answers = await asyncio.gather(*(waiting.until_available(service.call) for _ in range(30)))

    assert answers == ["answer"] * 30
    assert service.calls == 130
    # The thirty call together; when they have failed it is one after another, until the answer.
    assert max(service.crowd[:30]) == 30
    assert set(service.crowd[30:100]) == {1}
    assert max(service.crowd[101:]) > 1, "and then all at once"


async def test_waiting_one_call_that_keeps_failing_does_not_hold_up_the_others() -> None:
    poisoned, healthy = Service(failures=50), Service()
    waiting = Waiting("test", "c", backoff=Backoff(1.0, 8.0), sleep=Sleeps())
    stuck = asyncio.create_task(waiting.until_available(poisoned.call))

    for _ in range(50):
        assert await waiting.until_available(healthy.call) == "answer"

    stuck.cancel()
    assert healthy.calls == 50


@pytest.mark.parametrize("error", [RowRejected("no"), LoopsKeyRejected("no"), ZeroDivisionError()])
async def test_waiting_other_errors_pass_through_at_once(error: Exception) -> None:
    calls = 0

    async def fail() -> None:
        nonlocal calls
        calls += 1
        raise error

    with pytest.raises(type(error)):
        await Waiting("test", "d").until_available(fail)
    assert calls == 1


async def test_waiting_outage_is_logged_once_and_shown_in_the_metric() -> None:
    seen: list[float | None] = []

    async def check(_seconds: float) -> None:
        seen.append(REGISTRY.get_sample_value("tierstream_waiting", {"stage": "test", "service": "e"}))

    with structlog.testing.capture_logs() as logs:
        await Waiting("test", "e", backoff=Backoff(1.0, 8.0), sleep=check).until_available(Service(failures=7).call)

    assert seen == [1.0] * 7
    assert REGISTRY.get_sample_value("tierstream_waiting", {"stage": "test", "service": "e"}) == 0.0
    assert [(log["event"], log.get("state")) for log in logs] == [
        ("waiting", None),
        ("breaker", "open"),
        ("available_again", None),
        ("breaker", "closed"),
    ]


async def test_waiting_service_that_answers_now_and_then_is_away_for_no_longer_than_a_moment() -> None:
    sleeps = Sleeps()
    waiting = Waiting("flapping", "kafka", backoff=Backoff(1.0, 8.0), sleep=sleeps)

    failing = asyncio.create_task(waiting.until_available(Service(failures=10**9).call))
    async with asyncio.timeout(10):
        await eventually(lambda: services_away("flapping", for_seconds=0.05) == ["kafka"])
        for _ in range(20):
            await waiting.until_available(Service().call)
            assert services_away("flapping", for_seconds=0.05) == []
    failing.cancel()
    await asyncio.gather(failing, return_exceptions=True)


async def test_waiting_is_described_with_the_latest_error_until_there_is_an_answer() -> None:
    errors, described = ["first", "second"], list[str]()

    async def call() -> list[str]:
        if errors:
            raise KafkaUnavailable(errors.pop(0))
        return described

    async def watched(seconds: float) -> None:
        described.extend(describe_waits("described"))

    waiting = Waiting("described", "kafka", sleep=watched)
    assert await waiting.until_available(call) == ["waits for kafka: first", "waits for kafka: second"]
    assert describe_waits("described") == []


def breaker(service: str) -> list[str]:
    """The states that the metric says the breaker of a service is in: one, if all is well."""
    return [
        state
        for state in ("closed", "open", "half_open")
        if REGISTRY.get_sample_value("tierstream_breaker_state", {"stage": "test", "service": service, "state": state}) == 1.0
    ]


async def test_breaker_is_open_while_nobody_is_answered_half_open_in_a_probe_and_closed_by_the_first_answer() -> None:
    seen: list[list[str]] = []
    failures = 5

    async def call() -> str:
        nonlocal failures
        seen.append(breaker("f"))
        failures -= 1
        if failures >= 0:
            raise KafkaUnavailable("no")
        return "answer"

    waited: list[list[str]] = []

    async def sleep(_seconds: float) -> None:
        waited.append(breaker("f"))

    waiting = Waiting("test", "f", backoff=Backoff(1.0, 8.0), sleep=sleep)
    assert breaker("f") == ["closed"]
    assert await waiting.until_available(call) == "answer"

    assert seen == [["closed"]] * 3 + [["half_open"]] * 3
    assert waited == [["closed"]] * 2 + [["open"]] * 3
    assert (breaker("f"), waiting.is_open, waiting.callers) == (["closed"], False, 0)
