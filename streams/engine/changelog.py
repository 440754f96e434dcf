"""A table partition in memory, and its changelog: rows, one position row for each input topic, and one settings row.

The position row is written in the same transaction as the rows and the outputs of a batch. It says how far the input has
been worked in: records below it are skipped. The group's committed offset, which belongs to the same transaction, must
agree with it. The row also keeps the counts of outcomes, so that events received = sum of outcomes can be proven from the log.

The settings row holds what the rows depend on among the settings of the stage that wrote them.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import confluent_kafka as kafka
import msgspec
import structlog
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from schemas.reasons import Reason
from streams.errors import KafkaUnavailable, PositionError
from streams.kafka.log_reader import committed_reader
from streams.settings import Settings
from streams.topics import restore_group

POSITION_PREFIX = b"\x00position:"
"""Key of a position row: this, then the name of the input topic. No key of a row starts with a NUL byte."""

SETTINGS_KEY = b"\x00settings"
"""Key of the settings row. Changelogs of older versions have none."""

_CONSUME_RECORDS = 1_000
"""Records taken at a time. Few: each holds on to the whole of what it was fetched with, and memory once taken is hardly given back."""

_CONSUME_SECONDS = 0.02
"""``consume`` waits this long for its whole number of records, also when all that is left to come is a partition's end."""

log = structlog.get_logger(__name__)


