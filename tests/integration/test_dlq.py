"""``tierstream dlq`` through the command line, on what real stages leave on a real broker."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import orjson
import pytest
from confluent_kafka import Message
from pydantic import SecretStr
from typer.testing import CliRunner, Result

from agents.registry import stage_factory
from schemas.reasons import Reason
from streams.cli import app
from streams.cli.verify import verify_running
from streams.embedded.stack import environment_of
from streams.errors import Fenced, TierstreamError
from streams.kafka.dead_letters import Origin, dead_letter_headers
from streams.operate.dead_letters.outcomes import Written
from streams.operate.dead_letters.writer import TransactionalOutcomes
from streams.settings import Settings
from streams.stores.pool import connect
from tests.forked import operated, tierstream
from tests.sinks import served_sink
from tests.topic_io import read_all, read_json
from tests.waiting import blocked_until
from tests.webhooks import SUBSCRIPTION, TEAM, body
from tests.workers import land, running

COMMAND = [sys.executable, "-m", "streams.cli", "dlq"]
WHY = ("--because", "a test")


def dlq(settings: Settings, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    """Run a command in this process."""
    for name, value in environment_of(settings).items():
        monkeypatch.setenv(name, value)
    return CliRunner().invoke(app, ["dlq", *arguments])


def answered(result: Result) -> dict[str, object]:
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    found: dict[str, object] = json.loads(result.stdout)
    return found


def park(settings: Settings, count: int, *, reason: Reason = Reason.UNKNOWN_PLAN, first: int = 0, replays: int = 0) -> None:
    """Land dead letters as normalise writes them, of keys that each have several."""
    letters = []
    for number in range(first, first + count):
        origin = Origin("normalise", settings.topic_prefix + "razorpay.webhooks", number % 7 % settings.partitions, number)
        headers = dead_letter_headers([("n", b"%d" % number), ("dlq-replays", b"%d" % replays)], origin, reason, "why")
        letters.append((b"key-%d" % (number % 7), b'{"n": %d}' % number, headers, -1))
    land(settings, "dead.letters", letters)


def replayed(settings: Settings, topic: str = "razorpay.webhooks") -> list[int]:
    return [json.loads(message.value() or b"")["n"] for message in read_all(settings, topic)]


def in_order(numbers: list[int]) -> bool:
    """Whether the records of each key came in the order of their source."""
    keys: dict[int, list[int]] = {}
    for number in numbers:
        keys.setdefault(number % 7, []).append(number)
    return all(of_key == sorted(of_key) for of_key in keys.values())


async def command(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, beside the stages in this one."""
    return await operated(settings, "dlq", *arguments)


async def test_replay_of_an_unknown_plan_ends_with_the_tier_set_and_everything_accounted_for(
    stage_settings: Settings, tmp_path: Path
) -> None:
    plans = tmp_path / "plans.toml"
    plans.write_text('plan_pro = "pro"\n')
    charge = orjson.dumps(body(subscription={"plan_id": "plan_2019"}, created_at=int(time.time()) - 60))
    headers = [("razorpay-event-id", b"charge-1"), ("received-at", b"%d" % (time.time() * 1000))]
    async with served_sink() as loops:
        settings = stage_settings.model_copy(
            update={"plans": plans, "loops_base_url": loops.url, "loops_api_key": SecretStr("key"), "loops_rate_per_second": 1_000.0}
        )
        async with running(settings, *(stage_factory(settings, name) for name in ("normalise", "classify", "audit", "forward"))) as run:
            land(settings, "razorpay.webhooks", [(SUBSCRIPTION.encode(), charge, headers, -1)] * 2)
            await run.until(lambda: len(read_all(settings, "dead.letters")) == 2, "the charge parked, and its second delivery")

            too_early = await command(settings, "replay", "--at", "dead.letters:99:0", *WHY, "--json")
            assert (too_early.returncode, json.loads(too_early.stdout)["matched"]) == (1, 0)
            assert too_early.stderr.startswith("tierstream: No dead letter that matches is at dead.letters:99:0;")
            again = await command(settings, "replay", "--reason", "unknown_plan", "--max", "1", *WHY, "--json")
            assert json.loads(again.stdout) == {"matched": 2, "replayed": 1, "quarantined": 0, "left": 1}, again.stderr
            await run.until(lambda: len(letters_of(settings)) == 3, "the charge parked again, for its plan is still unknown")

            plans.write_text('plan_pro = "pro"\nplan_2019 = "growth"\n')
            os.kill(os.getpid(), signal.SIGHUP)
            done = await command(settings, "replay", "--reason", "unknown_plan", *WHY, "--json")
            assert json.loads(done.stdout) == {"matched": 2, "replayed": 2, "quarantined": 0, "left": 0}, done.stderr
            await run.until(lambda: tiers(settings) == {TEAM: "growth"}, "the tier of the charge")
            await run.until(lambda: asyncio.run(audited(settings)) == EXPECTED_ROWS, "one row of the charge, and one of each replay")

            report = await asyncio.to_thread(verify_running, settings)
            assert report.differences() == []
            assert len(report.notes) == 1  # that the plan was not in the file then
            assert (await command(settings, "list", "--json")).stdout.startswith('{"total": 0, "by_reason": {}, "dead_letters": []}')


