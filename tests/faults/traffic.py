"""Posting a seeded stream through the gateway as Razorpay and the services would: until it is accepted, however often that takes."""

import asyncio
import random
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from tests.load import TeamScenario, team_scenarios

SECRET = "demo-secret"
TOKEN = {"authorization": "Bearer demo-ingest"}
POSTS_AT_ONCE = 32
RETRY_SECONDS = 0.5
REORDER_WITHIN = 200
DOUBLED = 0.08
COMING_WITHIN = 0.9


@dataclass(frozen=True)
class Post:
    """One request. Sent again, with the same id, until it is accepted."""

    path: str
    body: bytes
    headers: dict[str, str]


@dataclass
class Traffic:
    """Sends ``posts`` at ``per_second`` and keeps the time that each answer took, in seconds."""

    gateway: str
    posts: list[Post]
    per_second: float
    accepted: int = 0
    retries: int = 0
    longest_wait_seconds: float = 0.0
    """From a post's first try to its acceptance, over all of its tries."""
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=200_000))

    async def run(self) -> None:
        """Return once every post has been accepted."""
        queue = deque(self.posts)
        began = time.monotonic()
        # Many times cheaper than httpx: what the sender takes, the stages and the broker do not get.
        connections, timeout = aiohttp.TCPConnector(limit=POSTS_AT_ONCE), aiohttp.ClientTimeout(total=10)
        async with aiohttp.ClientSession(self.gateway, connector=connections, timeout=timeout) as client:

            async def post_all() -> None:
                while queue:
                    post = queue.popleft()
                    due = began + (len(self.posts) - len(queue)) / self.per_second
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
                    await self._until_accepted(client, post)

            async with asyncio.TaskGroup() as group:
                for _ in range(POSTS_AT_ONCE):
                    group.create_task(post_all())

    async def _until_accepted(self, client: aiohttp.ClientSession, post: Post) -> None:
        first = time.monotonic()
        while True:
            began = time.monotonic()
            try:
                async with client.post(post.path, data=post.body, headers=post.headers) as answer:
                    text = await answer.text()
            except (aiohttp.ClientError, TimeoutError):
                pass  # the gateway was killed in the middle: like any sender, try again
            else:
                self.latencies.append(time.monotonic() - began)
                if answer.status in (200, 202):
                    self.accepted += 1
                    self.longest_wait_seconds = max(self.longest_wait_seconds, time.monotonic() - first)
                    return
                assert answer.status == 503, f"{answer.status} {text}"
            self.retries += 1
            await asyncio.sleep(RETRY_SECONDS)


def traffic(gateway: str, seed: int, events: int, per_second: float, coming_seconds: int | None = None) -> Traffic:
    """A mixed stream of ``events`` posts: complete scenarios of teams, service events, duplicates, and reordering. What is to come comes
    within ``coming_seconds``, by default while most of the stream is still to be sent; or long after."""
    chance = random.Random(seed)
    teams = max(20, events // 80)
    webhooks = int(events * 0.85)
    now = int(time.time())
    coming = range(now, now + (coming_seconds or max(1, int(events / per_second * COMING_WITHIN))))
    found = team_scenarios(seed, teams, webhooks, start=now - 7_200, coming=coming)
    posts = [_webhook(webhook.body, webhook.headers(SECRET)) for team_scenario in found for webhook in team_scenario.webhooks]
    chance.shuffle(posts)  # scenarios run beside each other …
    posts.sort(key=_moment_of(found))
    posts = _reordered(posts, chance)  # … and their events overtake each other by a little
    posts += chance.choices(posts, k=int(len(posts) * DOUBLED))
    services = [_service(team_scenario, number, chance) for team_scenario in found for number in range(3)]
    while len(posts) + len(services) < events:
        services.append(_service(chance.choice(found), len(services), chance))
    for post in services:
        posts.insert(chance.randrange(len(posts) + 1), post)
    return Traffic(gateway, posts, per_second)


def _webhook(body: bytes, headers: dict[str, str]) -> Post:
    return Post("/webhooks/razorpay", body, headers)


def service_post(event: dict[str, Any]) -> Post:
    """Return the request with which a service sends ``event``."""
    return Post("/v1/events", orjson.dumps(event), TOKEN | {"content-type": "application/json"})


def _moment_of(found: list[TeamScenario]) -> Any:
    order = {webhook.event_id: number for team_scenario in found for number, webhook in enumerate(team_scenario.webhooks)}
    return lambda post: order[post.headers["x-razorpay-event-id"]]


def _reordered(posts: list[Post], chance: random.Random) -> list[Post]:
    keyed = [(number + chance.random() * REORDER_WITHIN * chance.randrange(2), post) for number, post in enumerate(posts)]
    return [post for _, post in sorted(keyed, key=lambda pair: pair[0])]


def _service(team_scenario: TeamScenario, number: int, chance: random.Random) -> Post:
    at = team_scenario.clock - chance.randrange(chance.choice((60, 600)))
    kind, data = chance.choice(
        (
            ("onboarding.claimed", {"email": team_scenario.email, "tier": "free"}),
            ("near_quota_wall", {"resource_type": "api_calls", "used": 9, "limit": 10}),
            ("admin.tier_changed", {"to": chance.choice(("pro", "growth", "free")), "admin": "ops"}),
            ("experiment.conversion", {"experiment": "pricing", "variant": "b"}),
        )
    )
    event = {"kind": kind, "team_id": team_scenario.team, "id": f"{kind}-{number}", "occurred_at": at, "data": data}
    return service_post(event)
