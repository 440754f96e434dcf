"""Detects a stage that makes no progress. A running process is no proof: a consumer can stall for ever without an error.

``Watchdog.judge`` is pure but for what it remembers; ``Watch`` gathers what it judges. Whoever finds a stage stalled ends the
process, for a restart takes its partitions over in seconds and an idle worker holds them for ever.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from aiokafka.errors import IllegalStateError
from confluent_kafka import IsolationLevel, KafkaException
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import OffsetSpec

from streams.engine.app import Stage
from streams.errors import KafkaUnavailable, TopologyError
from streams.kafka.log_offsets import look_around
from streams.kafka.topic_state import Consequence, remedies
from streams.kafka.topic_watch import Seen, TopicWatch, look_seconds
from streams.runtime.waiting import services_away

CHECK_SECONDS = 5.0
"""How often the ends of the logs, and what the topics are, are asked for."""

ENDS_SECONDS = 1.0
"""How long the brokers may take to say where logs end. Short: while one is dead and not yet known to be, its partitions' leader would be
asked for all that time without a pause (``streams/kafka/log_offsets.py``)."""

OUTAGE = 1 / 6
"""A service that has answered nobody for this part of ``stall_seconds`` is away. One that answers some is not, and whoever gets no
answer meanwhile stalls."""

TopicPartition = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a stage at one moment.

    ``reached`` is the next offset that the consumer would fetch (transaction markers are behind it, too), or, where records are
    being worked in, the first that is not done; ``ends`` is the end of the committed log as a client of its own sees it, empty while Kafka does not answer.
    """

    assigned: bool
    rebalancing: bool
    restoring: Mapping[int, int]  # partition → records read so far
    working: frozenset[TopicPartition]  # a batch is under way or waits
    progress: Mapping[int, int]  # partition → counts whatever gets done inside of its batches
    reached: Mapping[TopicPartition, int]
    ends: Mapping[TopicPartition, int]
    full: frozenset[TopicPartition] = frozenset()  # those of which as much waits as may, each record for something of its own
    waiting_for: str | None = None  # a service that is known to be away, which is no stall but an outage


@dataclass(slots=True)
class Watchdog:
    """Remembers when each thing last moved. Times are in seconds of one monotonic clock."""

    stage: str
    stall_seconds: float
    _moved: dict[object, tuple[object, float]] = field(default_factory=dict)

    def judge(self, now: float, seen: Snapshot) -> str | None:
        """Return one sentence about what has not moved for ``stall_seconds`` although it should, or None."""
        if seen.waiting_for is not None:
            self._moved.clear()
            return None
        still: dict[object, tuple[object, float]] = {}
        verdict: str | None = None
        for what, state, sentence in self._expected_to_move(seen):
            before = self._moved.get(what)
            since = before[1] if before is not None and before[0] == state else now
            still[what] = (state, since)
            if now - since >= self.stall_seconds:
                verdict = verdict or f"{self.stage} stalls: {sentence} for {now - since:.0f} s; it stops, to be started again."
        self._moved = still
        return verdict

    def _expected_to_move(self, seen: Snapshot) -> list[tuple[object, object, str]]:
        found: list[tuple[object, object, str]] = []
        if not seen.assigned:
            found.append(("assignment", None, "the group has assigned it nothing"))
        elif seen.rebalancing:
            found.append(("rebalance", None, "a rebalance does not end"))
        for number, records in seen.restoring.items():
            found.append(
                (
                    ("restore", number),
                    records,
                    f"the table's partition {number} is not restored, {records} records are read, and nothing came",
                )
            )
        for partition in seen.working | seen.ends.keys():
            topic, number = partition
            reached, end = seen.reached.get(partition, 0), seen.ends.get(partition)
            if partition in seen.full:
                continue
            if partition in seen.working:
                sentence = f"{topic}, partition {number}, does not get past offset {reached}"
                found.append((("work", partition), (reached, seen.progress.get(number, 0)), sentence))
            elif end is not None and end > reached and number not in seen.restoring:
                found.append(
                    (
                        ("fetch", partition),
                        reached,
                        f"{topic}, partition {number}, is read up to {reached} of {end}, and nothing is fetched",
                    )
                )
        return found