EXPECTED_ROWS = Counter({"operator.replayed": 3, "billing.charge_undeliverable": 1, "subscription.upgraded": 1})


def letters_of(settings: Settings) -> list[Message]:
    return [message for message in read_all(settings, "dead.letters") if "dlq-resolves" not in dict(message.headers() or ())]


def tiers(settings: Settings) -> dict[str, str]:
    return {event["data"]["team_id"]: event["data"]["tier"] for event in read_json(settings, "tier.current")}


async def audited(settings: Settings) -> Counter[str]:
    assert settings.postgres_dsn is not None
    connection = await connect(settings.postgres_dsn.get_secret_value(), "test")
    try:
        return Counter(row["kind"] for row in await connection.fetch("select kind from audit_log"))
    finally:
        await connection.close()


def test_replay_that_is_interrupted_and_then_killed_is_finished_by_the_same_command_each_record_once(
    kafka_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 240
    park(kafka_settings, count)
    environment = {**os.environ, **environment_of(kafka_settings)}
    call = [*COMMAND, "replay", *WHY, "--rate", "20", "--json"]

    with subprocess.Popen(call, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as interrupted:
        blocked_until(lambda: replayed(kafka_settings), 30)
        interrupted.send_signal(signal.SIGINT)
        told, said = interrupted.communicate(timeout=30)
    assert interrupted.returncode == 130
    assert "the same command goes on with the rest" in said
    first = len(replayed(kafka_settings))
    assert json.loads(told) == {"matched": count, "replayed": first, "quarantined": 0, "left": count - first}

    with subprocess.Popen(call, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as killed:
        blocked_until(lambda: len(replayed(kafka_settings)) > first, 30)
        killed.kill()
        killed.communicate(timeout=30)

    done = answered(dlq(kafka_settings, monkeypatch, "replay", *WHY, "--json"))
    assert done["matched"] == done["replayed"]
    numbers = replayed(kafka_settings)
    assert sorted(numbers) == list(range(count))
    assert in_order(numbers)
    events = [event["data"]["metadata"] for event in read_json(kafka_settings, "audit.events")]
    assert len({event["at"] for event in events}) == len(events) == count
    assert {event["because"] for event in events} == {"a test"}
    assert {dict(message.headers() or ())["dlq-replays"] for message in read_all(kafka_settings, "razorpay.webhooks")} == {b"1"}
    assert answered(dlq(kafka_settings, monkeypatch, "replay", *WHY, "--json"))["matched"] == 0


def test_of_two_operators_the_later_one_takes_over_and_the_former_writes_nothing_more(kafka_settings: Settings) -> None:
    with TransactionalOutcomes(kafka_settings) as former, TransactionalOutcomes(kafka_settings) as later:
        with pytest.raises(Fenced, match="Another `tierstream dlq` has begun meanwhile"):
            former.commit([Written(kafka_settings.topic_prefix + "razorpay.webhooks", b"key", b"{}", [])])
        later.commit([Written(kafka_settings.topic_prefix + "razorpay.webhooks", b"key", b'{"n": 1}', [])])

    assert replayed(kafka_settings) == [1]


def test_quarantined_records_stay_until_one_is_named_and_discarded_ones_are_gone(
    kafka_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    park(kafka_settings, 3, replays=3)
    park(kafka_settings, 2, reason=Reason.MALFORMED, first=3)

    found = answered(dlq(kafka_settings, monkeypatch, "list", "--json"))
    assert (found["total"], found["by_reason"]) == (5, {"unknown_plan": 3, "malformed": 2})
    shown = found["dead_letters"]
    assert isinstance(shown, list)
    at = next(each["at"] for each in shown if each["quarantined"])

    quarantined = dlq(kafka_settings, monkeypatch, "replay", "--reason", "unknown_plan", *WHY, "--json")
    assert (quarantined.exit_code, answered(quarantined)) == (1, {"matched": 3, "replayed": 0, "quarantined": 3, "left": 0})
    tried = answered(dlq(kafka_settings, monkeypatch, "discard", "--reason", "malformed", "--dry-run", *WHY, "--json"))
    assert tried == {"matched": 2, "discarded": 0, "quarantined": 0, "left": 2}
    named = answered(dlq(kafka_settings, monkeypatch, "replay", "--at", at, "--quarantined", *WHY, "--json"))
    assert named == {"matched": 1, "replayed": 1, "quarantined": 0, "left": 0}
    gone = answered(dlq(kafka_settings, monkeypatch, "discard", "--reason", "malformed", "--yes", *WHY, "--json"))
    assert gone == {"matched": 2, "discarded": 2, "quarantined": 0, "left": 0}

    for action in ("replay", "discard"):
        closed = dlq(kafka_settings, monkeypatch, action, "--at", at, *WHY)
        assert (closed.exit_code, closed.stdout) == (1, "")
        assert closed.stderr == f"tierstream: The dead letter at {at} is closed: it was replayed or discarded before.\n"
    assert dlq(kafka_settings, monkeypatch, "replay", "--reason", "malformed", *WHY).exit_code == 0
    assert answered(dlq(kafka_settings, monkeypatch, "list", "--json"))["by_reason"] == {"unknown_plan": 2}
    assert len(replayed(kafka_settings)) == 1
    assert Counter(event["type"] for event in read_json(kafka_settings, "audit.events")) == {
        "operator.replayed": 1,
        "operator.discarded": 2,
    }


def test_dry_run_and_list_show_places_and_keys_whole_in_80_columns(kafka_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "sub_" + "7" * 60
    letters = []
    for number in range(11):
        origin = Origin("normalise", kafka_settings.topic_prefix + "razorpay.webhooks", 0, number)
        headers = dead_letter_headers([], origin, Reason.UNKNOWN_PLAN, "The plan is in no file. " * 10)
        letters.append((key.encode(), b"{}", headers, 1))
    land(kafka_settings, "dead.letters", letters)

    listing = dlq(kafka_settings, monkeypatch, "list").stdout
    dry_runs = [dlq(kafka_settings, monkeypatch, action, "--dry-run", *WHY).stdout for action in ("replay", "discard")]

    for number in range(10):
        row = f"dead.letters:1:{number}".ljust(17) + f"unknown_plan  normalise  {key}  0"
        assert all(any(line.split() == row.split() for line in text.splitlines()) for text in (listing, *dry_runs))
    assert all("dead.letters:1:10" not in text and "… and 1 more." in text for text in dry_runs)


def test_show_masks_addresses_unless_it_is_raw_and_takes_the_place_of_the_record_too(
    kafka_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = Origin("normalise", kafka_settings.topic_prefix + "razorpay.webhooks", 2, 5)
    headers = dead_letter_headers([], origin, Reason.UNKNOWN_TEAM, "Whose?")
    land(kafka_settings, "dead.letters", [(b"key", b'{"email": "kim@customer.example"}', headers, 1)])

    shown = dlq(kafka_settings, monkeypatch, "show", "--at", "razorpay.webhooks:2:5")
    assert shown.exception is None, shown.exception
    masked = shown.stdout
    raw = dlq(kafka_settings, monkeypatch, "show", "--at", "dead.letters:1:0", "--raw", "--json").stdout

    assert "unknown_team" in masked
    assert "kim@" not in masked
    assert json.loads(raw)["value"] == {"email": "kim@customer.example"}
    assert "unknown_team" in dlq(kafka_settings, monkeypatch, "list").stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("list", "--reason", "unknown_plam"), "--reason unknown_plam: no dead letter has that reason"),
        (("list", "--stage", "normalize"), "--stage normalize: there is no such stage"),
        (("list", "--since", "yesterday"), "--since yesterday is no time"),
        (("list", "--since", "200", "--until", "100"), "is not before"),
        (("show", "--at", "dead.letters:x"), "'dead.letters:x' is no place"),
        (("replay", "--quarantined", *WHY), "--quarantined is for one record"),
        (("replay", "--because", " "), "--because is empty"),
        (("replay",), "Missing option '--because'"),
        (("discard",), "Missing option '--because'"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_2(
    kafka_settings: Settings, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], sentence: str
) -> None:
    result = dlq(kafka_settings, monkeypatch, *arguments)

    error = result.exception
    assert (error.exit_code if isinstance(error, TierstreamError) else result.exit_code) == 2
    assert sentence in (str(error) if isinstance(error, TierstreamError) else result.stderr)


def test_discard_of_many_where_nobody_can_answer_changes_nothing(kafka_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    park(kafka_settings, 2)

    assert "add --yes" in str(dlq(kafka_settings, monkeypatch, "discard", *WHY).exception)

    assert answered(dlq(kafka_settings, monkeypatch, "list", "--json"))["total"] == 2


def test_without_kafka_it_is_one_sentence_and_exit_1(kafka_settings: Settings) -> None:
    away = kafka_settings.model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:9"})
    environment = {**os.environ, **environment_of(away)}

    run = tierstream("dlq", "list", env=environment)

    assert run.returncode == 1
    assert run.stderr.startswith("tierstream: Kafka")
    assert len(run.stderr.strip().splitlines()) == 1
