"""A worker that stalls beyond its session with a transaction under way, and wakes up beside the one that has its partition now."""

import asyncio
import signal
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from streams.cli.verify import verify_running
from streams.kafka.partitioner import partition_of
from streams.operate.verify.report import Report
from streams.settings import Settings
from tests.accounting import CHANGELOGS
from tests.conftest import PARTITIONS
from tests.faults.crash_points import stopping
from tests.faults.flow import CALM_SECONDS, Crashing, charges, flow, judged, land, named_in, work
from tests.topic_io import COMPACTED_AT_ONCE, alter_topic, read_all
from tests.verdict import Findings, worked_in
from tests.waiting import until
from tests.workers import land as transaction

CHANGELOG = CHANGELOGS["classify"]
PARTITION = 0
TEAMS = [
    team
    for team in (str(uuid.UUID(int=number << 96, version=4)) for number in range(1, 100))
    if partition_of(team.encode(), PARTITIONS) == PARTITION
][:20]
"""Teams of one partition: what happens to it is then the whole result."""

ABORTED = "a transaction was aborted, for the group has gone on"
WAITING = "waiting for a transaction of a former owner to be decided"
MOVED = "the group's offsets moved while positions were read"


@dataclass
class Outcome:
    """What was left in the end: the oracles' findings, what ``verify`` says, and the last lines of both workers."""

    findings: Findings
    verified: Report
    first: str
    second: str

    def assert_exact(self) -> None:
        """Fail unless nothing is lost, doubled or invented."""
        assert self.findings.exact, f"{self.findings}\n{self.first}\n{self.second}"
        assert self.verified.clean, "\n".join(self.verified.differences())


async def test_a_stalled_worker_that_wakes_up_is_refused_and_leaves_no_trace(stage_settings: Settings) -> None:
    async with flow(stage_settings, stall_seconds=CALM_SECONDS) as settings:
        outcome = await stalled_before_its_offsets(settings)

    outcome.assert_exact()
    assert ABORTED in outcome.first
    assert "stage failed" not in outcome.first, "a member that was late is no failed one"


@pytest.mark.parametrize("mutation", ["old_generation", "without_send_offsets"])
async def test_without_its_generation_the_same_worker_leaves_differences(stage_settings: Settings, mutation: str) -> None:
    async with flow(stage_settings, stall_seconds=CALM_SECONDS) as settings:
        outcome = await stalled_before_its_offsets(settings, mutation)

    assert ABORTED not in outcome.first
    assert named_in(outcome.findings, "wrong: classify counted"), str(outcome.findings)
    assert not outcome.verified.clean


async def test_a_stalled_worker_that_had_sent_its_offsets_commits_and_the_next_owner_goes_on_from_there(stage_settings: Settings) -> None:
    async with flow(stage_settings, stall_seconds=CALM_SECONDS) as settings:
        outcome = await stalled_behind_its_offsets(settings)

    outcome.assert_exact()
    assert WAITING in outcome.second


async def test_without_the_stable_offsets_wait_the_next_owner_restores_a_table_that_is_ahead_of_its_offset(
    stage_settings: Settings,
) -> None:
    async with flow(stage_settings, stall_seconds=CALM_SECONDS) as settings, stalled_with_its_offsets(settings) as first:
        options = ("--stop", "offsets stable:1", "--mutate", "without_stable_offsets_wait")
        async with Crashing(as_member(settings, "second"), "classify", *options) as second:
            await second.until(lambda: stopping("offsets stable") in second.lines, "the group's offsets are read")
            first.send_signal(signal.SIGCONT)
            assert await first.status() == -signal.SIGKILL, str(first)
            second.send_signal(signal.SIGCONT)
            await second.until(lambda: MOVED in str(second), "what it restored is ahead of the offsets, and is restored again")
    assert WAITING not in str(second)


async def stalled_before_its_offsets(settings: Settings, *mutations: str) -> Outcome:
    """Let a worker of classify stall as it begins a transaction, another take over, the first wake up and go on; then go on from the
    compacted changelog."""
    alter_topic(settings, CHANGELOG, COMPACTED_AT_ONCE)
    mutated = [argument for mutation in mutations for argument in ("--mutate", mutation)]
    await land(settings, charges(TEAMS[:4], turns=range(10)))
    kill = ("--kill", "committed:1") if mutations else ()
    async with Crashing(as_member(settings, "first"), "classify", "--stop", "begun", *kill, *mutated) as first:
        await first.until(lambda: stopping("begun") in first.lines, "a transaction begun")
        await land(settings, charges(TEAMS, turns=range(10, 13)))
        async with Crashing(as_member(settings, "second"), "classify", *mutated) as second:
            await second.until(lambda: worked_in(settings), "the end of the topic")
            await land(settings, charges(TEAMS, turns=range(13, 16)))
            await second.until(lambda: worked_in(settings), "the end of the topic again")
            first.send_signal(signal.SIGCONT)
            if mutations:
                assert await first.status() == -signal.SIGKILL, str(first)
            else:
                await first.until(lambda: ABORTED in str(first), "its transaction refused")
    return await compacted_and_judged(settings, first, second)


async def stalled_behind_its_offsets(settings: Settings) -> Outcome:
    """Let a worker of classify stall when Kafka has its records and offsets, another join, and the first wake up and commit."""
    async with stalled_with_its_offsets(settings) as first, Crashing(as_member(settings, "second"), "classify") as second:
        await second.until(lambda: WAITING in str(second), "it waits")
        first.send_signal(signal.SIGCONT)
        assert await first.status() == -signal.SIGKILL, str(first)
        await second.until(lambda: worked_in(settings), "the end of the topic")
    return await compacted_and_judged(settings, first, second)


@asynccontextmanager
async def stalled_with_its_offsets(settings: Settings) -> AsyncIterator[Crashing]:
    """A worker of classify that has committed before, and stands still in a transaction with its offsets. It ends with its commit."""
    await land(settings, charges(TEAMS[:4], turns=range(10)))
    options = ("--stop", "offsets added:2", "--kill", "committed:2", "--mutate", "patient_broker")
    async with Crashing(as_member(settings, "first"), "classify", *options) as first:
        await first.until(lambda: worked_in(settings), "the first transaction")
        await land(settings, charges(TEAMS, turns=range(10, 13)))
        await first.until(lambda: stopping("offsets added") in first.lines, "its offsets added")
        yield first


async def compacted_and_judged(settings: Settings, first: Crashing, second: Crashing) -> Outcome:
    """Compact the changelog, work some more in from it, and judge."""
    alter_topic(settings, CHANGELOG, COMPACTED_AT_ONCE)
    await until(lambda: compacted(settings), "a changelog with one record of each key")
    await land(settings, charges(TEAMS, turns=range(16, 20)))
    await work(as_member(settings, "second"), "classify", "audit", "forward")
    return Outcome(await judged(settings), await asyncio.to_thread(verify_running, settings), str(first), str(second))


def as_member(settings: Settings, instance: str) -> Settings:
    """The settings of one member of the group."""
    return settings.model_copy(update={"instance_id": instance})


def compacted(settings: Settings) -> bool:
    """Whether the changelog holds each key once. Makes it possible, too: what a segment holds is compacted once the next has begun."""
    nudge = [(b"nudge", b"", (), PARTITION)]
    transaction(settings, CHANGELOG, nudge, transactional_id=f"{settings.topic_prefix}nudge", commit=False)
    return max(Counter((message.partition(), message.key()) for message in read_all(settings, CHANGELOG)).values()) == 1
