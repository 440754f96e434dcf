"""A worker that wakes up after its session, with a transaction begun, against the one that has taken its partition over."""

import asyncio
import signal
import uuid
from collections import Counter

from streams.cli.verify import verify_running
from streams.kafka.partitioner import partition_of
from streams.operate.verify.report import Report
from streams.settings import Settings
from tests.accounting import CHANGELOGS
from tests.conftest import PARTITIONS
from tests.faults.crash_points import stopping
from tests.faults.flow import CALM_SECONDS, Crashing, charges, flow, judged, land, named_in, work
from tests.topic_io import COMPACTED_AT_ONCE, alter_topic, read_all, until
from tests.verdict import Findings, worked_in
from tests.workers import land as transaction

CHANGELOG = CHANGELOGS["classify"]
PARTITION = 0
TEAMS = [
    team
    for team in (str(uuid.UUID(int=number << 96, version=4)) for number in range(1, 100))
    if partition_of(team.encode(), PARTITIONS) == PARTITION
][:20]
"""Teams of one partition: what happens to it is then the whole result."""


async def test_a_stalled_worker_that_wakes_up_is_fenced_and_leaves_no_trace(stage_settings: Settings) -> None:
    async with flow(stage_settings, stall_seconds=CALM_SECONDS) as settings:
        findings, verified, said = await stalled_and_awake_again(settings)

    assert "Another worker has taken over" in said
    assert findings.exact, str(findings)
    assert verified.clean, "\n".join(verified.differences())


async def test_without_fencing_the_same_worker_leaves_differences_that_are_named(stage_settings: Settings) -> None:
    async with flow(stage_settings, stall_seconds=CALM_SECONDS) as settings:
        findings, verified, said = await stalled_and_awake_again(settings, "nobody_fenced")

    assert "Another worker has taken over" not in said
    assert named_in(findings, "wrong: classify counted"), str(findings)
    assert not verified.clean


async def stalled_and_awake_again(settings: Settings, *mutations: str) -> tuple[Findings, Report, str]:
    """Let a worker of classify stall, another take over, the first wake up and write once; then go on from the compacted changelog.

    Returns what the oracles and ``verify`` say of the end, and the last lines of the first worker.
    """
    alter_topic(settings, CHANGELOG, COMPACTED_AT_ONCE)
    few, all_teams = TEAMS[:4], TEAMS
    mutated = [argument for mutation in mutations for argument in ("--mutate", mutation)]
    await land(settings, charges(few, turns=range(10)))
    async with Crashing(as_member(settings, "first"), "classify", "--stop", "begun", "--kill", "committed:1", *mutated) as first:
        await first.until(lambda: stopping("begun") in first.lines, "a transaction begun")
        await land(settings, charges(all_teams, turns=range(10, 13)))
        # The second commits no offset: whoever comes after it has nothing but the table's position to go on from.
        async with Crashing(as_member(settings, "second"), "classify", "--mutate", "offsets_kept_back", *mutated) as second:
            await second.until(lambda: worked_in(settings), "the end of the topic")
            await land(settings, charges(all_teams, turns=range(13, 16)))
            await second.until(lambda: worked_in(settings), "the end of the topic again")
            first.send_signal(signal.SIGCONT)
            status = await first.status()
    assert status == (-signal.SIGKILL if mutations else 1), str(first)
    await until(lambda: compacted(settings), "a changelog with one record of each key")
    await land(settings, charges(all_teams, turns=range(16, 20)))
    await work(as_member(settings, "second"), "classify", "audit", "forward")
    return await judged(settings), await asyncio.to_thread(verify_running, settings), str(first)


def as_member(settings: Settings, instance: str) -> Settings:
    """The settings of one member of the group."""
    return settings.model_copy(update={"instance_id": instance})


def compacted(settings: Settings) -> bool:
    """Whether the changelog holds each key once. Makes it possible, too: what a segment holds is compacted once the next has begun."""
    nudge = [(b"nudge", b"", (), PARTITION)]
    transaction(settings, CHANGELOG, nudge, transactional_id=f"{settings.topic_prefix}nudge", commit=False)
    return max(Counter((message.partition(), message.key()) for message in read_all(settings, CHANGELOG)).values()) == 1
