"""What the gateway is measured against: a Starlette app that only verifies the HMAC and answers. ``python -m bench.bare_app PORT``."""

import asyncio
import hmac
import os
import sys

import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from streams.runtime.http_server import listen, serving

SECRET = os.environ["BENCH_SECRET"].encode()


async def webhook(request: Request) -> Response:
    """Verify the signature, and answer."""
    body = await request.body()
    expected = hmac.digest(SECRET, body, "sha256").hex()
    if not hmac.compare_digest(expected, request.headers.get("x-razorpay-signature", "")):
        return JSONResponse({"error": "bad signature"}, 401)
    return JSONResponse({"status": "accepted"})


async def healthz(_request: Request) -> Response:
    """Say that it is there."""
    return Response()


async def main(port: int) -> None:
    """Serve until killed, with the gateway's own server settings."""
    app = Starlette(routes=[Route("/webhooks/razorpay", webhook, methods=["POST"]), Route("/healthz", healthz)])
    async with serving(app, listen("127.0.0.1", port, "GATEWAY"), grace_seconds=1.0):
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
