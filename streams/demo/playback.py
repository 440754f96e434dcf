"""Play a scenario: deliver it to a running stack, wait until every stage has processed it, and read back what was written."""

import asyncio
import contextlib
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import httpx

from schemas.reasons import Reason
from streams.demo.accounting import Evidence
from streams.demo.deliveries import WEBHOOKS, Delivery
from streams.demo.scenario import MISSING_PLAN, MISSING_TIER, Scenario
from streams.embedded.stack import Stack
from streams.engine.replay import recorded_outcomes
from streams.errors import TierstreamError
from streams.gateway.signatures import sign_razorpay
from streams.kafka.log_reader import LogReader, committed_offsets
from streams.kafka.records import Record
from streams.operate.actions import operator_name
from streams.operate.dead_letters.filters import Filters
from streams.operate.dead_letters.letters import Action
from streams.operate.dead_letters.open_letters import OpenLetters
from streams.operate.dead_letters.outcomes import Decree
from streams.operate.dead_letters.plan import make_plan
from streams.operate.dead_letters.run import carry_out
from streams.operate.dead_letters.writer import TransactionalOutcomes
from streams.operate.logs import KafkaLogs
from streams.settings import Settings
from streams.stores.audit_log import AuditRow
from streams.stores.pool import connect
from streams.topics import (
    AUDIT_EVENTS,
    CLASSIFY_CHANGELOG,
    DEAD_LETTERS,
    NORMALISE_CHANGELOG,
    RAZORPAY_WEBHOOKS,
    TEAM_EVENTS,
    TIER_CURRENT,
    Topic,
    group_id,
)

PATIENCE_SECONDS = 30.0
"""How long nothing new may come before the demo gives up: more than a stage that dies needs to be back at work."""

_EVIDENCE = (RAZORPAY_WEBHOOKS, TEAM_EVENTS, AUDIT_EVENTS, TIER_CURRENT, DEAD_LETTERS)
_CHANGELOGS = (NORMALISE_CHANGELOG, CLASSIFY_CHANGELOG)
_READ_SECONDS = 0.05
_REQUEST_SECONDS = 10.0

OnProgress = Callable[[str], None]
"""Called with a few words on the demo's progress."""

Progress = tuple[int, int]
"""So many have come, of so many that must."""

T = TypeVar("T")


async def play(stack: Stack, scenario: Scenario, on_progress: OnProgress) -> Evidence:
    """Deliver ``scenario`` and return what the system has written when all of it is worked in.

    Raises TierstreamError, naming the stage, when what must come does not come in time.
    """
    async with _observing(stack.settings, on_progress) as observer:
        answers = await _deliver(stack, scenario, observer)
        derived = sum(len(delivery.derived) for delivery in scenario.deliveries)
        await observer.until_classified(answers, derived)
        replayed = await put_right(stack, observer)
        await observer.until_classified(answers, derived, replayed)
        records = await observer.read_evidence()
        await observer.until_handled("audit", records[AUDIT_EVENTS])
        await observer.until_handled("forward", records[AUDIT_EVENTS])
        rows, ledger = await _read_postgres(stack.postgres)
        return Evidence(
            answers=tuple(zip(scenario.deliveries, answers, strict=True)),
            webhooks=records[RAZORPAY_WEBHOOKS],
            team_events=records[TEAM_EVENTS],
            audit_events=records[AUDIT_EVENTS],
            tiers=records[TIER_CURRENT],
            dead_letters=records[DEAD_LETTERS],
            counted={"normalise": observer.counted(NORMALISE_CHANGELOG), "classify": observer.counted(CLASSIFY_CHANGELOG)},
            rows=rows,
            ledger=ledger,
            mails=await _read_mails(stack.loops),
        )


