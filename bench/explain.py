"""How long ``tierstream explain`` takes beside a million events of other teams on the log.

    python -m bench.explain [EVENTS]

Starts an embedded stack of its own, fills the log, and runs the command as an operator does, once for each kind of thing that can be asked for.
"""

import asyncio
import re
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from confluent_kafka import Producer
from rich.console import Console

from agents.audit import decide as audit
from agents.classify.stage import ClassifyStage
from agents.normalise.plans import load_rules
from agents.normalise.stage import NormaliseStage
from streams.embedded.kafka import EmbeddedKafka
from streams.embedded.postgres import EmbeddedPostgres
from streams.embedded.stack import EXAMPLE_PLANS, environment_of
from streams.engine.replay import replay
from streams.engine.transactions import Output
from streams.kafka.client import producer_config
from streams.kafka.partitioner import partition_of
from streams.kafka.records import Record
from streams.kafka.topic_admin import apply
from streams.operate.logs import KafkaLogs
from streams.settings import Settings, load_settings
from streams.stores.audit_log import AuditRow
from streams.stores.migrate import migrate
from streams.stores.pool import connect
from streams.topics import AUDIT_EVENTS, RAZORPAY_WEBHOOKS, TEAM_EVENTS
from tests.load import TeamScenario, team_scenarios

EVENTS = 1_000_000
EVENTS_A_TEAM = 25
_TEMPLATES = 400
"""Teams whose events are decided for real; the others have the same events under ids of their own."""


_IDS = re.compile(rb'sub_[0-9A-Za-z]{14}|"(?:event_id|causationid|correlationid)":"[0-9A-Za-z]{14}(?=")')
"""The ids in a record's key and value that belong to one team."""


_console = Console(highlight=False)


class _Bulk:
    """Produces many records, and waits for all of them at the end of the block."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producer = Producer({**producer_config(settings), "linger.ms": 50, "queue.buffering.max.messages": 1_000_000})

    def send(self, output: Output) -> None:
        """Produce a record to the partition of its key."""
        partition = partition_of(output.key or b"", self._settings.partitions)
        while True:
            try:
                self._producer.produce(output.topic, output.value, output.key, partition, headers=list(output.headers))
                return
            except BufferError:
                self._producer.poll(0.1)

    def finish(self) -> None:
        """Return once everything is acknowledged."""
        assert self._producer.flush(120) == 0


def _headers(event_id: str, now: float) -> list[tuple[str, bytes]]:
    return [("razorpay-event-id", event_id.encode()), ("received-at", b"%d" % (now * 1000))]


def _landed(settings: Settings, team_scenario: TeamScenario) -> list[Output]:
    topic = RAZORPAY_WEBHOOKS.full_name(settings)
    found = []
    for webhook in team_scenario.webhooks:
        key = webhook.body.partition(b'"subscription": {"entity": {"id": "')[2].partition(b'"')[0]
        found.append(Output(topic, key, webhook.body, _headers(webhook.event_id, time.time())))
    return found


def _decided(settings: Settings, landed: list[Output]) -> list[Output]:
    """Return what follows from a team's webhooks: facts, and audit events."""
    normalise, classify = NormaliseStage(settings, load_rules(settings)), ClassifyStage(settings)
    now = int(time.time() * 1000)

    def consumed(outputs: list[Output]) -> list[Record]:
        return [
            Record(each.topic, 0, offset, now, 1, each.key, each.value, None, 0, 0, each.headers) for offset, each in enumerate(outputs)
        ]

    emitted = [output for each in replay(normalise, consumed(landed), 1) for output in each.step.outputs]
    facts = [output for output in emitted if output.topic == TEAM_EVENTS.full_name(settings)]
    classified = [output for each in replay(classify, consumed(facts), 1) for output in each.step.outputs]
    return [*emitted, *classified]


def _renamed(output: Output, was: str, now: str, number: int) -> Output:
    """Return the same record of another team: its team, its subscriptions and its event ids are others."""
    tail = b"%06d" % number

    def other(text: bytes) -> bytes:
        return _IDS.sub(lambda found: found[0] + tail, text.replace(was.encode(), now.encode()).replace(was[:8].encode(), now[:8].encode()))

    headers = [(name, value + tail if name == "razorpay-event-id" and value else value) for name, value in output.headers]
    return Output(output.topic, other(output.key or b""), other(output.value or b""), headers)


async def _fill(settings: Settings, events: int) -> tuple[str, str]:
    """Fill log and tables; return the team that is explained and the id of one of its events."""
    teams = events // EVENTS_A_TEAM
    templates = team_scenarios(7, _TEMPLATES, _TEMPLATES * EVENTS_A_TEAM, int(time.time()) - 86_400)
    written = [(each.team, landed := _landed(settings, each), _decided(settings, landed)) for each in templates]
    bulk, rows, count = _Bulk(settings), list[AuditRow](), 0
    audit_events = AUDIT_EVENTS.full_name(settings)
    for number in range(teams):
        team, landed, decided = written[number % _TEMPLATES]
        named = team if number < _TEMPLATES else str(uuid.UUID(int=uuid.UUID(team).int ^ (number << 64) ^ (number << 96)))
        for output in (*landed, *decided):
            sent = output if named == team else _renamed(output, team, named, number)
            bulk.send(sent)
            count += 1
            if sent.topic == audit_events:
                row = audit.decide(sent.value)
                assert isinstance(row, AuditRow)
                rows.append(row if named == team else row._replace(id=uuid.uuid4()))
    bulk.finish()
    connection = await connect(settings.postgres_dsn.get_secret_value() if settings.postgres_dsn else "", "bench")
    try:
        await connection.copy_records_to_table("audit_log", records=rows, columns=AuditRow._fields)
        await connection.execute("analyze audit_log")
    finally:
        await connection.close()
    _console.print(f"{count:,} records on the log, {len(rows):,} rows")
    return templates[0].team, templates[0].webhooks[-1].event_id


def _measure(settings: Settings, what: str, subject: str) -> None:
    call = [sys.executable, "-m", "streams.cli", "explain", subject, "--json"]
    for _ in range(3):
        started = time.monotonic()
        result = subprocess.run(
            call, env={**environment_of(settings), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False
        )
        _console.print(f"{what}: {time.monotonic() - started:.2f} s (exit {result.returncode}) {result.stderr.strip()[-200:]}")


async def _run(events: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        kafka, postgres = EmbeddedKafka(Path(directory) / "kafka"), EmbeddedPostgres(Path(directory) / "postgres", durable=False)
        try:
            await asyncio.gather(kafka.start(), postgres.start())
            dsn = await postgres.create_database("bench")
            settings = load_settings(
                kafka_bootstrap_servers=kafka.bootstrap_servers, partitions=8, replication_factor=1, plans=EXAMPLE_PLANS, postgres_dsn=dsn
            )
            await asyncio.to_thread(apply, settings)
            await migrate(dsn)
            team, event_id = await _fill(settings, events)
            with KafkaLogs(settings) as logs:
                bounds = logs.bounds(RAZORPAY_WEBHOOKS)
                _console.print("razorpay.webhooks:", ", ".join(f"{each.end:,}" for each in bounds.values()))
            for what, subject in (("team", team), ("event", event_id)):
                await asyncio.to_thread(_measure, settings, what, subject)
        finally:
            await asyncio.gather(kafka.stop(), postgres.stop())


if __name__ == "__main__":
    asyncio.run(_run(int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS))
