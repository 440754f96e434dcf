"""Is a stage getting on? A process that lives is no proof: a consumer can stall for ever without an error.

``Watchdog.judge`` is pure but for what it remembers; ``observe`` gathers what it judges. Whoever finds a stage stalled ends
the process, for a restart takes a partition over in seconds and an idle worker holds it for ever.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

TopicPartition = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a stage looks like at one moment.

    ``reached`` is the next offset that the consumer would fetch, or, where records are being worked in, the first that is not
    done; ``ends`` is the end of the committed log as a client of its own sees it, empty while Kafka does not answer.
    """

    assigned: bool
    rebalancing: bool
    restoring: Mapping[int, int]  # partition → records read so far
    working: frozenset[TopicPartition]  # a batch is under way or waits
    reached: Mapping[TopicPartition, int]
    ends: Mapping[TopicPartition, int]
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
            found.append((("restore", number), records, f"the table's partition {number} is not restored, {records} records are read, and nothing came"))
        for partition in seen.working | seen.ends.keys():
            topic, number = partition
            reached, end = seen.reached.get(partition, 0), seen.ends.get(partition)
            if partition in seen.working:
                found.append((("work", partition), reached, f"{topic}, partition {number}, does not get past offset {reached}"))
            elif end is not None and end > reached and number not in seen.restoring:
                found.append((("fetch", partition), reached, f"{topic}, partition {number}, is read up to {reached} of {end}, and nothing is fetched"))
        return found
