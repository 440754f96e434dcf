"""The example consumers, run as another team would run them: programs of their own, against the topics that classify writes.

Those in Java and Go are run where ``make examples-test`` has built them, and skipped elsewhere.
"""

import ast
import asyncio
import re
import shutil
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest
from confluent_kafka import Producer

from schemas.kinds import TRANSITIONS, Kind
from streams.embedded.process import free_port
from streams.kafka.client import producer_config
from streams.settings import Settings
from tests.factories import T0, billing, claim, envelope, override, service
from tests.integration.test_exactly_once import worker
from tests.topic_io import produce, read_json
from tests.waiting import until

EXAMPLES = Path(__file__).parents[2] / "examples" / "consumers"
JAVA, GO = EXAMPLES / "java" / "target", EXAMPLES / "go" / "tiers"

PROGRAMS: dict[str, list[str]] = {
    "aiokafka": [sys.executable, str(EXAMPLES / "tiers.py")],
    "confluent-kafka": [sys.executable, str(EXAMPLES / "tiers_confluent.py")],
    "Java": ["java", "-cp", f"{JAVA / 'tiers.jar'}:{JAVA / 'lib'}/*", "tiers.Tiers"],
    "Go": [str(GO)],
}

Program = list[str]

ALICE = "a11ce000-0000-4000-8000-000000000001"
BOB = "b0b00000-0000-4000-8000-000000000002"
CAROL = "ca501000-0000-4000-8000-000000000003"

Line = tuple[str, ...]


@pytest.fixture(params=PROGRAMS)
def program(request: pytest.FixtureRequest) -> Program:
    """How one of the programs is started. Skips those that are not built, or are older than their source."""
    name: str = request.param
    if name == "Java":
        built, source = JAVA / "tiers.jar", EXAMPLES / "java" / "src" / "main" / "java" / "tiers" / "Tiers.java"
        if shutil.which("java") is None:
            pytest.skip("java is not installed")
    elif name == "Go":
        built, source = GO, EXAMPLES / "go" / "main.go"
    else:
        return PROGRAMS[name]
    if not built.is_file() or built.stat().st_mtime < source.stat().st_mtime:
        pytest.skip(f"the consumer in {name} is not built, or older than its source; `make examples-test` builds it")
    return PROGRAMS[name]


class Output:
    """The lines of a running program, each as its fields."""

    def __init__(self, stream: asyncio.StreamReader) -> None:
        self._stream = stream
        self.lines: list[Line] = []

    async def until(self, *fields: str, seconds: float = 30.0) -> None:
        """Read up to a line that begins with ``fields``; fail when it does not come."""
        deadline = time.monotonic() + seconds
        while not any(line[: len(fields)] == fields for line in self.lines):
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    read = await self._stream.readline()
            except TimeoutError:
                pytest.fail(f"no {fields} within {seconds:.0f} s, but {self.lines}")
            assert read, f"the program ended without {fields}: {self.lines}"
            self.lines.append(tuple(read.decode().rstrip("\n").split("\t")))


