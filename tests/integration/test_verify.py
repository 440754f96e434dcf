"""``tierstream verify`` on what the real stages leave on a real broker and in a real database."""

import asyncio
import contextlib
import json
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from pydantic import SecretStr

from agents.registry import stage_factory
from schemas.reasons import Reason
from streams.cli.verify import verify_running
from streams.embedded.stack import EXAMPLE_PLANS
from streams.kafka.client import client_config
from streams.operate.verify import Options
from streams.operate.verify.report import Report
from streams.operate.verify.snapshot import Snapshot, SnapshotWriter
from streams.settings import Settings
from streams.stores.pool import connect
from streams.topics import AUDIT_EVENTS, DEAD_LETTERS, RAZORPAY_WEBHOOKS, TEAM_EVENTS
from tests.accounting import outcomes
from tests.forked import operated
from tests.load import team_scenarios
from tests.sinks import served_sink
from tests.topic_io import produce, read_all, read_json
from tests.workers import Run, land, running

STAGES = ("normalise", "classify", "audit", "forward")
WEBHOOKS = 160


@contextlib.asynccontextmanager
async def working(stage_settings: Settings) -> AsyncIterator[tuple[Settings, Run]]:
    """The four stages at work, with a fake Loops."""
    async with served_sink() as loops:
        changes = {"plans": EXAMPLE_PLANS, "loops_base_url": loops.url, "loops_api_key": SecretStr("key"), "loops_rate_per_second": 1_000.0}
        settings = stage_settings.model_copy(update=changes)
        async with running(settings, *(stage_factory(settings, name) for name in STAGES)) as run:
            yield settings, run


async def post(settings: Settings, run: Run, seed: int) -> None:
    """Land complete scenarios of teams, and poison, and return once every stage has worked all of it in."""
    records = [
        (json.loads(webhook.body)["payload"]["subscription"]["entity"]["id"].encode(), webhook.body, headers_of(webhook.event_id), -1)
        for team_scenario in team_scenarios(seed, 12, WEBHOOKS, int(time.time()) - 3_600)
        for webhook in team_scenario.webhooks
    ]
    before = outcomes(settings, "normalise")
    land(settings, "razorpay.webhooks", [*records, *records[:10]])
    for topic in ("razorpay.webhooks", "team.events"):
        produce(settings, topic, [(b"poison-%d" % seed, b"\xff no JSON")])
    landed = before.total() + len(records) + 11
    await run.decided(settings, "normalise", landed)
    counted = outcomes(settings, "normalise")
    await run.decided(settings, "classify", counted[Reason.NORMALISED] + counted[Reason.MALFORMED])
    emitted = [event["id"] for event in read_json(settings, "audit.events")]
    deadline = time.monotonic() + 30
    while open_ := await open_accounts(settings, emitted):
        assert time.monotonic() < deadline, f"{open_} audit events without their row or their mail"
        await asyncio.sleep(0.1)


async def open_accounts(settings: Settings, emitted: list[str]) -> int:
    """How many of these audit events have no row yet, or no settled mail."""
    connection = await connect(dsn_of(settings), "test")
    try:
        return int(
            await connection.fetchval(
                "select count(*) from unnest($1::uuid[]) as known (id) left join audit_log a using (id) left join forwarder_sent f on f.audit_id = id"
                " where a.id is null or (a.kind <> 'billing.charge_undeliverable' and coalesce(f.classification, 'in_flight') = 'in_flight')",
                emitted,
            )
        )
    finally:
        await connection.close()


def headers_of(event_id: str) -> list[tuple[str, bytes]]:
    return [("razorpay-event-id", event_id.encode()), ("received-at", b"%d" % (time.time() * 1000))]


def dsn_of(settings: Settings) -> str:
    assert settings.postgres_dsn is not None
    return settings.postgres_dsn.get_secret_value()


async def verified(settings: Settings, options: Options | None = None) -> Report:
    return await asyncio.to_thread(verify_running, settings, options)


