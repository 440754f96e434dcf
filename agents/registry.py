"""Which parts make a stage: the only place that knows all of them."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Protocol, TypeVar

import structlog

from agents.audit import stage as audit
from agents.classify.stage import ClassifyStage
from agents.feedback import stage as feedback
from agents.feedback.decide import match
from agents.forward import stage as forward
from agents.forward.decide import Policy
from agents.forward.key import ApiKey
from agents.forward.retries import RETRY_SECONDS, RETRY_TOPICS, KafkaRetries, retry_tiers
from agents.forward.settling import Settling
from agents.normalise.plans import load_rules
from agents.normalise.stage import NormaliseStage
from streams import topics
from streams.engine.app import Stage, handler_stage, table_stage
from streams.engine.fetch_pace import SENT_ONE_BY_ONE, UNHURRIED
from streams.engine.worker import StageFactory
from streams.errors import PostgresUnavailable
from streams.kafka.dead_letters import KafkaDeadLetters
from streams.kafka.producer import AcknowledgedProducer
from streams.loops.client import LoopsClient
from streams.loops.rate_limit import RateLimiter
from streams.runtime.waiting import Waiting
from streams.settings import Settings
from streams.stores.audit_log import PostgresAuditLog
from streams.stores.feedback import PostgresFeedback
from streams.stores.ledger import PostgresLedger
from streams.stores.loops_slots import PostgresSlots
from streams.stores.mail_history import PostgresMailHistory
from streams.stores.pool import PostgresPool
from streams.stores.tables import AUDIT_LOG, FORWARDER_SENT, Table

_log = structlog.get_logger(__name__)

FLUSH_SECONDS = 2.0
"""How long a stop waits for records under way; whoever waits for them has not acked their batch."""


def stage_factory(
    settings: Settings, name: str, accept_initial_tier: bool = False, retry_seconds: Sequence[float] = RETRY_SECONDS
) -> StageFactory:
    """Return what builds the stage called ``name`` inside the event loop that runs it. ``retry_seconds`` are the waits of forward's tiers.

    ``accept_initial_tier``: whether classify may change the tier of teams that were decided with another initial tier. Reads the plan file (normalise) at once, so that a bad one is reported before anything is connected. Raises ConfigurationError.
    """
    match name:
        case "normalise":
            return _normalise(settings)
        case "classify":
            return _classify(settings, accept_initial_tier)
        case "audit":
            return _audit(settings)
        case "forward":
            return _forward(settings, retry_seconds)
        case "feedback":
            return _feedback(settings)
    raise ValueError(f"{name} is no stage")


def _normalise(settings: Settings) -> StageFactory:
    plans = settings.plans
    assert plans is not None  # ``Settings.require`` saw to it
    rules = load_rules(settings)

    @contextlib.asynccontextmanager
    async def build() -> AsyncIterator[Stage]:
        sources = [topics.RAZORPAY_WEBHOOKS, topics.SUBSCRIPTION_LINKS]
        normalise = NormaliseStage(settings, rules)
        stage = table_stage(settings, normalise, "links", sources, topics.NORMALISE_CHANGELOG, pace=SENT_ONE_BY_ONE)
        stage.read_again = lambda: normalise.read_plans(plans)
        yield stage

    return build


def _classify(settings: Settings, accept_initial_tier: bool) -> StageFactory:
    @contextlib.asynccontextmanager
    async def build() -> AsyncIterator[Stage]:
        sources, changelog = [topics.TEAM_EVENTS], topics.CLASSIFY_CHANGELOG
        yield table_stage(settings, ClassifyStage(settings), "teams", sources, changelog, accepts_changes=accept_initial_tier)

    return build


def _audit(settings: Settings) -> StageFactory:
    @contextlib.asynccontextmanager
    async def build() -> AsyncIterator[Stage]:
        async with _postgres(settings, audit.STAGE, AUDIT_LOG) as pool, _dead_letters(settings, audit.STAGE) as dead_letters:
            wait_seconds = settings.constraint_wait_seconds
            writer = audit.AuditWriter(PostgresAuditLog(pool), dead_letters, constraint_wait_seconds=wait_seconds)
            yield handler_stage(settings, audit.STAGE, [topics.AUDIT_EVENTS], writer)

    return build


def _forward(settings: Settings, retry_seconds: Sequence[float]) -> StageFactory:
    sending = settings.forward == "on"
    key = settings.loops_api_key.get_secret_value() if settings.loops_api_key else ""
    policy = Policy(sending, timedelta(seconds=settings.forward_max_age_seconds))

    @contextlib.asynccontextmanager
    async def build() -> AsyncIterator[Stage]:
        loops = LoopsClient(settings.loops_base_url, key, timeout_seconds=settings.loops_timeout_seconds)
        async with (
            _postgres(settings, forward.STAGE, FORWARDER_SENT) as pool,
            _producer(settings) as producer,
            _opened(loops),
            _limiter(settings, pool) as limiter,
            contextlib.aclosing(ApiKey(forward.STAGE, loops, limiter)) as api_key,
        ):
            if sending:
                await api_key.begin()
            waiting = Waiting(forward.STAGE, "loops", retry_backoff=forward.RETRY_BACKOFF)
            ledger = PostgresLedger(pool, constraint_wait_seconds=settings.constraint_wait_seconds)
            kafka, tiers = Waiting(forward.STAGE, "kafka"), retry_tiers(settings, retry_seconds)
            dead_letters = KafkaDeadLetters(producer, topics.DEAD_LETTERS.full_name(settings), forward.STAGE, kafka)
            retries = KafkaRetries(producer, kafka)
            forwarder = forward.Forwarder(ledger, loops, limiter, dead_letters, retries, tiers, policy, waiting, api_key)
            history, topic = PostgresMailHistory(pool), topics.AUDIT_EVENTS.full_name(settings)
            settling = Settling(forwarder, ledger, history, dead_letters, topic, settings.settle_seconds if sending else 0.0)
            yield handler_stage(settings, forward.STAGE, [topics.AUDIT_EVENTS, *RETRY_TOPICS], settling, UNHURRIED)

    return build


def _feedback(settings: Settings) -> StageFactory:
    @contextlib.asynccontextmanager
    async def build() -> AsyncIterator[Stage]:
        async with _postgres(settings, feedback.STAGE, FORWARDER_SENT) as pool, _dead_letters(settings, feedback.STAGE) as dead_letters:
            handler = feedback.FeedbackHandler(PostgresFeedback(pool, match), dead_letters)
            yield handler_stage(settings, feedback.STAGE, [topics.LOOPS_WEBHOOKS], handler, UNHURRIED)

    return build


@contextlib.asynccontextmanager
async def _limiter(settings: Settings, pool: PostgresPool) -> AsyncIterator[RateLimiter]:
    """This worker's way to the slots of the account's limit."""
    limiter = RateLimiter(settings.loops_rate_per_second, PostgresSlots(pool), call_seconds=settings.loops_timeout_seconds)
    try:
        yield limiter
    finally:
        await limiter.close()


@contextlib.asynccontextmanager
async def _postgres(settings: Settings, stage: str, table: Table) -> AsyncIterator[PostgresPool]:
    """A pool on a database that can hold ``table``. Raises DatabaseUnfit. PostgreSQL may be away: then it is asked before the first row."""
    assert settings.postgres_dsn is not None  # ``Settings.require`` saw to it
    async with _opened(PostgresPool(settings.postgres_dsn.get_secret_value(), Waiting(stage, "postgres"), table=table)) as pool:
        try:
            await pool.check()
        except PostgresUnavailable as error:
            _log.warning("postgres_unchecked", error=str(error))
        yield pool


@contextlib.asynccontextmanager
async def _producer(settings: Settings) -> AsyncIterator[AcknowledgedProducer]:
    producer = AcknowledgedProducer(settings)
    try:
        yield producer
    finally:
        await producer.close(FLUSH_SECONDS)


@contextlib.asynccontextmanager
async def _dead_letters(settings: Settings, stage: str) -> AsyncIterator[KafkaDeadLetters]:
    async with _producer(settings) as producer:
        yield KafkaDeadLetters(producer, topics.DEAD_LETTERS.full_name(settings), stage, Waiting(stage, "kafka"))


class _Openable(Protocol):
    async def open(self) -> None: ...
    async def close(self) -> None: ...


OpenableT = TypeVar("OpenableT", bound=_Openable)


@contextlib.asynccontextmanager
async def _opened(resource: OpenableT) -> AsyncIterator[OpenableT]:
    await resource.open()
    try:
        yield resource
    finally:
        await resource.close()
