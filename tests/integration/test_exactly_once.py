"""The classify worker on a real broker: killed in mid-load, it loses, doubles and invents nothing."""

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import orjson

from agents.audit_events import rfc3339
from streams.embedded.stack import environment_of
from streams.settings import Settings
from tests.accounting import outcomes
from tests.topic_io import produce, read_json, until

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


def more_than(settings: Settings, events: int) -> bool:
    return outcomes(settings, "classify").total() > events


@contextmanager
def worker(settings: Settings, *stages: str, instance: str = "0", log: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, **environment_of(settings), "TIERSTREAM_INSTANCE_ID": instance}
    with log.open("ab") as output:
        process = subprocess.Popen([sys.executable, "-m", "streams.cli", "worker", *stages], env=environment, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def test_classify_killed_in_mid_load_loses_doubles_and_invents_nothing(kafka_settings: Settings, tmp_path: Path) -> None:
    records = load(events=6_000, teams=40, seed=7)
    log = tmp_path / "worker.log"
    produce(kafka_settings, "team.events", records[:3_000])

    for part in (records[3_000:4_500], records[4_500:]):
        with worker(kafka_settings, "classify", log=log) as process:
            before = outcomes(kafka_settings, "classify").total()
            await until(partial(more_than, kafka_settings, before), f"progress; {log.read_text()[-2_000:]}")
            produce(kafka_settings, "team.events", part)
            process.send_signal(signal.SIGKILL)
    with worker(kafka_settings, "classify", log=log):
        await until(
            lambda: sum(outcomes(kafka_settings, "classify").values()) >= len(records), f"the end of the load; {log.read_text()[-2_000:]}"
        )

    events = read_json(kafka_settings, "audit.events")
    told = [(event["subject"], event["data"]["metadata"]["from"], event["data"]["metadata"]["to"]) for event in events]
    ids = [event["id"] for event in events]
    assert by_team(told) == by_team(expected(records))
    assert len(set(ids)) == len(ids)
    assert sum(outcomes(kafka_settings, "classify").values()) == len(records)
    final = {event["subject"]: event["data"]["tier"] for event in read_json(kafka_settings, "tier.current")}
    assert final == {key.decode(): orjson.loads(value)["data"]["tier"] for key, value in records}