async def written(settings: Settings, path: Path) -> Report:
    with SnapshotWriter(path) as writer:
        return await verified(settings, Options(writer=writer))


async def command(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    return await operated(settings, "verify", *arguments)


async def test_verify_what_the_stages_left_is_clean_and_one_deleted_row_is_named(stage_settings: Settings) -> None:
    async with working(stage_settings) as (settings, run):
        await post(settings, run, seed=11)

    clean = await command(settings, "--json", "--shuffle", "10", "--seed", "5")
    assert (clean.returncode, clean.stderr) == (0, "")
    emitted = json.loads(clean.stdout)
    compared = {check["name"]: check["compared"] for check in emitted["checks"]}
    assert emitted["clean"]
    assert emitted["seed"] == 5
    assert emitted["notes"] == []
    assert compared["normalise: outcomes"] == WEBHOOKS + 11
    assert compared["dead.letters"] == len(read_all(settings, "dead.letters")) >= 2
    assert compared["orders"] == 120

    connection = await connect(dsn_of(settings), "test")
    try:
        id = await connection.fetchval("delete from audit_log where id = (select min(id::text)::uuid from audit_log) returning id")
    finally:
        await connection.close()
    broken = await command(settings)
    assert broken.returncode == 1
    assert f"audit_log lacks the row {id} (" in broken.stdout
    assert "1 difference." in broken.stdout
    assert "@" not in broken.stdout
    assert "Traceback" not in broken.stderr


async def test_verify_while_the_stages_work_and_from_a_snapshot_once_retention_has_taken_the_logs(
    stage_settings: Settings, tmp_path: Path
) -> None:
    path = tmp_path / "taken"
    async with working(stage_settings) as (settings, run):
        await post(settings, run, seed=12)
        under_way = asyncio.create_task(post(settings, run, seed=13))
        while not under_way.done():
            report = await verified(settings)
            assert report.clean, report.differences()
        await under_way
        report = await written(settings, path)
        assert report.clean, report.differences()
        await asyncio.to_thread(delete_all, settings)
        await post(settings, run, seed=14)

    report = await verified(settings)
    assert report.clean, report.differences()
    assert len(report.notes) == 1
    assert "give a snapshot" in report.notes[0]

    with Snapshot(path) as snapshot:
        report = await verified(settings, Options(snapshot=snapshot, orders=2))
        assert report.clean, report.differences()
        assert report.notes == []
        (outcomes,) = [check for check in report.checks if check.name == "normalise: outcomes"]
        assert outcomes.compared == WEBHOOKS + 11
        await falsify(settings, "update audit_log set summary = 'x' where id = (select min(id::text)::uuid from audit_log)")
        assert [line.rpartition(" with ")[2] for line in (await verified(settings, Options(snapshot=snapshot))).differences()] == [
            "other content than its audit event."
        ]


async def falsify(settings: Settings, statement: str) -> None:
    connection = await connect(dsn_of(settings), "test")
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def delete_all(settings: Settings) -> None:
    """Do as retention does once everything is too old: the logs begin at their ends."""
    names = [topic.full_name(settings) for topic in (RAZORPAY_WEBHOOKS, TEAM_EVENTS, AUDIT_EVENTS, DEAD_LETTERS)]
    everything = [TopicPartition(name, number, -1) for name in names for number in range(settings.partitions)]
    admin = AdminClient(client_config(settings))
    for future in admin.delete_records(everything).values():
        future.result(30)


async def test_verify_of_a_database_that_is_away_is_one_sentence(kafka_settings: Settings) -> None:
    settings = kafka_settings.model_copy(update={"plans": EXAMPLE_PLANS, "postgres_dsn": SecretStr("postgresql://nobody@127.0.0.1:1/none")})

    result = await command(settings)

    assert result.returncode == 1
    assert result.stderr.startswith("tierstream: PostgreSQL at 127.0.0.1:1/none does not answer")
    assert len(result.stderr.splitlines()) == 1
