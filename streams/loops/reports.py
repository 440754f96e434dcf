"""What the fake Loops reports of the mails that it accepted: signed webhooks, as Loops sends them. Only where a request to ``/_reports`` asks for them.

Source: Loops documentation, "Webhooks"; Standard Webhooks specification.
"""

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

import aiohttp
import orjson
from pydantic import BaseModel, ConfigDict, Field

from streams.gateway.signatures import sign_standard, standard_webhooks_key


class Reports(BaseModel):
    """Where reports go, and which events each mail that is accepted from now on gets, in this order."""

    model_config = ConfigDict(extra="forbid")

    to: str = Field(description="The gateway's /webhooks/loops.")
    secret: str = Field(description="The signing secret, with its whsec_.")
    events: tuple[str, ...] = ("loop.email.sent", "email.delivered")


class Reporter:
    """Sends reports, one after the other for each mail and once each: a test that looks for one has a gateway that takes it."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()
        self.wanted: Reports | None = None
        self.answers: Counter[int] = Counter()
        """By the gateway's status; 0 where it did not answer."""

    def report(self, event_name: str, email: str | None, number: int) -> None:
        """Report on the mail of that number, which an event began, in a workflow that has the event's name."""
        if self.wanted is not None:
            task = asyncio.create_task(self._report(self.wanted, event_name, email, number))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _report(self, wanted: Reports, event_name: str, email: str | None, number: int) -> None:
        key = standard_webhooks_key(wanted.secret)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
            for name in wanted.events:
                body = orjson.dumps(self._body(name, event_name, email, number))
                message_id, now = f"msg_{uuid.uuid4().hex}", int(self._clock())
                headers = {
                    "content-type": "application/json",
                    "webhook-id": message_id,
                    "webhook-timestamp": str(now),
                    "webhook-signature": sign_standard(body, message_id.encode(), now, key),
                }
                try:
                    async with session.post(wanted.to, data=body, headers=headers) as response:
                        self.answers[response.status] += 1
                except (aiohttp.ClientError, TimeoutError):
                    self.answers[0] += 1

    def _body(self, name: str, workflow: str, email: str | None, number: int) -> dict[str, Any]:
        body: dict[str, Any] = {
            "eventName": name,
            "eventTime": int(self._clock()),
            "webhookSchemaVersion": "1.0.0",
            "contactIdentity": {"id": f"contact-{email}", "email": email, "userId": None},
        }
        if name.startswith("contact."):
            return body
        body["email"] = {"id": f"mail-{number}", "emailMessageId": f"message-{workflow}", "subject": workflow}
        source = {"loopName": workflow} if name == "loop.email.sent" else {"sourceType": "loop"}
        return {**body, "loopId": f"loop-{workflow}", **source}