@asynccontextmanager
async def following(program: Program, settings: Settings, *options: str) -> AsyncIterator[Output]:
    """Run the program while the block runs."""
    process = await asyncio.create_subprocess_exec(*program, *options_of(settings), *options, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield Output(process.stdout)
    finally:
        process.terminate()
        async with asyncio.timeout(10):
            await process.communicate()
    assert process.returncode == 0, "SIGTERM is an orderly end"


async def printed(program: Program, settings: Settings, *options: str) -> list[Line]:
    """Run the program to the topics' ends and return what it printed."""
    process = await asyncio.create_subprocess_exec(
        *program, *options_of(settings), "--exit-at-end", *options, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    assert process.returncode == 0
    return [tuple(line.split("\t")) for line in output.decode().splitlines()]


def options_of(settings: Settings) -> list[str]:
    return [
        "--bootstrap",
        settings.kafka_bootstrap_servers,
        "--topic-prefix",
        settings.topic_prefix,
        "--group",
        f"{settings.topic_prefix}reader",
    ]


def send(settings: Settings, *events: dict[str, object]) -> None:
    produce(settings, "team.events", [(str(event["subject"]).encode(), orjson.dumps(event)) for event in events])


async def classified(settings: Settings, events: int) -> None:
    """Return once classify has written so many audit events, and with each, in its transaction, the tier that it leads to."""
    await until(lambda: len(read_json(settings, "audit.events")) == events, "classify")


def write_in_transaction(settings: Settings, team: str, tier: str, *, committed: bool) -> None:
    """Write one record of tier.current as classify does, and commit it or abort it."""
    data = {"team_id": team, "tier": tier, "since": at(0), "subscription_id": None}
    value = orjson.dumps(envelope("tier.current", data, id=tier, source="tierstream/classify", time=at(0), team=team))
    producer = Producer({**producer_config(settings), "transactional.id": f"{settings.topic_prefix}test"})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(f"{settings.topic_prefix}tier.current", value=value, key=team.encode())
    assert producer.flush(30) == 0
    if committed:
        producer.commit_transaction(30)
    else:
        producer.abort_transaction(30)


def at(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(T0 + seconds))


async def test_example_consumer_at_its_end_has_reported_every_tier_and_each_transition_once(
    program: Program, kafka_settings: Settings, tmp_path: Path
) -> None:
    send(
        kafka_settings,
        claim(0, team=ALICE),
        billing("charged", 10, plan="plan_pro", team=ALICE),
        billing("charged", 20, plan="plan_pro", team=ALICE, paid_count=2),
        billing("charged", 30, subscription="sub_B", plan="plan_team", team=BOB),
        billing("cancelled", 40, subscription="sub_B", plan="plan_team", team=BOB),
        service("near_quota_wall", 50, team=BOB, resource_type="seats", used=9, limit=10),
        override(60, "growth", team=CAROL),
    )
    with worker(kafka_settings, "classify", log=tmp_path / "worker.log"):
        await classified(kafka_settings, events=6)

    lines = await printed(program, kafka_settings)

    assert [line for line in lines if line[0] == "tier"] == [
        ("tier", ALICE, "pro", at(10)),
        ("tier", BOB, "hobby", at(40)),
        ("tier", CAROL, "growth", at(60)),
    ]
    assert sorted(line[:-1] for line in lines if line[0] == "event") == [
        ("event", ALICE, "onboarding.claimed", "free", "free", "claimed"),
        ("event", ALICE, "subscription.upgraded", "free", "pro", "upgraded"),
        ("event", BOB, "subscription.canceled", "team", "hobby", "canceled"),
        ("event", BOB, "subscription.upgraded", "free", "team", "upgraded"),
        ("event", CAROL, "admin.tier_changed", "free", "growth", "admin_changed"),
    ]
    assert {line[-1] for line in lines if line[0] == "event"} <= {str(event["id"]) for event in read_json(kafka_settings, "audit.events")}
    assert len(lines) == 8


async def test_example_consumer_run_again_has_the_whole_picture_and_no_event_twice(
    program: Program, kafka_settings: Settings, tmp_path: Path
) -> None:
    send(kafka_settings, billing("charged", 10, team=ALICE))
    with worker(kafka_settings, "classify", log=tmp_path / "worker.log"):
        await classified(kafka_settings, events=1)
    first = await printed(program, kafka_settings)

    second = await printed(program, kafka_settings)

    assert sorted(line[0] for line in first) == ["event", "tier"]
    assert second == [("tier", ALICE, "pro", at(10))]


async def test_example_consumer_follows_changes_and_passes_over_what_it_does_not_know(
    program: Program, kafka_settings: Settings, tmp_path: Path
) -> None:
    send(kafka_settings, billing("charged", 10, team=ALICE))
    with worker(kafka_settings, "classify", log=tmp_path / "worker.log"):
        await classified(kafka_settings, events=1)
        async with following(program, kafka_settings) as output:
            await output.until("tier", ALICE, "pro", at(10))

            send(kafka_settings, billing("charged", 20, plan="plan_growth", team=ALICE))
            await output.until("now", ALICE, "growth", at(20))

            later = envelope("tier.forecast", {"tier": "team"}, id="1", source="a later version", time=at(30))
            produce(
                kafka_settings,
                "tier.current",
                [(ALICE.encode(), orjson.dumps(later)), (ALICE.encode(), b"no JSON"), (ALICE.encode(), None)],
            )
            produce(kafka_settings, "audit.events", [(ALICE.encode(), orjson.dumps(later)), (ALICE.encode(), None), (None, b"no JSON")])
            await output.until("gone", ALICE)

            send(kafka_settings, billing("charged", 40, subscription="sub_B", plan="plan_hobby", team=BOB))
            await output.until("now", BOB, "hobby", at(40))
            await output.until("event", BOB, "subscription.upgraded", "free", "hobby")

    assert [line for line in output.lines if line[0] != "event"] == [
        ("tier", ALICE, "pro", at(10)),
        ("now", ALICE, "growth", at(20)),
        ("gone", ALICE),
        ("now", BOB, "hobby", at(40)),
    ]
    assert sorted(line[1:5] for line in output.lines if line[0] == "event") == [
        (ALICE, "subscription.upgraded", "free", "pro"),
        (ALICE, "subscription.upgraded", "pro", "growth"),
        (BOB, "subscription.upgraded", "free", "hobby"),
    ]


async def test_example_consumer_never_shows_what_an_aborted_transaction_said(program: Program, kafka_settings: Settings) -> None:
    for committed, tier in ((True, "pro"), (False, "team")):
        write_in_transaction(kafka_settings, ALICE, tier, committed=committed)

    assert await printed(program, kafka_settings) == [("tier", ALICE, "pro", at(0))]


async def test_example_consumer_without_kafka_says_so_in_one_sentence(program: Program) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    process = await asyncio.create_subprocess_exec(*program, "--bootstrap", nowhere, stderr=asyncio.subprocess.PIPE)
    async with asyncio.timeout(60):
        _, error = await process.communicate()

    assert process.returncode == 1
    assert error.decode() == f"tiers: Kafka can not be reached at {nowhere}; check --bootstrap.\n"


async def test_example_consumer_with_a_wrong_prefix_names_the_topic_that_is_not_there(program: Program, kafka_settings: Settings) -> None:
    place = ["--bootstrap", kafka_settings.kafka_bootstrap_servers, "--topic-prefix", "nobody.has."]
    process = await asyncio.create_subprocess_exec(*program, *place, stderr=asyncio.subprocess.PIPE)
    async with asyncio.timeout(60):
        _, error = await process.communicate()

    assert process.returncode == 1
    assert re.fullmatch(r"tiers: Kafka has no topic nobody\.has\.(?:tier\.current|audit\.events); check --topic-prefix\.\n", error.decode())


@pytest.mark.parametrize(("name", "client"), [("tiers.py", "aiokafka"), ("tiers_confluent.py", "confluent_kafka")])
def test_example_consumer_in_python_imports_nothing_but_its_client_and_the_standard_library(name: str, client: str) -> None:
    tree = ast.parse((EXAMPLES / name).read_text(encoding="utf-8"))
    found = [[node.module or ""] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    found += [[each.name for each in node.names] for node in ast.walk(tree) if isinstance(node, ast.Import)]

    assert {name.split(".")[0] for names in found for name in names} - sys.stdlib_module_names == {client}


@pytest.mark.parametrize("name", ["tiers.py", "tiers_confluent.py", "java/src/main/java/tiers/Tiers.java", "go/main.go"])
def test_example_consumers_know_the_same_kinds_and_all_of_them_are_ours(name: str) -> None:
    source = (EXAMPLES / name).read_text(encoding="utf-8")

    assert set(re.findall(r'"((?:onboarding|subscription|admin)\.[a-z_]+)"', source)) == {
        Kind.CLAIMED,
        *TRANSITIONS,
        Kind.ADMIN_TIER_CHANGED,
    }
