"""Another initial tier on a running stack: refused with the number of teams it changes, and carried out once it is accepted."""

import asyncio
from functools import partial
from pathlib import Path

import orjson

from streams.settings import Settings
from tests.factories import TEAM, billing, claim
from tests.integration.test_exactly_once import worker
from tests.topic_io import produce, read_json
from tests.waiting import until

PAYING = "3f1c1f0e-6a55-4c5c-9a39-0a4d3c1f7b02"


def tiers(settings: Settings, team: str) -> list[str]:
    """Return every tier that ``tier.current`` ever said of a team."""
    return [record["data"]["tier"] for record in read_json(settings, "tier.current") if record["subject"] == team]


def says(settings: Settings, team: str, expected: list[str]) -> bool:
    return tiers(settings, team) == expected


async def test_another_initial_tier_is_refused_until_it_is_accepted_and_then_sends_no_mail(
    kafka_settings: Settings, tmp_path: Path
) -> None:
    log = tmp_path / "worker.log"
    events = [(TEAM, claim(0)), (PAYING, billing("charged", team=PAYING))]
    produce(kafka_settings, "team.events", [(team.encode(), orjson.dumps(event)) for team, event in events])
    with worker(kafka_settings, "classify", log=log) as process:
        await until(partial(says, kafka_settings, TEAM, ["free"]), "the first tier")
        await until(partial(says, kafka_settings, PAYING, ["pro"]), "the paid tier")
        process.terminate()
        assert await asyncio.to_thread(process.wait, 30) == 0
    audited = len(read_json(kafka_settings, "audit.events"))

    other = kafka_settings.model_copy(update={"initial_tier": "hobby"})
    with worker(other, "classify", log=log) as process:
        assert await asyncio.to_thread(process.wait, 60) == 1
    assert "TIERSTREAM_INITIAL_TIER is hobby, and this worker's 2 teams were decided with free: 1 would change" in log.read_text()
    assert tiers(kafka_settings, TEAM) == ["free"]

    with worker(other, "classify", "--accept-initial-tier", log=log):
        await until(partial(says, kafka_settings, TEAM, ["free", "hobby"]), "the other tier")
    with worker(other, "classify", log=log) as process:
        produce(kafka_settings, "team.events", [(TEAM.encode(), orjson.dumps(claim(5, tier="pro")))])
        await until(partial(says, kafka_settings, TEAM, ["free", "hobby", "pro"]), "work as usual, with the other tier for good")

    assert tiers(kafka_settings, PAYING) == ["pro"]
    assert len(read_json(kafka_settings, "audit.events")) == audited + 1, "the claim's"
