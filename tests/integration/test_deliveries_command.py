"""``tierstream deliveries`` on the command line, with the real PostgreSQL and Kafka, and the forwarder that sends again."""

import json
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner, Result

from schemas.kinds import Kind
from schemas.reasons import Reason
from schemas.recipients import address_hash
from streams.cli import app
from streams.errors import ConfigurationError, TierstreamError
from streams.kafka.producer import AcknowledgedProducer, Record
from streams.loops.rate_limit import RateLimiter
from streams.operate.deliveries.resolve import find_events, finish, resolve
from streams.operate.logs import KafkaLogs
from streams.runtime.waiting import Backoff, Waiting
from streams.settings import Settings
from streams.stores.deliveries import Decision, Filters, Resolution, StoredDeliveries
from streams.stores.ledger import Classification, Entry, PostgresLedger
from tests.forward_doubles import forwarder_of
from tests.integration.databases import pool_of, query
from tests.sinks import ServedSink, served_sink
from tests.stage_doubles import Record as Consumed
from tests.stage_doubles import audit_event, team
from tests.topic_io import produce, read_all

OLD = datetime.now(UTC).replace(microsecond=0) - timedelta(days=3)
RESOLVED = [Classification.IN_DOUBT, Classification.REFUSED, Classification.EXPIRED]


class World:
    """Mails in the ledger, with their events on ``audit.events``."""

    def __init__(self, settings: Settings, ledger: PostgresLedger, store: StoredDeliveries) -> None:
        assert settings.postgres_dsn is not None
        self.settings, self.ledger, self.store = settings, ledger, store
        self.dsn = settings.postgres_dsn.get_secret_value()
        self.ids: list[uuid.UUID] = []

    async def mail(self, classification: Classification, *, email: str = "asha@example.com", on_topic: bool = True) -> uuid.UUID:
        of = team(len(self.ids))
        event = audit_event(Kind.UPGRADED, team=of, email=email, created_at=OLD)
        audit_id = uuid.UUID(event["id"])
        entry = Entry(audit_id, uuid.UUID(of), Kind.UPGRADED, "a***@example.com", classification, OLD, "no answer", address_hash(email))
        if classification in (Classification.IN_DOUBT, Classification.REFUSED):
            await self.ledger.put(entry._replace(classification=Classification.IN_FLIGHT))
        await self.ledger.put(entry)
        if on_topic:
            produce(self.settings, "audit.events", [(of.encode(), orjson.dumps(event))])
        self.ids.append(audit_id)
        return audit_id

    async def row(self, audit_id: uuid.UUID) -> dict[str, Any]:
        (row,) = await query(self.dsn, "select * from forwarder_sent where audit_id = $1", audit_id)
        return row

    async def says(self) -> list[str]:
        return [(await self.row(audit_id))["classification"] for audit_id in self.ids]

    def events(self) -> list[dict[str, Any]]:
        """What stands on ``audit.events`` about operators."""
        values = [orjson.loads(message.value() or b"") for message in read_all(self.settings, "audit.events")]
        return [value for value in values if value["type"] == Kind.OPERATOR_RESOLVED]

    def resent(self) -> list[Consumed]:
        """The events that were put on ``audit.events`` again."""
        return [
            Consumed(message.value(), offset=message.offset() or 0, key=message.key())
            for message in read_all(self.settings, "audit.events")
            if "dlq-replays" in dict(message.headers() or [])
        ]

    async def forwarded(self, sink: ServedSink) -> list[Reason]:
        """Give what was put on the topic again to a forwarder."""
        client = sink.client(api_key="key", timeout_seconds=5)
        await client.open()
        waiting = Waiting("test", "loops", backoff=Backoff(0.01, 0.1))
        forwarder = forwarder_of(self.ledger, client, RateLimiter(10_000), waiting)
        try:
            return list((await forwarder.handle(self.resent())).elements())
        finally:
            await client.close()


@pytest.fixture
async def world(stage_settings: Settings) -> AsyncIterator[World]:
    assert stage_settings.postgres_dsn is not None
    async with pool_of(stage_settings.postgres_dsn.get_secret_value()) as pool:
        yield World(stage_settings, PostgresLedger(pool), StoredDeliveries(pool))