class Watch:
    """Looks at a running stage, and at the topics that it reads and writes. Its view of the logs' ends comes from a Kafka client of its
    own, for the stage's may be what is stuck.

    | what has changed | what follows |
    | --- | --- |
    | an input, or the changelog, is another topic of its name | the stage ends: offsets, positions and rows belong to the former one |
    | partitions were added | it ends: keys are placed by the number that is set, and no table has a row for the others |
    | another cleanup policy | it ends: what it has yet to read, or to restore, is being thrown away |
    | fewer copies have to have a record; other sizes, copies, times | it goes on and names it: nothing is decided wrongly, and a record that does not fit any more ends it by itself |
    | a topic is gone | it is not ready: whoever makes it anew decides what follows |
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._watchdog = Watchdog(stage.name, stage.settings.stall_seconds)
        self._topics = TopicWatch(stage.settings, stage.name, stage.topics)
        self.seen = Seen()
        """What the last look at the topics found."""
        self._ends: dict[TopicPartition, int] = {}
        self._positions: dict[TopicPartition, int] = {}
        self._looked_at = 0.0

    async def check(self) -> str | None:
        """Return the sentence about what stalls, or None. Raises TopologyError when the stage can not go on with a topic as it is now, or
        the stage's own error when one was deleted and made anew."""
        now = time.monotonic()
        settings = self._stage.settings
        if now - self._looked_at >= min(look_seconds(CHECK_SECONDS, settings.partitions), settings.stall_seconds / 4):
            self._looked_at = now
            await self._measure()
        return self._watchdog.judge(now, self._snapshot())

    def _snapshot(self) -> Snapshot:
        stage, processing = self._stage, self._stage.processing
        away = services_away(stage.name, stage.settings.stall_seconds * OUTAGE)
        return Snapshot(
            processing.assigned,
            bool(stage.app.rebalancing),
            dict.fromkeys(processing.preparing, stage.restored_records()),
            processing.working,
            {number: stage.progress(number) for _, number in processing.working},
            {**self._positions, **{partition: stage.reached.get(partition, 0) for partition in processing.working}},
            self._ends,
            stage.full(),
            away[0] if away else None,
        )

    async def _measure(self) -> None:
        """Ask where the logs end and where the consumer is. What can not be learnt is left out: an outage is no stall."""
        try:
            self.seen = await asyncio.to_thread(self._topics.look, CHECK_SECONDS)
        except KafkaUnavailable:
            self._ends = {}
            return
        self._judge_topics(self.seen)
        wanted = [(topic, number) for topic in self._stage.sources for number in self._stage.processing.partitions]
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                self._positions = await self._stage.fetch_positions(wanted)
            self._ends = await asyncio.to_thread(self._committed_ends, wanted) if wanted else {}
        except (KafkaException, IllegalStateError, TimeoutError):  # IllegalStateError: a rebalance took a partition meanwhile
            self._ends = {}

    def _judge_topics(self, seen: Seen) -> None:
        for topic in seen.made_anew:
            if topic in self._stage.irreplaceable:
                raise self._stage.made_anew(topic)
        wrong = seen.with_consequence(Consequence.STOPS)
        if wrong:
            raise TopologyError(f"{self._stage.name} stops, for {'; '.join(map(str, wrong))}. {remedies(wrong)}")

    def _committed_ends(self, wanted: list[TopicPartition]) -> dict[TopicPartition, int]:
        admin = self._topics.admin  # another client would be four threads more for each stage
        look_around(admin, {topic for topic, _ in wanted}, CHECK_SECONDS)
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        asked = {KafkaPartition(topic, number): latest for topic, number in wanted}
        answers = admin.list_offsets(asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=ENDS_SECONDS)
        return {(tp.topic, tp.partition): future.result(CHECK_SECONDS).offset for tp, future in answers.items()}
