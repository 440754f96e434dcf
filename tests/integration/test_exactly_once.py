"""The classify worker on a real broker: killed or stopped in mid-load, it loses, doubles and invents nothing."""

import asyncio
import os
import random
import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import orjson

from schemas.serialize import rfc3339
from streams.embedded.stack import environment_of
from streams.settings import Settings
from tests.accounting import outcomes
from tests.forked import ForkedProcess
from tests.topic_io import produce, read_json
from tests.waiting import until

PLANS = {"plan_hobby": "hobby", "plan_pro": "pro", "plan_growth": "growth", "plan_team": "team"}


def charge(number: int, team: str, plan: str, occurred_at: int) -> tuple[bytes, bytes]:
    data = {"event_id": f"e{number}", "subscription_id": f"sub_{team[:8]}", "occurred_at": occurred_at, "time_source": "created_at"}
    data |= {"plan_id": plan, "tier": PLANS[plan], "paid_count": 1}
    envelope = {"specversion": "1.0", "id": f"f{number}", "source": "test", "type": "subscription.charged", "subject": team}
    return team.encode(), orjson.dumps(envelope | {"time": rfc3339(occurred_at), "data": data})


def load(events: int, teams: int, seed: int) -> list[tuple[bytes, bytes]]:
    chance = random.Random(seed)
    names = [str(uuid.UUID(int=chance.getrandbits(128), version=4)) for _ in range(teams)]
    now = int(time.time()) - events
    return [charge(number, chance.choice(names), chance.choice(list(PLANS)), now + number) for number in range(events)]


def expected(records: list[tuple[bytes, bytes]]) -> list[tuple[str, str, str]]:
    """(team, from, to) of each transition, by hand: this load has nothing but charges in order."""
    tiers: dict[str, str] = {}
    found = []
    for key, value in records:
        team, tier = key.decode(), str(orjson.loads(value)["data"]["tier"])
        before = tiers.get(team, "free")
        if before != tier:
            found.append((team, before, tier))
        tiers[team] = tier
    return found


def by_team(transitions: list[tuple[str, str, str]]) -> dict[str, list[tuple[str, str, str]]]:
    found: dict[str, list[tuple[str, str, str]]] = {}
    for transition in transitions:
        found.setdefault(transition[0], []).append(transition)
    return found


def assert_emitted_once(settings: Settings, records: list[tuple[bytes, bytes]]) -> None:
    """Fail unless ``audit.events`` holds each team's transitions in order, each once."""
    events = read_json(settings, "audit.events")
    emitted = [(event["subject"], event["data"]["metadata"]["from"], event["data"]["metadata"]["to"]) for event in events]
    ids = [event["id"] for event in events]
    assert by_team(emitted) == by_team(expected(records))
    assert len(set(ids)) == len(ids)


def more_than(settings: Settings, events: int) -> bool:
    return outcomes(settings, "classify").total() > events


@contextmanager
def worker(settings: Settings, *stages: str, instance: str = "0", log: Path) -> Iterator[ForkedProcess]:
    environment = {**os.environ, **environment_of(settings), "TIERSTREAM_INSTANCE_ID": instance}
    with log.open("ab") as output:
        process = ForkedProcess("streams.cli", ["worker", *stages], env=environment, stdout=output.fileno(), stderr=output.fileno())
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def interrupted_twice(settings: Settings, log: Path, number: signal.Signals) -> list[int]:
    """Send a signal to classify in the middle of a load, twice, and compare what it leaves with the oracle. Returns its exit statuses."""
    records = load(events=6_000, teams=40, seed=7)
    statuses = []
    for first, part in ((records[:2_000], records[2_000:3_500]), (records[3_500:5_000], records[5_000:])):
        produce(settings, "team.events", first)
        with worker(settings, "classify", log=log) as process:
            before = outcomes(settings, "classify").total()
            await until(partial(more_than, settings, before), f"progress; {log.read_text()[-2_000:]}")
            produce(settings, "team.events", part)
            process.send_signal(number)
            statuses.append(await asyncio.to_thread(process.wait, 30))
    with worker(settings, "classify", log=log):
        await until(
            lambda: sum(outcomes(settings, "classify").values()) >= len(records), f"the end of the load; {log.read_text()[-2_000:]}"
        )

    assert_emitted_once(settings, records)
    assert sum(outcomes(settings, "classify").values()) == len(records)
    final = {event["subject"]: event["data"]["tier"] for event in read_json(settings, "tier.current")}
    assert final == {key.decode(): orjson.loads(value)["data"]["tier"] for key, value in records}
    return statuses


async def test_classify_killed_in_mid_load_loses_doubles_and_invents_nothing(kafka_settings: Settings, tmp_path: Path) -> None:
    assert await interrupted_twice(kafka_settings, tmp_path / "worker.log", signal.SIGKILL) == [-signal.SIGKILL] * 2


async def test_classify_terminated_in_mid_load_ends_in_order_and_loses_doubles_and_invents_nothing(
    kafka_settings: Settings, tmp_path: Path
) -> None:
    assert await interrupted_twice(kafka_settings, tmp_path / "worker.log", signal.SIGTERM) == [0, 0]