@pytest.fixture
def environment(stage_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in stage_settings.model_fields_set:
        value = getattr(stage_settings, name)
        text = value.get_secret_value() if hasattr(value, "get_secret_value") else str(value)
        monkeypatch.setenv(f"TIERSTREAM_{name.upper()}", text)


@pytest.fixture
def run(environment: None) -> Callable[..., Result]:
    runner = CliRunner()

    def invoke(*arguments: str) -> Result:
        with ThreadPoolExecutor(1) as thread:  # the command has an event loop of its own
            return thread.submit(runner.invoke, app, ["deliveries", *arguments]).result()

    return invoke


def fails(result: Result, expected: type[TierstreamError], words: str) -> int:
    assert isinstance(result.exception, expected), result.exception
    assert words in str(result.exception)
    return result.exception.exit_code


async def test_list_counts_by_classification_and_show_tells_all_of_one(world: World, run: Any) -> None:
    for classification in (*RESOLVED, Classification.SENT, Classification.SENT):
        await world.mail(classification, on_topic=False)

    listed = run("list", "--json")
    value = json.loads(listed.stdout)
    assert (value["total"], value["by_classification"]) == (5, {"sent": 2, "expired": 1, "in_doubt": 1, "refused": 1})
    assert len(value["deliveries"]) == 5
    some = json.loads(run("list", "--json", "--classification", "in_doubt", "--team", team(0), "--since", "2026-01-01").stdout)
    assert [row["audit_id"] for row in some["deliveries"]] == [str(world.ids[0])]
    assert json.loads(run("list", "--json", "--until", "2020-01-01T00:00:00Z").stdout)["total"] == 0
    assert "in_doubt" in run("list").stdout

    shown = json.loads(run("show", str(world.ids[0]), "--json").stdout)
    assert (shown["classification"], shown["last_error"], shown["feedback"]) == ("in_doubt", "no answer", [])
    assert "a***@example.com" in run("show", str(world.ids[0])).stdout


async def test_resolve_retry_has_each_sent_once_more_with_a_key_of_its_own_and_says_so(world: World, run: Any) -> None:
    for classification in RESOLVED:
        await world.mail(classification)

    arguments = ("--as", "retry", "--classification", "in_doubt", "--classification", "refused", "--classification", "expired")
    looked = run("resolve", *arguments, "--because", "asked asha@example.com", "--dry-run", "--json")
    assert json.loads(looked.stdout) == {"matched": 3, "resolved": 0, "left": 0}
    assert await world.says() == [one.value for one in RESOLVED]

    resolved = run("resolve", *arguments, "--because", "asked asha@example.com", "--yes", "--json")
    assert json.loads(resolved.stdout) == {"matched": 3, "resolved": 3, "left": 0}, resolved.stderr
    assert await world.says() == ["in_flight"] * 3
    assert json.loads(run("resolve", *arguments, "--because", "again", "--yes", "--json").stdout)["matched"] == 0

    async with served_sink(api_key="key") as sink:
        assert await world.forwarded(sink) == [Reason.SENT] * 3
        assert await world.forwarded(sink) == [Reason.ALREADY_FINAL] * 3
        assert sorted(map(str, sink.keys)) == sorted(f"{audit_id}.1" for audit_id in world.ids)
    assert await world.says() == ["sent"] * 3
    said = world.events()
    assert {event["data"]["metadata"]["audit_id"] for event in said} == set(map(str, world.ids))
    assert {event["data"]["metadata"]["from"] for event in said} == {one.value for one in RESOLVED}
    assert {event["data"]["actor"] for event in said} == {"cli"}
    assert "asha@example.com" not in str(said)


async def test_resolve_as_sent_or_suppressed_writes_it_down_once(world: World, run: Any) -> None:
    first, second = await world.mail(Classification.IN_DOUBT), await world.mail(Classification.REFUSED, on_topic=False)

    for _ in range(2):
        assert run("resolve", str(first), "--as", "sent", "--because", "seen", "--yes").exit_code == 0
        assert run("resolve", str(second), "--as", "suppressed", "--because", "no such person", "--yes").exit_code == 0

    assert await world.says() == ["sent", "suppressed"]
    assert len(world.events()) == 2
    assert world.resent() == []


async def test_resolve_retry_of_an_address_that_is_suppressed_sends_nothing(world: World, run: Any) -> None:
    audit_id = await world.mail(Classification.REFUSED)
    await query(world.dsn, "insert into address_feedback (address_hash, complaint_at) values ($1, now())", address_hash("asha@example.com"))

    assert run("resolve", str(audit_id), "--as", "retry", "--because", "try", "--yes").exit_code == 0
    async with served_sink(api_key="key") as sink:
        assert await world.forwarded(sink) == [Reason.SUPPRESSED]
        assert sink.keys == []


async def test_resolve_retry_leaves_what_no_topic_holds_any_more(world: World, run: Any) -> None:
    gone, there = await world.mail(Classification.EXPIRED, on_topic=False), await world.mail(Classification.EXPIRED)

    result = run("resolve", str(gone), str(there), "--as", "retry", "--because", "try", "--yes")

    assert fails(result, TierstreamError, "1 mails are left") == 1
    assert await world.says() == ["expired", "in_flight"]


class EndedProducer:
    """Ends the run after so many sends."""

    def __init__(self, producer: AcknowledgedProducer, sends: int) -> None:
        self._producer, self._sends = producer, sends

    async def send_many(self, records: Sequence[Record], *, timeout_seconds: float) -> None:
        if self._sends == 0:
            raise KeyboardInterrupt
        self._sends -= 1
        await self._producer.send_many(records, timeout_seconds=timeout_seconds)


class EndedStore:
    """Ends the run before the decision is noted as published."""

    def __init__(self, store: StoredDeliveries) -> None:
        self.resolve, self.open_resolutions = store.resolve, store.open_resolutions

    async def published(self, audit_ids: Sequence[uuid.UUID]) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize("ended", ["after the ledger", "after the topic"])
async def test_resolve_that_is_ended_between_its_steps_is_finished_by_the_next(world: World, run: Any, ended: str) -> None:
    audit_id = await world.mail(Classification.IN_DOUBT)
    rows = await world.store.rows(Filters(audit_ids=[audit_id]), 1)
    decision = Decision(Resolution.RETRY, "try", "somebody", datetime(2026, 7, 1, tzinfo=UTC))
    with KafkaLogs(world.settings) as logs:
        events = find_events(logs, world.settings, rows)
    async with _producer(world.settings) as producer:
        store = world.store if ended == "after the ledger" else EndedStore(world.store)
        sends = 0 if ended == "after the ledger" else 9
        with pytest.raises(KeyboardInterrupt):
            await resolve(store, EndedProducer(producer, sends), world.settings, rows, decision, events)
    assert await world.says() == ["in_flight"]

    result = run("resolve", str(audit_id), "--as", "retry", "--because", "another reason", "--yes")

    assert result.exit_code == 0, result.exception
    assert "Finished 1" in result.stderr
    said = world.events()
    assert len(said) == (1 if ended == "after the ledger" else 2)
    assert len({json.dumps(event, sort_keys=True) for event in said}) == 1  # audit makes one row of them
    async with served_sink(api_key="key") as sink:
        assert set(await world.forwarded(sink)) <= {Reason.SENT, Reason.ALREADY_FINAL}
        assert len(sink.keys) == 1
    async with _producer(world.settings) as producer:
        assert await finish(world.store, producer, world.settings, events) == (0, [])


@asynccontextmanager
async def _producer(settings: Settings) -> AsyncIterator[AcknowledgedProducer]:
    async with AcknowledgedProducer(settings) as producer:
        yield producer


BAD: list[tuple[list[str], str, int]] = [
    (["show", "nonsense"], "is no UUID", 2),
    (["show", str(uuid.UUID(int=1))], "No mail has the audit id", 1),
    (["list", "--since", "yesterday"], "is no time", 2),
    (["list", "--team", "7"], "is no UUID", 2),
    (["resolve", "--as", "sent", "--because", "x"], "Name the mails", 2),
    (["resolve", "--as", "sent", "--because", " ", str(uuid.UUID(int=1))], "--because is empty", 2),
    (["resolve", "--as", "sent", "--because", "x", "--classification", "delivered"], "can be resolved", 2),
    (["resolve", "--as", "sent", "--because", "x", str(uuid.UUID(int=1))], "nothing was changed", 1),
]


async def test_bad_input_is_one_sentence_and_the_right_exit_code(world: World, run: Any) -> None:
    for arguments, words, code in BAD:
        assert fails(run(*arguments), TierstreamError, words) == code, arguments


async def test_bad_usage_is_2_and_without_a_terminal_nothing_is_changed(world: World, run: Any) -> None:
    audit_id = str(await world.mail(Classification.IN_DOUBT))
    await world.mail(Classification.SENT, on_topic=False)

    assert run("resolve", audit_id, "--as", "nonsense", "--because", "x").exit_code == 2
    assert run("resolve", audit_id, "--as", "sent").exit_code == 2
    assert run("list", "--classification", "nonsense").exit_code == 2
    assert fails(run("resolve", audit_id, "--as", "sent", "--because", "x"), ConfigurationError, "add --yes") == 2
    mixed = run("resolve", audit_id, str(world.ids[1]), "--as", "sent", "--because", "x", "--yes")
    assert fails(mixed, TierstreamError, "is sent; only") == 1
    assert await world.says() == ["in_doubt", "sent"]
