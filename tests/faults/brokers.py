"""What breaks in a cluster of brokers alone: leaders that die, copies that are away, restarts in turn. Of the whole stack's Kafka."""

import asyncio
import contextlib
import os
import random
import signal
import time
import uuid
from collections import Counter

import httpx
import psutil
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ClusterMetadata

from streams.embedded.stack import Stack
from tests.faults.faults import START_SECONDS
from tests.faults.traffic import service_post
from tests.waiting import until

BUSY = "razorpay.webhooks"
LOOK_SECONDS = 0.5


class BrokerFaults:
    """Faults of single brokers; each method does one while no partition lacks a copy, and returns once none does again."""

    def __init__(self, stack: Stack, chance: random.Random, count: Counter[str]) -> None:
        """``count`` is where faults are counted."""
        self._stack = stack
        self._chance = chance
        self._count = count
        self._admin = AdminClient({"bootstrap.servers": stack.kafka, "log_level": 0})

    async def kill_leader(self) -> None:
        """SIGKILL the broker that leads one of the busiest topic's partitions."""
        await self._until_in_sync()
        topic = (await self._metadata()).topics[self._stack.settings.topic_prefix + BUSY]
        leader = self._chance.choice([partition.leader for partition in topic.partitions.values() if partition.leader > 0])
        os.kill(self._pids[leader - 1], signal.SIGKILL)
        self._count["leaders_killed"] += 1
        await self._until_in_sync()

    async def pause(self, seconds: float) -> None:
        """Stop one broker from answering for ``seconds``."""
        await self._until_in_sync()
        await self._paused(self._chance.sample(self._pids, 1), seconds)
        self._count["brokers_paused"] += 1
        await self._until_in_sync()

    async def take_two_away(self, seconds: float) -> None:
        """Stop two brokers for ``seconds``: the one that is left must take nothing. Raises AssertionError where it did."""
        await self._until_in_sync()
        asking = asyncio.create_task(self._answers(seconds))
        await self._paused(self._chance.sample(self._pids, 2), seconds)
        assert 503 in await asking, f"nothing was refused in {seconds:g} s with two brokers away"
        self._count["two_brokers_away"] += 1
        await self._until_in_sync()

    async def restart_in_turn(self) -> None:
        """SIGTERM each broker, the next once the one before has all copies again."""
        await self._until_in_sync()
        for number in range(len(self._pids)):
            former = self._pids[number]
            os.kill(former, signal.SIGTERM)
            await until(lambda number=number, former=former: self._pids[number] != former, "a successor", START_SECONDS)  # type: ignore[misc]
            await self._until_in_sync()
        self._count["rolling_restarts"] += 1

    async def _answers(self, seconds: float) -> set[int]:
        """Send an event every second for so long; return the statuses that came back. 0: none did."""
        statuses, until_then = set(), time.monotonic() + seconds
        async with httpx.AsyncClient(base_url=self._stack.gateway, trust_env=False, timeout=10) as client:
            while time.monotonic() < until_then:
                event = {"kind": "near_quota_wall", "team_id": str(uuid.uuid4()), "id": str(uuid.uuid4())}
                post = service_post(event | {"data": {"resource_type": "api_calls", "used": 9, "limit": 10}})
                try:
                    statuses.add((await client.post(post.path, content=post.body, headers=post.headers)).status_code)
                except httpx.TransportError:
                    statuses.add(0)
                await asyncio.sleep(1)
        return statuses

    @property
    def _pids(self) -> list[int]:
        """The processes of the brokers, that of node 1 first."""
        return self._stack.supervisor.pids["kafka"]

    async def _paused(self, pids: list[int], seconds: float) -> None:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    async def _until_in_sync(self) -> None:
        """Return once every partition has a leader and all its copies are in sync. Raises AssertionError after a while."""
        deadline = time.monotonic() + START_SECONDS
        while lacking := await self._lacking():
            assert time.monotonic() < deadline, f"after {START_SECONDS:g} s: {lacking}"
            await asyncio.sleep(LOOK_SECONDS)

    async def _lacking(self) -> str:
        """Say which partition lacks a copy; nothing when none does."""
        with contextlib.suppress(KafkaException):  # no broker answers yet
            metadata = await self._metadata()
            for topic in metadata.topics.values():
                for partition in topic.partitions.values():
                    if partition.leader < 1 or len(partition.isrs) < len(partition.replicas):
                        return f"{topic.topic} {partition.id}: leader {partition.leader}, in sync {partition.isrs} of {partition.replicas}"
            if len(metadata.brokers) < len(self._pids):
                return f"only {len(metadata.brokers)} brokers are there"
            return "" if all(map(psutil.pid_exists, self._pids)) else "a broker has just been started again"
        return "no broker answers"

    async def _metadata(self) -> ClusterMetadata:
        return await asyncio.to_thread(self._admin.list_topics, timeout=5.0)
