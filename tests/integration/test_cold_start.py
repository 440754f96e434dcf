"""A cold start: every process is new and has no state of its own, and the changelogs hold what compaction has left of them."""

from collections import Counter

from streams.settings import Settings
from streams.topics import CLASSIFY_CHANGELOG, NORMALISE_CHANGELOG
from tests.integration.test_verify import post, verified, working
from tests.topic_io import COMPACTED_AT_ONCE, alter_topic, read_all
from tests.waiting import until

CHANGELOGS = (NORMALISE_CHANGELOG.name, CLASSIFY_CHANGELOG.name)


def copies(settings: Settings) -> list[int]:
    """For each changelog, how many records its most frequent key has there."""
    return [max(Counter((message.partition(), message.key()) for message in read_all(settings, name)).values()) for name in CHANGELOGS]


async def test_cold_start_rebuilds_every_table_from_its_compacted_changelog_and_verify_is_clean(stage_settings: Settings) -> None:
    for name in CHANGELOGS:
        alter_topic(stage_settings, name, COMPACTED_AT_ONCE)
    async with working(stage_settings) as (settings, run):
        for seed in (21, 22, 23):
            await post(settings, run, seed)

    await until(lambda: max(copies(stage_settings)) <= 3, "both changelogs compacted")
    async with working(stage_settings) as (settings, run):
        await post(settings, run, seed=24)

    report = await verified(settings)
    assert report.clean, report.differences()
