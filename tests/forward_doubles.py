"""A forwarder with doubles all round, for the unit tests of the forward stage."""

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from agents.forward.decide import Policy
from agents.forward.key import ApiKey
from agents.forward.retries import Retry, Tier, retry_headers
from agents.forward.stage import Forwarder
from schemas.reasons import Reason
from streams.engine.backlog import Backlog
from streams.kafka.dead_letters import ConsumedRecord
from streams.loops.client import Answer, EventSender
from streams.loops.rate_limit import Limiter
from streams.runtime.waiting import Backoff, Waiting
from streams.stores.ledger import Ledger
from tests.stage_doubles import Clock, MemoryLedger, OpenLimiter, Record, RecordingDeadLetters, ScriptedLoops, Sleeps

POLICY = Policy(sending=True, max_age=timedelta(hours=24))

SHORT, MIDDLE, LONG = TOPICS = ("forward.retry.30s", "forward.retry.5m", "forward.retry.1h")


class MemoryRetries:
    """The retry topics in memory. ``written`` are their records, in order."""

    def __init__(self) -> None:
        self.written: list[Record] = []

    async def write(self, topic: str, original: ConsumedRecord, retry: Retry, team: bytes) -> None:
        await asyncio.sleep(0)
        headers = retry_headers(original, retry)
        self.written.append(Record(original.value, topic, original.partition, len(self.written), original.key or team, headers))

    @property
    def topics(self) -> list[str]:
        return [record.topic for record in self.written]


def forwarder_of(
    ledger: Ledger, loops: EventSender, limiter: Limiter, waiting: Waiting, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> Forwarder:
    """A forwarder whose mails find an answer at once: its retry topics and dead letters are in memory."""
    key, tiers = ApiKey(waiting.stage, loops, limiter), [Tier(topic, 0.01) for topic in TOPICS]
    return Forwarder(ledger, loops, limiter, RecordingDeadLetters(), MemoryRetries(), tiers, POLICY, waiting, key, clock=clock)


class Stage:
    """A forwarder, and the world that it works in. Waits on retry topics are as short as ``retry_seconds``."""

    def __init__(
        self,
        *answers: Answer,
        policy: Policy = POLICY,
        most_waiting: int = 1_000,
        retry_seconds: tuple[float, float, float] = (0.01, 0.01, 0.01),
    ) -> None:
        self.name = f"forward-{uuid.uuid4()}"
        """What its waiting is known by, which is the process' own."""
        self.ledger = MemoryLedger()
        self.loops = ScriptedLoops(*answers)
        self.limiter = OpenLimiter()
        self.dead_letters = RecordingDeadLetters()
        self.retries = MemoryRetries()
        self.clock = Clock()
        self.sleeps = Sleeps()
        self.policy = policy
        self.most_waiting = most_waiting
        self.tiers = [Tier(topic, seconds) for topic, seconds in zip(TOPICS, retry_seconds, strict=True)]
        self.forwarder = self.restarted()

    def restarted(self) -> Forwarder:
        """A new forwarder on the same world: what a worker is after a crash."""
        self.waiting = Waiting(self.name, "loops", backoff=Backoff(1.0, 8.0), sleep=self.sleeps)
        self.key = ApiKey(self.name, self.loops, self.limiter, sleep=self.sleeps)
        self.forwarder = Forwarder(
            self.ledger,
            self.loops,
            self.limiter,
            self.dead_letters,
            self.retries,
            self.tiers,
            self.policy,
            self.waiting,
            self.key,
            clock=self.clock,
            new_backlog=lambda: Backlog(self.most_waiting),
        )
        return self.forwarder

    async def handle(self, *records: Record) -> Counter[Reason]:
        return await self.forwarder.handle(records)

    @asynccontextmanager
    async def retrying(self, start: int = 0) -> AsyncIterator[Counter[Reason]]:
        """Give what is written to the retry topics, from ``start`` on, to the forwarder as long as the block runs."""
        outcomes: Counter[Reason] = Counter()

        async def read(record: Record) -> None:
            outcomes.update(await self.forwarder.handle([record]))

        async def follow() -> None:
            position = start
            async with asyncio.TaskGroup() as group:
                while True:
                    while position < len(self.retries.written):
                        group.create_task(read(self.retries.written[position]))
                        position += 1
                    await asyncio.sleep(0)

        task = asyncio.create_task(follow())
        try:
            yield outcomes
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
