"""Follow tierstream from another service: every team's tier from ``tier.current``, every change from ``audit.events``.

A whole program to copy. It needs nothing of tierstream, only ``pip install aiokafka cramjam`` (cramjam reads the topics' lz4).

    python tiers.py --bootstrap 127.0.0.1:9092 [--topic-prefix P] [--group G] [--exit-at-end]

prints one line for each thing it learns, its fields separated by tabs:

    tier    TEAM  TIER  SINCE                    the picture at the start, one line for each team
    now     TEAM  TIER  SINCE                    a team's tier was set or changed after that
    gone    TEAM                                 a team was deleted from tier.current (a tombstone)
    event   TEAM  KIND  FROM  TO  REASON  ID     one event of audit.events ("-" where it has none)

What a copy must keep:

- ``isolation_level="read_committed"``. tierstream writes in transactions, and may abort one; without this a consumer sees
  what never happened.
- tier.current is a table, not a queue: read it from its start, without a group, into a dict. The last record of a team counts.
- audit.events is a queue: read it with a group of your own, from the earliest record, and commit an offset only when what it
  stands for is done. After a crash the last events come again, with the same ``id``: make your effect idempotent by it.
- Ignore types that you do not know, and fields too. New ones come without notice.
- The two topics are two streams. Which of them shows a change first is chance.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import signal
import sys
from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CommitFailedError, KafkaConnectionError, KafkaError, UnknownTopicOrPartitionError

READ_MS = 250
"""How long one read waits for records."""

KINDS = {
    "onboarding.claimed",
    "subscription.upgraded",
    "subscription.downgraded",
    "subscription.canceled",
    "admin.tier_changed",
}
"""The kinds of audit.events that say something about a tier. There are others, and there will be more."""


def read_envelope(value: bytes) -> dict[str, Any] | None:
    """Return the CloudEvents envelope (JSON, version 1.0) that ``value`` holds, or None when it holds none."""
    try:
        envelope = json.loads(value)
    except ValueError:
        return None
    if not isinstance(envelope, dict) or envelope.get("specversion") != "1.0" or not isinstance(envelope.get("data"), dict):
        return None
    return envelope


def report(*fields: object) -> None:
    """Print one line."""
    print(*(field or "-" for field in fields), sep="\t", flush=True)


class Tiers:
    """Every team's tier, as far as tier.current has been read."""

    def __init__(self) -> None:
        self.by_team: dict[str, dict[str, Any]] = {}

    def apply(self, key: bytes | None, value: bytes | None) -> str | None:
        """Take one record in and return the team that it changed, or None when it changed none."""
        if key is None:
            return None
        team = key.decode()
        if value is None:  # a tombstone
            return team if self.by_team.pop(team, None) else None
        envelope = read_envelope(value)
        if envelope is None or envelope.get("type") != "tier.current":
            return None
        known = self.by_team.get(team)
        self.by_team[team] = envelope["data"]
        return None if known == envelope["data"] else team

    def report(self, word: str, team: str) -> None:
        """Print what is known of ``team``."""
        current = self.by_team.get(team)
        if current is None:
            report("gone", team)
        else:
            report(word, team, current.get("tier"), current.get("since"))


async def follow_tiers(bootstrap: str, topic: str, *, exit_at_end: bool) -> None:
    """Read tier.current from its start: print the whole picture once it is there, and from then on each change."""
    consumer = AIOKafkaConsumer(  # without a group: it gets every partition
        topic,
        bootstrap_servers=bootstrap,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    async with consumer:
        end = await consumer.end_offsets(list(consumer.assignment()))
        tiers = Tiers()
        while not await has_reached(consumer, end):
            for records in (await consumer.getmany(timeout_ms=READ_MS)).values():
                for record in records:
                    tiers.apply(record.key, record.value)
        for team in sorted(tiers.by_team):
            tiers.report("tier", team)
        while not exit_at_end:
            for records in (await consumer.getmany(timeout_ms=READ_MS)).values():
                for record in records:
                    changed = tiers.apply(record.key, record.value)
                    if changed is not None:
                        tiers.report("now", changed)


async def follow_events(bootstrap: str, topic: str, group: str, *, exit_at_end: bool) -> None:
    """Read audit.events with a group: print each event about a tier, and commit what was printed."""
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id=group,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    end: dict[TopicPartition, int] = {}
    async with consumer:
        while True:
            read = await consumer.getmany(timeout_ms=READ_MS)
            for records in read.values():
                for record in records:
                    if record.value is not None:
                        report_event(record.value)
            if read:
                # The group may have dealt its partitions anew meanwhile: then their new owner reads these events again.
                with contextlib.suppress(CommitFailedError):
                    await consumer.commit()
            if exit_at_end and consumer.assignment():  # empty until the group has dealt out its partitions
                end = end or await consumer.end_offsets(list(consumer.assignment()))
                if await has_reached(consumer, end):
                    return


def report_event(value: bytes) -> None:
    """Print one event, unless it is of a kind that this program does not know."""
    envelope = read_envelope(value)
    if envelope is None or envelope.get("type") not in KINDS:
        return
    metadata: Mapping[str, Any] = envelope["data"].get("metadata") or {}
    report(
        "event",
        envelope.get("subject"),
        envelope["type"],
        metadata.get("from"),
        metadata.get("to"),
        metadata.get("reason"),
        envelope.get("id"),
    )


async def has_reached(consumer: AIOKafkaConsumer, end: Mapping[TopicPartition, int]) -> bool:
    """Whether everything before the ``end`` offsets has been read."""
    return all([await consumer.position(partition) >= offset for partition, offset in end.items()])


async def main(arguments: argparse.Namespace) -> None:
    """Follow both topics until SIGINT or SIGTERM, or until their ends with ``--exit-at-end``."""
    bootstrap, prefix = arguments.bootstrap, arguments.topic_prefix
    following = asyncio.gather(
        follow_tiers(bootstrap, f"{prefix}tier.current", exit_at_end=arguments.exit_at_end),
        follow_events(bootstrap, f"{prefix}audit.events", arguments.group, exit_at_end=arguments.exit_at_end),
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, following.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await following


def parse_arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description="Follow the tiers of all teams, and what changes them.")
    parser.add_argument("--bootstrap", required=True, metavar="HOST:PORT", help="Kafka's address; several are comma-separated")
    parser.add_argument("--topic-prefix", default="", metavar="P", help="what stands before every topic's name")
    parser.add_argument("--group", default="example.tiers", metavar="G", help="consumer group for audit.events; take one of your own")
    parser.add_argument("--exit-at-end", action="store_true", help="stop where the topics end now, instead of following them")
    return parser.parse_args()


if __name__ == "__main__":
    given = parse_arguments()
    logging.basicConfig(level=logging.CRITICAL)  # the client's own notes; a real service wants them
    try:
        asyncio.run(main(given))
    except UnknownTopicOrPartitionError:
        sys.exit(f"tiers: Kafka has no topic {given.topic_prefix}tier.current; check --topic-prefix.")
    except KafkaConnectionError:
        sys.exit(f"tiers: Kafka can not be reached at {given.bootstrap}; check --bootstrap.")
    except KafkaError as error:
        sys.exit(f"tiers: {error}")