class Observer:
    """Follows what the stages count; every wait ends with TierstreamError when nothing new has come for ``patience_seconds``.

    Its calls to Kafka run in one thread, so that no cancellation closes a consumer in mid-call."""

    def __init__(self, settings: Settings, on_progress: OnProgress, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._settings = settings
        self._on_progress = on_progress
        self._patience_seconds = patience_seconds
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="observer")
        self._changelogs: LogReader | None = None
        self._records: dict[str, list[Record]] = {topic.full_name(settings): [] for topic in _CHANGELOGS}

    async def open(self) -> None:
        """Connect. Raises KafkaUnavailable."""
        self._changelogs = await self._in_thread(lambda: LogReader(self._settings, list(self._records)))

    def close(self) -> None:
        """Let go, after the call that is under way."""
        if self._changelogs is not None:
            self._thread.submit(self._changelogs.close)
        self._thread.shutdown(wait=False)

    def counted(self, changelog: Topic) -> Counter[str]:
        """How many of each outcome a stage has counted in the position rows of its changelog."""
        return recorded_outcomes(self._records[changelog.full_name(self._settings)])

    async def until_normalised(self, accepted: int) -> None:
        """Wait until normalise has worked in ``accepted`` webhooks."""
        await self._until(lambda: self._counted(NORMALISE_CHANGELOG, accepted), "webhooks worked in by normalise")

    async def until_plans_read(self, log: Path) -> None:
        """Wait until normalise, which writes this log, has read its plan file again."""

        async def check() -> Progress:
            return await self._in_thread(lambda: log.read_text(encoding="utf-8", errors="replace").count("plans_read")), 1

        await self._until(check, "plan files read again by normalise")

    async def until_classified(self, answers: Sequence[int], derived: int, replayed: int = 0) -> None:
        """Wait until classify has worked in all that follows from requests that got these answers, from so many webhooks that were replayed, and
        so many facts that stages derive: from a time that has passed, about a second after classify has learned of it."""
        await self.until_normalised(answers.count(200) + replayed)
        events = answers.count(202) + self.counted(NORMALISE_CHANGELOG)[Reason.NORMALISED] + derived
        await self._until(lambda: self._counted(CLASSIFY_CHANGELOG, events), "events worked in by classify")

    async def until_handled(self, stage: str, records: Sequence[Record]) -> None:
        """Wait until ``stage``, which has no table, has committed these ``records`` of ``audit.events``."""
        topic, group = AUDIT_EVENTS.full_name(self._settings), group_id(self._settings, stage)

        async def check() -> Progress:
            offsets = await self._in_thread(lambda: committed_offsets(self._settings, group, topic))
            return sum(record.offset < offsets.get(record.partition, 0) for record in records), len(records)

        await self._until(check, f"audit events worked in by {stage}")

    async def read_evidence(self) -> dict[Topic, tuple[Record, ...]]:
        """Return what the topics hold now, by partition and offset."""
        names = {topic.full_name(self._settings): topic for topic in _EVIDENCE}
        held: dict[Topic, list[Record]] = {topic: [] for topic in _EVIDENCE}
        for record in await self._in_thread(lambda: _read_to_end(self._settings, list(names))):
            held[names[record.topic]].append(record)
        return {topic: tuple(sorted(records, key=lambda record: (record.partition, record.offset))) for topic, records in held.items()}

    async def _counted(self, changelog: Topic, expected: int) -> Progress:
        reader = self._changelogs
        assert reader is not None  # ``open`` was called
        for record in await self._in_thread(lambda: reader.read(_READ_SECONDS)):
            self._records[record.topic].append(record)
        return self.counted(changelog).total(), expected

    async def _until(self, check: Callable[[], Awaitable[Progress]], what: str) -> None:
        last, since = -1, time.monotonic()
        while True:
            come, expected = await check()
            self._on_progress(f"{come} of {expected} {what}")
            if come >= expected:
                return
            if come != last:
                last, since = come, time.monotonic()
            elif time.monotonic() - since > self._patience_seconds:
                raise TierstreamError(
                    f"The demo gives up, for nothing came for {self._patience_seconds:.0f} s: {come} of {expected} {what}."
                )

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)


async def put_right(stack: Stack, observer: Observer) -> int:
    """Add the plan that is missing and replay what was parked without it, as an operator does; return how many webhooks that were."""
    assert stack.settings.plans is not None  # the stack runs with one
    with stack.settings.plans.open("a", encoding="utf-8") as plans:
        plans.write(f'{MISSING_PLAN} = "{MISSING_TIER.label}"\n')
    stack.supervisor.signal("normalise", signal.SIGHUP)
    await observer.until_plans_read(stack.data_dir / "logs" / "normalise.log")
    return await asyncio.to_thread(_replay, stack.settings)


