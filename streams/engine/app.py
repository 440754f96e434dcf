"""The Faust apps: one a stage, each its own consumer group, so that a slow Loops never holds up the audit rows. The wiring.

normalise   razorpay.webhooks, subscription.links → team.events, audit.events      table: subscription → team
classify    team.events → audit.events, tier.current                               table: team → registers
audit       audit.events → PostgreSQL
forward     audit.events, forward.retry.30s|5m|1h → Loops, forward.retry.30s|5m|1h
"""

import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, cast

import faust
from faust.streams import Stream
from faust.types import TP, StreamT

from streams.engine.changelog import changelog_gone, made_anew
from streams.engine.exactly_once import TransactionalWorker, Transactions
from streams.engine.faust_transport import BatchConsumer, BatchSchema, BatchTransport, Fetched
from streams.engine.fetch_pace import SENT_TOGETHER, FetchPace
from streams.engine.handler import BatchHandler, HandlerWorker
from streams.engine.instance_id import holder_in
from streams.engine.partitions import PACE, Batch, PartitionWorker, Processing
from streams.engine.table_stage import TableStage
from streams.engine.tables import OwnedTable, OwnedTables
from streams.engine.takeover import Broker, Takeover
from streams.engine.transactions import Membership
from streams.errors import ConfigurationError, Fenced, InstanceIdTaken, StageFailed, TierstreamError
from streams.kafka.client import ssl_context
from streams.settings import Settings
from streams.topics import Topic, group_id, topics_of

COMMIT_INTERVAL_SECONDS = 0.25
"""How often a stage without a table commits acked offsets: a crash redoes at most this much."""

NEVER_SECONDS = 30 * 86_400

HEARTBEAT_SECONDS = 1.0
"""How often a member asks whether the group is rebalancing: a joining worker waits for all others to ask. Far below the session's
time-out, whose least is 6 s."""

MAX_POLL_INTERVAL_SECONDS = NEVER_SECONDS
"""Off, in effect: aiokafka gives a member that did not poll in time up for good. Progress is watched by ourselves."""

FETCH_BYTES = 1_048_576
"""Most of one partition that one fetch brings: some 4,000 events. Up to seven fetches of each partition may be in memory."""

TABLE_FETCH_BYTES = 32 * 1_048_576
"""The same for all partitions of a stage with a table together, up to four times ``FETCH_BYTES`` for one: the more of a team's events meet
in one slice, the fewer rows and current tiers are written."""

POLL_RECORDS = 32_768
"""Records that one poll of what was fetched unpacks, of all partitions together. What is fetched stays compressed until then, and takes
a fifth of the memory."""


async def _nothing_to_close() -> None: ...


