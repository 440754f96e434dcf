"""The gateway's ASGI app: routes, answers to what has no route, metrics.

Raw ASGI, for the webhook route takes nearly all requests, and a framework's request objects cost more there than the work itself.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog
from prometheus_client import Counter, Histogram

from streams.errors import KafkaUnavailable, RecordTooLarge
from streams.gateway.http import BODY_SECONDS, Answer, Disconnected, Receive, Refused, Request, Scope, Send, refusal
from streams.gateway.ingest import IngestRoute
from streams.gateway.openapi import document
from streams.gateway.peers import DELAY_SECONDS, NOT_ALLOWED, TOO_MANY, Unproven, is_unproven, peer_of
from streams.gateway.webhooks import Clock, GatewayProducer, LoopsRoute, RazorpayRoute
from streams.metrics import REQUEST_SECONDS, REQUESTS
from streams.runtime.http_limits import is_in, networks_of
from streams.settings import Settings

RETRY_AFTER_SECONDS = 5

Route = Callable[[Request], Awaitable[Answer]]

log = structlog.stdlib.get_logger(__name__)

_ALIVE = Answer(200, {"status": "alive"})
_NO_ROUTE = refusal(
    404,
    "There is nothing here; the routes are POST /webhooks/razorpay, /webhooks/loops and /v1/events, and GET /healthz and /openapi.json.",
)
_FAILED = refusal(500, "The gateway failed; nothing was accepted, so send the request again, and see its log.")
_DISCONNECTED = "disconnected"


async def _healthz(_request: Request) -> Answer:
    return _ALIVE


class _OpenApi:
    """``GET /openapi.json``. The document is made at the first request for it: most gateways never get one."""

    def __init__(self) -> None:
        self._answer: Answer | None = None

    async def __call__(self, _request: Request) -> Answer:
        if self._answer is None:
            self._answer = Answer(200, document())
        return self._answer


class Gateway:
    """The public port's ASGI app. It never waits on anything but the producer."""

    def __init__(self, settings: Settings, producer: GatewayProducer, clock: Clock, body_seconds: float) -> None:
        razorpay, loops, ingest = (kind(settings, producer, clock) for kind in (RazorpayRoute, LoopsRoute, IngestRoute))
        self._routes: dict[str, dict[str, Route]] = {
            "/webhooks/razorpay": {"POST": razorpay},
            "/webhooks/loops": {"POST": loops},
            "/v1/events": {"POST": ingest},
            "/healthz": {"GET": _healthz, "HEAD": _healthz},
            "/openapi.json": {"GET": _OpenApi()},
        }
        self._body_seconds = body_seconds
        self._proxies, self._webhook_networks = networks_of(settings.gateway_proxies), networks_of(settings.webhook_networks)
        self._unproven = Unproven()
        self._counters: dict[tuple[str, str], Counter] = {}
        self._timers: dict[str, Histogram] = {path: REQUEST_SECONDS.labels(path) for path in (*self._routes, "other")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"the gateway speaks HTTP, not {scope['type']}")
        started = time.perf_counter()
        path, headers = scope["path"], dict(scope["headers"])
        methods = self._routes.get(path)
        if methods is None:
            path, answer = "other", _NO_ROUTE
        elif (route := methods.get(scope["method"])) is None:
            allowed = ", ".join(methods)
            answer = refusal(405, f"{path} takes {allowed} only.", ((b"allow", allowed.encode()),))
        elif self._webhook_networks and path.startswith("/webhooks/") and not is_in(self._peer(scope, headers), self._webhook_networks):
            answer = NOT_ALLOWED
        else:
            try:
                answer = await route(Request(headers, receive, self._body_seconds))
            except Refused as refused:
                answer = refused.answer
                if is_unproven(answer) and self._unproven.count(self._peer(scope, headers), time.monotonic()):
                    await asyncio.sleep(DELAY_SECONDS)
                    answer = TOO_MANY
            except RecordTooLarge as error:
                answer = refusal(413, str(error))
            except KafkaUnavailable as error:
                answer = refusal(503, str(error), ((b"retry-after", b"%d" % RETRY_AFTER_SECONDS),))
            except Disconnected:
                self._count(path, _DISCONNECTED)
                return
            except Exception:
                log.exception("request failed", route=path)
                answer = _FAILED
        self._count(path, str(answer.status))
        self._timers[path].observe(time.perf_counter() - started)
        await send(answer.start)
        await send(answer.end)

    def _peer(self, scope: Scope, headers: dict[bytes, bytes]) -> str:
        client = scope.get("client")
        return peer_of(client[0] if client else "", headers, self._proxies)

    def _count(self, path: str, status: str) -> None:
        counter = self._counters.get((path, status))
        if counter is None:
            counter = self._counters[path, status] = REQUESTS.labels(path, status)
        counter.inc()


def create_app(settings: Settings, producer: GatewayProducer, clock: Clock = time.time, *, body_seconds: float = BODY_SECONDS) -> Gateway:
    """Return the gateway's ASGI app, which produces with ``producer`` and takes the time from ``clock``.

    A client has ``body_seconds`` to send its body. Opens nothing. Raises ConfigurationError when TIERSTREAM_LOOPS_WEBHOOK_SECRET is set and is no signing secret.
    """
    return Gateway(settings, producer, clock, body_seconds)
