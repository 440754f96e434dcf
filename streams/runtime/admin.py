"""The admin port of a process: whether its parts are ready, and its metrics. Loopback unless set otherwise."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from streams.runtime.http_server import listen, serving
from streams.settings import Settings

GRACE_SECONDS = 1.0

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Part:
    """The state of one part of a process: ready or not, and one sentence about it for an operator."""

    ok: bool
    detail: str = ""


Check = Callable[[], tuple[bool, str]]


class Health:
    """The state of a process' named parts. May be written from any thread."""

    def __init__(self) -> None:
        self._parts: dict[str, Part] = {}
        self._checks: dict[str, Check] = {}

    def set(self, part: str, ok: bool, detail: str = "") -> None:
        """Record the state of ``part`` until it is set again."""
        self._parts[part] = Part(ok, detail)

    def watch(self, part: str, check: Check) -> None:
        """Let ``check`` say, each time it is asked, whether ``part`` is ready, and in what state it is. It must be quick."""
        self._checks[part] = check

    def report(self) -> dict[str, Part]:
        """The state of every part now. A check that raises is a part that is not ready."""
        return dict(self._parts) | {part: _run(part, check) for part, check in list(self._checks.items())}


def _run(part: str, check: Check) -> Part:
    try:
        return Part(*check())
    except Exception as error:
        log.warning("health check raised", part=part, exc_info=error)
        return Part(False, f"its check raised {type(error).__name__}")


def admin_app(health: Health) -> Starlette:
    """Return the ASGI app of the admin port: ``/readyz`` (200, or 503 while a part is not ready) and ``/metrics``."""

    async def readyz(_request: Request) -> Response:
        parts = health.report()
        ready = bool(parts) and all(part.ok for part in parts.values())
        body = {"ready": ready, "parts": {name: {"ok": part.ok, "detail": part.detail} for name, part in sorted(parts.items())}}
        return JSONResponse(body, status_code=200 if ready else 503)

    async def metrics(_request: Request) -> Response:
        return Response(generate_latest(), media_type=None, headers={"content-type": CONTENT_TYPE_LATEST})

    return Starlette(routes=[Route("/readyz", readyz), Route("/metrics", metrics)])


@asynccontextmanager
async def serve_admin(settings: Settings, health: Health) -> AsyncGenerator[str]:
    """Serve the admin port in the running loop while the block runs; gives its URL. Port 0 lets the system choose one.

    Raises ConfigurationError when the port is taken.
    """
    listener = listen(settings.admin_host, settings.admin_port, "ADMIN")
    async with serving(admin_app(health), listener, grace_seconds=GRACE_SECONDS) as url:
        yield url