class Stage:
    """A Faust app with its processing. Build it inside the event loop that runs it."""

    def __init__(
        self,
        settings: Settings,
        name: str,
        sources: Sequence[Topic],
        new_worker: Callable[[int], PartitionWorker],
        fetch_bytes: int = FETCH_BYTES,
        *,
        commits_offsets: bool = True,
        pace: FetchPace = SENT_TOGETHER,
    ) -> None:
        """``pace`` is how often is fetched.

        ``commits_offsets``: whether Faust commits the offset behind each batch that is done. Otherwise the worker does, in its own
        transactions, of all topics of a partition together, and sets its own pace: an offset has one writer.
        """
        self.name = name
        self.settings = settings
        self.app = _faust_app(settings, name, fetch_bytes, COMMIT_INTERVAL_SECONDS if commits_offsets else NEVER_SECONDS, pace)
        self.sources = [topic.full_name(settings) for topic in sources]
        self.processing = Processing(
            new_worker,
            lambda: self.app.consumer_generation_id,
            self,
            topics=self.sources if commits_offsets else (),
            pace=PACE if commits_offsets else 0,
        )
        self._commits_offsets = commits_offsets
        self.topics = tuple(dict.fromkeys((*sources, *topics_of(name))))
        """Every topic that it reads or writes."""
        for source in self.sources:
            self.app.agent(self.app.topic(source, schema=BatchSchema()), name=f"{name}:{source}")(self._agent)
        self.app.on_partitions_revoked.connect(self._on_revoked)
        self.reached: dict[tuple[str, int], int] = {}
        """By (topic, partition): the offset after the last batch that is durable."""
        self.close: Callable[[], Awaitable[None]] = _nothing_to_close
        """Lets go of what the stage holds beside its app."""
        self.read_again: Callable[[], None] = lambda: None
        """Reads what may change while the stage runs; called on SIGHUP."""
        self.progress: Callable[[int], int] = lambda _number: 0
        """Counts whatever gets done inside of a partition's batches. It may count that of other partitions too, but for tables."""
        self.made_anew: Callable[[str], TierstreamError] = lambda topic: StageFailed(
            f"{topic} was deleted and made anew; {name} stops, to be started again and read it from its beginning."
        )
        """Makes the error of a topic (full name) whose offsets or rows it counts on, and that is another one now."""
        self.irreplaceable = frozenset(self.sources)
        """The topics (full names) that are not to be made anew under it."""
        self.full: Callable[[], frozenset[tuple[str, int]]] = frozenset
        """The (topic, partition)s that do not move, for as much of them waits as may."""
        self.describe: Callable[[], str] = lambda: ""
        """Says what waits and why, where it is not a service that is away."""
        self.restored_records: Callable[[], int] = lambda: 0
        """Counts the records that restores have read."""
        self.rouse: Callable[[], None] = lambda: None
        """Has the partitions begin in which something waits for no record. Called about twice a second."""

    def _done(self, tp: TP, offset: int) -> None:
        self.reached[tp.topic, tp.partition] = offset + 1
        if self._commits_offsets:
            self._consumer.done(tp, offset)

    @property
    def membership(self) -> Membership | None:
        """The worker's place in the group's present generation; None before the first assignment."""
        return self._consumer.membership

    @property
    def taken(self) -> InstanceIdTaken | None:
        """Set once another process works under this one's instance id."""
        return self._consumer.taken

    @property
    def refusal(self) -> BaseException | None:
        """Why Kafka does not let this worker join its group; None where it does, or has not said yet."""
        return self._consumer.refusal

    async def explained(self, failure: TierstreamError) -> TierstreamError:
        """Return ``failure``, or that another process has the instance id where that is why: Kafka's refusal alone does not say."""
        return (await self._consumer.find_taken() or failure) if isinstance(failure, Fenced) else failure

    @property
    def _consumer(self) -> BatchConsumer:
        # Asked for late: Faust makes it, with a thread's event loop, when it is first used.
        return cast(BatchConsumer, self.app.consumer)

    def pause(self, topic: str, partition: int) -> None:
        """Bring no more batches of a partition for now."""
        self._consumer.pause(topic, partition)

    def resume(self, topic: str, partition: int) -> None:
        """Bring them again."""
        self._consumer.resume(topic, partition)

    async def _agent(self, stream: StreamT[Any]) -> None:
        async for event in cast(Stream[Any], stream).noack().events():
            message, fetched = event.message, cast(Fetched, event.value)
            for tp, records in fetched.items():
                done = partial(self._done, tp, records[-1].offset)
                self.processing.submit(Batch(tp.topic, tp.partition, message.generation_id, records, done))

    async def fetch_positions(self, wanted: Iterable[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """Return the next offset that the consumer would fetch, for each partition that has one."""
        found = await self._consumer.positions(TP(topic, number) for topic, number in wanted)
        return {(tp.topic, tp.partition): position for tp, position in found.items()}

    def assign(self, partitions: Iterable[int], generation: int = -1) -> None:
        """Make ``partitions`` the ones that this process works on, from ``generation`` on (-1: nobody asks)."""
        self.processing.assign(partitions, generation)

    async def _on_assigned(self, _app: Any, /, *given: Any, signal: Any, **_: Any) -> None:
        assigned: Iterable[TP] = given[0]
        self.assign(tp.partition for tp in assigned if tp.topic == self.sources[0])

    async def _on_revoked(self, *_: Any, **__: Any) -> None:
        await self.processing.pause()

    def follow_assignment(self) -> None:
        """Follow Faust's assignment signal (stages with a table follow their store)."""
        self.app.on_partitions_assigned.connect(self._on_assigned)


def table_stage(
    settings: Settings,
    stage: TableStage,
    table: str,
    sources: Sequence[Topic],
    changelog: Topic,
    *,
    accepts_changes: bool = False,
    pace: FetchPace = SENT_TOGETHER,
    clock: Callable[[], float] = time.time,
) -> Stage:
    """Return the app of a stage that decides with a table beside it, exactly once.

    ``accepts_changes``: whether rows that were decided with other settings may change. ``clock`` says what has passed of the coming times.
    """
    group, changelog_name = group_id(settings, stage.name), changelog.full_name(settings)
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="takeover")
    broker = Broker(settings, group, changelog_name, [topic.full_name(settings) for topic in sources])
    takeover = Takeover(settings, stage.name, broker, pool)
    worker_id = f"{group}-{settings.instance_id or uuid.uuid4()}"
    transactions = Transactions(
        settings,
        stage,
        changelog_name,
        worker_id,
        lambda: built.membership,
        takeover,
        lambda number: built.processing.rouse(built.sources[0], number),
        accepts_changes=accepts_changes,
        clock=clock,
    )
    fetch_bytes = min(4 * FETCH_BYTES, max(FETCH_BYTES // 2, TABLE_FETCH_BYTES // settings.partitions))

    async def close() -> None:
        takeover.close()
        await transactions.close()
        pool.shutdown(wait=False, cancel_futures=True)

    built = Stage(settings, stage.name, sources, partial(TransactionalWorker, transactions), fetch_bytes, commits_offsets=False, pace=pace)
    built.app.tables.add(
        OwnedTable(built.app, name=table, partitions=settings.partitions, source=built.sources[0], on_rebalanced=built.assign)
    )
    built.close = close
    built.rouse = transactions.rouse
    built.progress = lambda number: transactions.slices[number]
    built.restored_records = lambda: takeover.records
    built.irreplaceable |= {changelog_name}
    built.made_anew = lambda topic: changelog_gone(topic, group) if topic == changelog_name else made_anew(topic, "positions are", group)
    return built


def handler_stage(settings: Settings, name: str, sources: Sequence[Topic], handler: BatchHandler, pace: FetchPace = SENT_TOGETHER) -> Stage:
    """Return the app of a stage without a table. Its sources have the same keys and partitions, and do not wait for each other."""
    built = Stage(settings, name, sources, lambda _: HandlerWorker(name, handler), pace=pace)
    built.progress = lambda _number: handler.progress
    built.full = lambda: frozenset(handler.full)
    built.describe = handler.describe
    built.follow_assignment()
    return built


class _App(faust.App):
    """Faust's app without its directories: nothing of ours is kept on the disk, and the working directory may be read-only."""

    logger = logging.getLogger("faust.app")

    def _create_directories(self) -> None:
        """Make none."""


def _faust_app(settings: Settings, stage: str, fetch_bytes: int, commit_seconds: float, pace: FetchPace) -> faust.App:
    servers = [server.strip() for server in settings.kafka_bootstrap_servers.split(",") if server.strip()]
    app = _App(
        group_id(settings, stage),
        broker=[f"kafka://{server}" for server in servers],
        broker_credentials=_credentials(settings),
        consumer_group_instance_id=settings.instance_id,
        broker_session_timeout=settings.session_timeout_seconds,
        broker_heartbeat_interval=HEARTBEAT_SECONDS,
        broker_request_timeout=max(30.0, settings.session_timeout_seconds),
        broker_rebalance_timeout=max(30.0, settings.session_timeout_seconds),
        broker_max_poll_records=POLL_RECORDS,
        broker_max_poll_interval=MAX_POLL_INTERVAL_SECONDS,
        broker_commit_interval=commit_seconds,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=fetch_bytes,
        stream_buffer_maxsize=8,
        stream_wait_empty=False,
        stream_recovery_delay=0.0,
        table_standby_replicas=0,
        topic_partitions=settings.partitions,
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
        TableManager=OwnedTables,
    )
    app.transport = transport = BatchTransport(app.conf.broker_consumer, app)
    transport.pace = pace
    transport.holder = holder_in(settings, app.conf.id)
    app.producer_transport = BatchTransport(app.conf.broker_producer, app)
    return app


def _credentials(settings: Settings) -> Any:
    protocol = settings.kafka_security_protocol
    context = ssl_context(settings)
    if protocol == "PLAINTEXT":
        return None
    if protocol == "SSL":
        return faust.SSLCredentials(context)
    if settings.kafka_sasl_mechanism is None:
        raise ConfigurationError("TIERSTREAM_KAFKA_SECURITY_PROTOCOL asks for SASL: set TIERSTREAM_KAFKA_SASL_MECHANISM.")
    password = settings.kafka_sasl_password
    return faust.SASLCredentials(
        mechanism=settings.kafka_sasl_mechanism,
        username=settings.kafka_sasl_username,
        password=password.get_secret_value() if password else None,
        ssl_context=context,
    )