class Position(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far one input topic's partition has been worked in, and which changelog held the rows of that (empty: written by an older
    version). One that is made anew under a live worker gets positions from it, and only the rows that still change."""

    topic_id: str
    next_offset: int
    outcomes: dict[str, int] = {}
    changelog_id: str = ""

    def advanced(self, next_offset: int, outcomes: Counter[Reason]) -> "Position":
        """Return the position after a batch."""
        counts = Counter(self.outcomes)
        for reason, count in outcomes.items():
            counts[reason.value] += count
        return Position(self.topic_id, next_offset, dict(counts), self.changelog_id)


encode_position = msgspec.json.Encoder().encode
decode_position = msgspec.json.Decoder(Position).decode


@dataclass(slots=True)
class TablePartition:
    """One partition of a table, owned by this process: packed rows by key, positions by input topic, and the settings that the rows
    were decided with (None: not known)."""

    number: int
    rows: dict[bytes, bytes] = field(default_factory=dict)
    positions: dict[str, Position] = field(default_factory=dict)
    settings: bytes | None = None

    def forget(self) -> None:
        """Hold nothing any more: what is here may be ahead of the log."""
        self.rows.clear()
        self.positions.clear()
        self.settings = None

    def apply(self, key: bytes, value: bytes | None) -> None:
        """Take in one record of the changelog."""
        if key.startswith(POSITION_PREFIX):
            if value is not None:
                self.positions[key[len(POSITION_PREFIX) :].decode()] = decode_position(value)
        elif key == SETTINGS_KEY:
            self.settings = value
        elif value is None:
            self.rows.pop(key, None)
        else:
            self.rows[key] = value


def position_key(topic: str) -> bytes:
    """Return the changelog key of the position row of ``topic``."""
    return POSITION_PREFIX + topic.encode()


def restore(
    settings: Settings,
    changelog: str,
    partitions: Sequence[TablePartition],
    ends: Mapping[int, int],
    timeout_seconds: float = 60.0,
    on_read: Callable[[int], None] = lambda _: None,
) -> int:
    """Read the committed changelog into ``partitions``, each up to its offset in ``ends``; return the number of records read.

    ``on_read`` is called with the number each time that some have come, and may raise to give up. Blocking. Below ``ends`` every
    transaction is waited for until it is decided. Raises KafkaUnavailable, naming topic, partition and offset, when nothing arrives
    for ``timeout_seconds``.
    """
    wanted = {partition.number: partition for partition in partitions}
    consumer = committed_reader(settings, restore_group(changelog))
    read = 0
    next_offsets = dict.fromkeys(wanted, 0)
    last_progress = time.monotonic()
    try:
        # Ask for the leaders first: an assignment to unknown leaders is looked at again only after half a second.
        consumer.list_topics(changelog, timeout=timeout_seconds)
        consumer.assign([TopicPartition(changelog, number, kafka.OFFSET_BEGINNING) for number in wanted])
        while wanted:
            messages = consumer.consume(_CONSUME_RECORDS, _CONSUME_SECONDS)
            on_read(len(messages))
            for message in messages:
                error = message.error()
                number, offset = message.partition() or 0, message.offset() or 0
                if error is None:
                    if number in wanted:
                        wanted[number].apply(message.key() or b"", message.value())
                    next_offsets[number] = offset + 1
                    read += 1
                elif error.code() == KafkaError._PARTITION_EOF:
                    # Before the end it is where an open transaction begins: its markers, or records behind it, are still to come.
                    if offset >= ends[number]:
                        wanted.pop(number, None)
                elif not error.retriable():
                    raise KafkaException(error)
                else:
                    continue
                last_progress = time.monotonic()
            if wanted and time.monotonic() - last_progress > timeout_seconds:
                number = min(wanted)
                raise KafkaUnavailable(
                    f"Recovery of {changelog}, partition {number}, does not get past offset {next_offsets[number]} of {ends[number]}: "
                    f"nothing came for {timeout_seconds:.0f} s."
                )
    except KafkaException as error:
        raise KafkaUnavailable(f"Recovery of {changelog} failed: {error.args[0].str()}.") from error
    finally:
        consumer.close()
    return read


@dataclass(frozen=True, slots=True)
class InputPartition:
    """A partition of an input topic as it is on the broker: its log holds the offsets from ``first`` up to, but not with, ``end``,
    and the group has committed that it read up to ``committed`` (0: nothing yet, or its offset has expired). ``changelog`` and its id
    are those of the table, where somebody asked for them."""

    topic: str
    number: int
    topic_id: str
    first: int
    end: int
    committed: int
    changelog: str = ""
    changelog_id: str = ""


def made_anew(where: str, position: str, group: str) -> PositionError:
    """Return the error of a table whose input is another topic of the same name now."""
    return PositionError(f"{where}, was deleted and made anew: the table's {position} not of this topic. {_remedy(group)}")


def changelog_gone(changelog: str, group: str) -> PositionError:
    """Return the error of a table whose changelog is another topic of the same name now: rows that have not changed since are nowhere."""
    return PositionError(f"{changelog} was deleted and made anew: it does not hold the table's rows. {_remedy(group)}")


def _remedy(group: str) -> str:
    return (
        f"If that is meant, start over from an empty table: stop the workers, delete the changelog and the consumer group {group}, "
        "and run `tierstream topics apply`."
    )


def checked(position: Position | None, found: InputPartition, group: str) -> Position:
    """Return the position to go on from: ``position``, or the start of the log where the table has none.

    It may be ahead of the group's offset: what lies between is worked in. Raises PositionError where going on would skip records or work
    them in twice. Pure, but for one line in the log.
    """
    where = f"{found.topic}, partition {found.number}"
    remedy = _remedy(group)
    if position is None:
        if found.committed:
            raise PositionError(
                f"The table has no position for {where}, yet its group has read up to {found.committed}: the changelog is gone. {remedy}"
            )
        return Position(found.topic_id, found.first, changelog_id=found.changelog_id)
    if position.topic_id != found.topic_id:
        raise made_anew(where, f"position {position.next_offset} is", group)
    if "" not in (position.changelog_id, found.changelog_id) and position.changelog_id != found.changelog_id:
        raise changelog_gone(found.changelog, group)
    if position.next_offset > found.end:
        raise PositionError(
            f"The table's position {position.next_offset} for {where}, lies beyond the log's end {found.end}: the log was cut. {remedy}"
        )
    if position.next_offset < found.committed:
        raise PositionError(
            f"The table's position {position.next_offset} for {where}, is behind the {found.committed} that its group has read: "
            f"the changelog lost records, or the group's offsets were moved. {remedy}"
        )
    if position.next_offset < found.first:
        log.error(
            "records were deleted by retention before they were read",
            topic=found.topic,
            partition=found.number,
            first=position.next_offset,
            next=found.first,
        )
    return (
        position if position.changelog_id or not found.changelog_id else msgspec.structs.replace(position, changelog_id=found.changelog_id)
    )
