"""A fake of Razorpay's API, written after its documentation: "Fetch all Subscriptions", "API errors"."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.sinks import served

KEY_ID, KEY_SECRET = "rzp_test_key", "S3cretTail"
AUTHORIZATION = "Basic " + base64.b64encode(f"{KEY_ID}:{KEY_SECRET}".encode()).decode()
T0 = 1_700_000_000


@dataclass
class RazorpayApi:
    """Its subscriptions, the newest first, and the answers that it gives before it works (``faults``)."""

    subscriptions: list[dict[str, Any]] = field(default_factory=list)
    faults: list[Response] = field(default_factory=list)
    queries: list[dict[str, str]] = field(default_factory=list)
    url: str = ""

    async def answer(self, request: Request) -> Response:
        self.queries.append(dict(request.query_params))
        if self.faults:
            return self.faults.pop(0)
        if request.headers.get("authorization") != AUTHORIZATION:
            return error(401, "Authentication failed")
        count, skip = (int(request.query_params.get(name, default)) for name, default in (("count", 10), ("skip", 0)))
        if count > 100:
            return error(400, "The count may not be greater than 100.")
        up_to = int(request.query_params.get("to", 2**40))
        found = [each for each in self.subscriptions if each["created_at"] <= up_to][skip : skip + count]
        return JSONResponse({"entity": "collection", "count": len(found), "items": found})


def error(status: int, description: str) -> Response:
    """Return an error as Razorpay words it."""
    return JSONResponse({"error": {"code": "BAD_REQUEST_ERROR", "description": description, "source": "NA"}}, status)


def subscription(id: str, status: str = "active", plan: str = "plan_pro", team: str | None = None, **fields: Any) -> dict[str, Any]:
    """Return a subscription's entity."""
    entity = {
        "id": id,
        "entity": "subscription",
        "plan_id": plan,
        "status": status,
        "current_start": T0 + 100,
        "current_end": T0 + 2_592_000,
        "ended_at": None,
        "charge_at": T0 + 2_592_000,
        "start_at": T0 + 50,
        "paid_count": 1,
        "created_at": T0,
        "has_scheduled_changes": False,
        "notes": {"team_id": team} if team else [],
    }
    return entity | fields


@asynccontextmanager
async def served_razorpay() -> AsyncIterator[RazorpayApi]:
    """Serve an empty account on a free port."""
    api = RazorpayApi()
    async with served(Starlette(routes=[Route("/v1/subscriptions", api.answer)])) as api.url:
        yield api