def _replay(settings: Settings) -> int:
    decree = Decree(Action.REPLAYED, f"{MISSING_PLAN} is in the plan file now", operator_name(), time.time())
    with KafkaLogs(settings) as logs, TransactionalOutcomes(settings) as writer:
        letters = OpenLetters(settings, logs)
        letters.catch_up()
        plan = make_plan(letters, Filters(reason=Reason.UNKNOWN_PLAN).matches, decree.action)
        return carry_out(settings, plan, letters, writer, decree, stopped=lambda seconds: False).done


def _read_to_end(settings: Settings, topics: Sequence[str]) -> list[Record]:
    with contextlib.closing(LogReader(settings, topics)) as reader:
        return reader.read_to_end()


@contextlib.asynccontextmanager
async def _observing(settings: Settings, on_progress: OnProgress) -> AsyncIterator[Observer]:
    observer = Observer(settings, on_progress)
    try:
        await observer.open()
        yield observer
    finally:
        observer.close()


async def _deliver(stack: Stack, scenario: Scenario, observer: Observer) -> list[int]:
    """Post every delivery in order and return the status codes.

    Days lie between the events of one team, and here only milliseconds: what a webhook says must stand on ``team.events`` before the
    team's next event may overtake it there (services' events come in behind normalise, and each subscription on a way of its own). And
    what comes due in between must have come due.
    """
    secret, token = stack.settings.razorpay_secrets[0], next(iter(stack.settings.ingest_clients))
    answers: list[int] = []
    under_way: set[str | None] = set()
    waiting: set[str | None] = set()
    derived = 0
    async with httpx.AsyncClient(base_url=stack.gateway, timeout=_REQUEST_SECONDS, trust_env=False) as gateway:
        for delivery in scenario.deliveries:
            if delivery.team in waiting:
                await observer.until_classified(answers, derived)
                waiting.clear()
                under_way.clear()
            elif delivery.team in under_way:
                await observer.until_normalised(answers.count(200))
                under_way.clear()
            try:
                response = await gateway.post(delivery.route, content=delivery.body, headers=_headers(delivery, secret, token))
            except httpx.TransportError as error:
                raise TierstreamError(f"The gateway at {stack.gateway} does not answer ({type(error).__name__}).") from error
            answers.append(response.status_code)
            if delivery.route == WEBHOOKS:
                under_way.add(delivery.team)
            if delivery.derived:
                derived += len(delivery.derived)
                waiting.update((delivery.team, *(each.team for each in delivery.derived)))
    return answers


def _headers(delivery: Delivery, secret: bytes, token: str) -> dict[str, str]:
    if delivery.route != WEBHOOKS:
        return {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    return {
        "User-Agent": "Razorpay-Webhook/v1",
        "Content-Type": "application/json",
        "Request-Id": delivery.event_id,
        "X-Razorpay-Event-Id": delivery.event_id,
        "X-Razorpay-Signature": sign_razorpay(delivery.body, b"a guess" if delivery.is_forged else secret),
    }


async def _read_postgres(dsn: str) -> tuple[tuple[AuditRow, ...], dict[str, str]]:
    """Return the rows of ``audit_log``, and the classification of each audit id in ``forwarder_sent``."""
    connection = await connect(dsn, "tierstream-demo")
    try:
        rows = await connection.fetch(f"select {', '.join(AuditRow._fields)} from audit_log order by created_at, id")
        ledger = await connection.fetch("select audit_id, classification from forwarder_sent")
    finally:
        await connection.close()
    return tuple(AuditRow(*row.values()) for row in rows), {str(row["audit_id"]): row["classification"] for row in ledger}


async def _read_mails(loops: str) -> tuple[dict[str, object], ...]:
    """Return what the fake Loops has accepted, in order."""
    async with httpx.AsyncClient(base_url=loops, timeout=_REQUEST_SECONDS, trust_env=False) as client:
        return tuple((await client.get("/_sent")).json())
