"""Every process killed between every two steps of its commit order, while traffic goes on: nothing is lost, doubled or invented."""

import asyncio
import contextlib
import random
import re
import signal
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import asyncpg

from streams.cli.verify import verify_running
from streams.embedded.process import free_port
from streams.settings import Settings
from tests.faults.crash_points import POINTS, WAITING
from tests.faults.flow import CALM_SECONDS, REFUSED, Crashing, at_rest, flow, judged
from tests.faults.traffic import Post, Traffic, service_post, traffic
from tests.topic_io import produce, read_all
from tests.verdict import header
from tests.waiting import until

GUARANTEES = Path(__file__).parents[2] / "docs" / "guarantees.md"
PER_SECOND = 60.0
MORE_THAN_ENOUGH = 20_000
COMING_SECONDS = 15
POISON_SECONDS = 1.0
REFUSED_EVERY = 20
"""Of so many posts one leads to a mail that Loops refuses."""


@dataclass
class Ongoing(Traffic):
    """Traffic that goes on until it is stopped, and remembers what the gateway has acknowledged."""

    acknowledged: list[Post] = field(default_factory=list)

    async def until(self, enough: asyncio.Event) -> None:
        """Post until ``enough`` is set; what is then under way may have been taken, and may not."""
        posting, ending = asyncio.create_task(self.run()), asyncio.create_task(enough.wait())
        await asyncio.wait({posting, ending}, return_when=asyncio.FIRST_COMPLETED)
        assert not posting.done(), posting.exception() or "there was too little traffic"
        posting.cancel()
        await asyncio.wait({posting})

    async def _until_accepted(self, client: aiohttp.ClientSession, post: Post) -> None:
        await super()._until_accepted(client, post)
        self.acknowledged.append(post)


def mixed(gateway: str, seed: int) -> Ongoing:
    """Scenarios of teams, service events, duplicates, and now and then a team whose address Loops refuses."""
    posts: list[Post] = []
    for number, post in enumerate(traffic(gateway, seed, MORE_THAN_ENOUGH, PER_SECOND, COMING_SECONDS).posts):
        posts.append(post)
        if number % REFUSED_EVERY == 0:
            team = str(uuid.UUID(int=(seed << 64) + number + 1, version=4))
            data = {"email": f"{REFUSED}-{number}@example.com", "tier": "free"}
            event = {"kind": "onboarding.claimed", "team_id": team, "id": f"claim-{number}", "occurred_at": int(time.time()), "data": data}
            posts.append(service_post(event))
    return Ongoing(gateway, posts, PER_SECOND)


async def poison(settings: Settings, enough: asyncio.Event) -> None:
    """Put a record that is no JSON on every topic that a stage reads, again and again."""
    number = 0
    while not enough.is_set():
        for topic in ("razorpay.webhooks", "team.events", "audit.events"):
            await asyncio.to_thread(produce, settings, topic, [(b"poison-%d" % number, b"\xff no JSON")])
        number += 1
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(enough.wait(), POISON_SECONDS)


async def through_all_points(settings: Settings, stage: str) -> None:
    """Start the process once for each of its points, and see it die there."""
    for point in POINTS[stage]:
        async with Crashing(settings, stage, "--kill", point.name) as process:
            status = await process.status()
            assert status == -signal.SIGKILL, f"{stage} ended with {status} and never was at: {point.name}\n{process}"


@contextlib.asynccontextmanager
async def survivors(settings: Settings) -> AsyncIterator[None]:
    """Take all processes through all their points, side by side; then run them to the end of the block."""
    async with contextlib.AsyncExitStack() as processes:

        async def drive(stage: str) -> None:
            await through_all_points(settings, stage)
            await processes.enter_async_context(Crashing(settings, stage))

        async with asyncio.TaskGroup() as group:
            for stage in POINTS:
                group.create_task(drive(stage))
        yield


async def test_killed_between_every_two_steps_nothing_is_lost_doubled_or_invented(stage_settings: Settings) -> None:
    seed = random.SystemRandom().randrange(1_000_000)
    enough = asyncio.Event()
    async with flow(stage_settings, gateway_port=free_port()) as settings:
        stream = mixed(f"http://127.0.0.1:{settings.gateway_port}", seed)
        posting = asyncio.gather(stream.until(enough), poison(settings, enough))
        try:
            async with survivors(settings):
                enough.set()
                await posting
                await until(
                    lambda: at_rest(settings, "audit", "forward"), f"all stages at the end of their topics; seed {seed}", CALM_SECONDS
                )
        finally:
            enough.set()
            await asyncio.wait({posting})
        findings = await judged(settings)
        verified = await asyncio.to_thread(verify_running, settings)

    assert findings.exact, f"seed {seed}\n{findings}"
    assert verified.clean, f"seed {seed}\n" + "\n".join(verified.differences())
    assert lost(settings, stream.acknowledged) == set(), f"seed {seed}: answered 200, and not on Kafka"
    await assert_what_follows(settings)


def lost(settings: Settings, acknowledged: list[Post]) -> set[str]:
    """The webhooks that were answered 200 and are not there."""
    return {name for post in acknowledged if (name := post.headers.get("x-razorpay-event-id"))} - landed(settings).keys()


def landed(settings: Settings) -> Counter[str]:
    """How often each webhook stands on its topic; poison has no id."""
    return Counter(header(message, "razorpay-event-id") for message in read_all(settings, "razorpay.webhooks") if message.headers())


async def assert_what_follows(settings: Settings) -> None:
    """See the traces of what was done again: each crash has led to what the tables say."""
    assert max(landed(settings).values()) > 1, "acknowledged by Kafka, and sent again"
    dead_letters = Counter(
        (header(message, "dlq-stage"), header(message, "dlq-topic"), header(message, "dlq-partition"), header(message, "dlq-offset"))
        for message in read_all(settings, "dead.letters")
    )
    assert {stage for (stage, *_), count in dead_letters.items() if count > 1} == {"audit", "forward"}, (
        "stages whose dead letters stand twice"
    )
    assert settings.postgres_dsn is not None
    connection = await asyncpg.connect(settings.postgres_dsn.get_secret_value())
    try:
        already_sent = await connection.fetchval("select count(*) from forwarder_sent where classification = 'already_sent'")
        called_again = await connection.fetchval("select count(*) from forwarder_sent where attempts > 1")
    finally:
        await connection.close()
    assert already_sent > 0, "accepted, and called again"
    assert called_again > 0, "in flight, and called again"


def test_the_tables_of_what_a_crash_leaves_have_a_row_for_each_point() -> None:
    _, _, section = GUARANTEES.read_text(encoding="utf-8").partition("## What a crash leaves")
    tables = {heading: text for heading, _, text in (part.partition("\n") for part in section.partition("\n## ")[0].split("\n### "))}

    for stages in ("gateway", "normalise and classify", "audit", "forward"):
        rows = re.findall(r"^\| \d+\. ", tables[stages], re.MULTILINE)
        assert [len(POINTS[stage]) for stage in stages.split(" and ")] == [len(rows)] * len(stages.split(" and "))
    assert len(re.findall(r"^\| \d+\. ", tables["forward, a mail that waits by itself"], re.MULTILINE)) == len(WAITING)
