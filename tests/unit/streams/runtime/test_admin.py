"""The admin port reports whether a process is ready, and its metrics."""

import socket

import httpx
import pytest

from schemas.reasons import Reason
from streams.errors import ConfigurationError
from streams.metrics import count_outcomes
from streams.runtime.admin import Health, admin_app, serve_admin
from streams.settings import Settings

LOCAL = Settings(admin_port=0)


def client(health: Health) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(admin_app(health)), base_url="http://admin")


async def test_readyz_is_200_once_every_part_is_ready() -> None:
    health = Health()
    async with client(health) as http:
        assert (await http.get("/readyz")).status_code == 503

        health.set("kafka", True, "answers")
        health.set("table", False, "restoring 3")
        waiting = await http.get("/readyz")
        health.set("table", True)
        ready = await http.get("/readyz")

    assert waiting.status_code == 503
    assert waiting.json() == {
        "ready": False,
        "parts": {"kafka": {"ok": True, "detail": "answers"}, "table": {"ok": False, "detail": "restoring 3"}},
    }
    assert ready.status_code == 200
    assert ready.json()["ready"] is True


async def test_readyz_asks_a_watched_part_each_time() -> None:
    health, states = Health(), [(False, "starting"), (True, "3 partitions")]
    health.watch("stage", lambda: states.pop(0))

    async with client(health) as http:
        answers = [await http.get("/readyz") for _ in range(2)]

    assert [(answer.status_code, answer.json()["parts"]["stage"]["detail"]) for answer in answers] == [
        (503, "starting"),
        (200, "3 partitions"),
    ]


async def test_readyz_takes_a_check_that_raises_for_not_ready() -> None:
    def check() -> tuple[bool, str]:
        raise KeyError("jane@example.com")

    health = Health()
    health.watch("stage", check)

    async with client(health) as http:
        answer = await http.get("/readyz")

    assert answer.status_code == 503
    assert answer.json()["parts"]["stage"] == {"ok": False, "detail": "its check raised KeyError"}


async def test_metrics_are_prometheus_text() -> None:
    count_outcomes("admin-test", {Reason.RENEWAL: 2})

    async with client(Health()) as http:
        answer = await http.get("/metrics")

    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert 'tierstream_outcomes_total{reason="renewal",stage="admin-test"} 2.0' in answer.text


async def test_admin_port_serves_these_routes_only() -> None:
    async with client(Health()) as http:
        assert (await http.get("/healthz")).status_code == 404
        assert (await http.post("/readyz")).status_code == 405


async def test_admin_port_is_served_in_the_running_loop_until_the_block_ends() -> None:
    health = Health()
    health.set("kafka", True)

    async with serve_admin(LOCAL, health) as url, httpx.AsyncClient() as http:
        assert url.startswith("http://127.0.0.1:")
        assert (await http.get(f"{url}/readyz")).status_code == 200

    async with httpx.AsyncClient() as http:
        with pytest.raises(httpx.ConnectError):
            await http.get(f"{url}/readyz")


async def test_admin_port_that_is_taken_is_an_error_naming_the_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(ConfigurationError, match=f"TIERSTREAM_ADMIN_PORT: port {port} of 127.0.0.1 is taken"):
            async with serve_admin(LOCAL.model_copy(update={"admin_port": port}), Health()):
                pass


@pytest.mark.parametrize("host", ["203.0.113.7", "no.such.host.invalid"])
async def test_admin_host_that_is_not_ours_is_an_error_naming_the_setting(host: str) -> None:
    with pytest.raises(ConfigurationError, match="TIERSTREAM_ADMIN_HOST"):
        async with serve_admin(LOCAL.model_copy(update={"admin_host": host}), Health()):
            pass
