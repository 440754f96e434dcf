"""Follow tierstream from another service with confluent-kafka: the same program as tiers.py, line for line of what it prints.

A whole program to copy. It needs nothing of tierstream, only ``pip install confluent-kafka``.

    python tiers_confluent.py --bootstrap 127.0.0.1:9092 [--topic-prefix P] [--group G] [--exit-at-end]

prints one line for each thing it learns; README.md says which, and what a copy must keep.
"""

import argparse
import json
import signal
import sys
import threading
from collections.abc import Mapping
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

POLL_SECONDS = 0.25
"""How long one poll waits for a record."""

CONNECT_SECONDS = 10.0

KINDS = {
    "onboarding.claimed",
    "subscription.upgraded",
    "subscription.downgraded",
    "subscription.canceled",
    "admin.tier_changed",
}
"""The kinds of audit.events that say something about a tier. There are others, and there will be more."""

DEALT_ANEW = {KafkaError.ILLEGAL_GENERATION, KafkaError.REBALANCE_IN_PROGRESS, KafkaError.UNKNOWN_MEMBER_ID, KafkaError._STATE}
"""Why a commit can fail while nothing is wrong: the group has dealt its partitions anew, and their new owner reads these events again."""

AWAY = {KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT}

printing = threading.Lock()


class Failed(Exception):
    """What ends the program, in one sentence."""


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
    """Print one line. Two threads print."""
    with printing:
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

    def report(self, name: str, team: str) -> None:
        """Print where a team stands now."""
        data = self.by_team.get(team)
        if data is None:
            report("gone", team)
        else:
            report(name, team, data.get("tier"), data.get("since"))


def consumer(bootstrap: str, group: str) -> Consumer:
    """Return a consumer that sees committed records alone, and says where a partition ends."""
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "allow.auto.create.topics": False,
            "log_level": 0,  # the client's own notes; a real service wants them
        }
    )


def partitions_of(reader: Consumer, bootstrap: str, topic: str) -> list[int]:
    """Return the partitions of ``topic``. Raises Failed."""
    try:
        found = reader.list_topics(topic, timeout=CONNECT_SECONDS).topics[topic]
    except KafkaException as error:
        if error.args[0].code() in AWAY:
            raise Failed(f"Kafka can not be reached at {bootstrap}; check --bootstrap.") from error
        raise
    if found.error is not None:
        raise Failed(f"Kafka has no topic {topic}; check --topic-prefix.")
    return list(found.partitions)


def follow_tiers(stop: threading.Event, bootstrap: str, topic: str, exit_at_end: bool) -> None:
    """Read tier.current from its start: print the picture once it is whole, and from then on each change."""
    # librdkafka asks for a group's name. This reader assigns its partitions itself and commits nothing, so there is no such group.
    reader = consumer(bootstrap, "unused")
    try:
        unread = set(partitions_of(reader, bootstrap, topic))
        reader.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in unread])
        tiers = Tiers()
        is_whole = False
        while not stop.is_set():
            message = reader.poll(POLL_SECONDS)
            if message is None:
                continue
            error = message.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                raise KafkaException(error)
            if error is None:
                changed = tiers.apply(message.key(), message.value())
                if is_whole and changed is not None:
                    tiers.report("now", changed)
                continue
            unread.discard(message.partition() or 0)
            if not unread and not is_whole:
                is_whole = True
                for team in sorted(tiers.by_team):
                    tiers.report("tier", team)
                if exit_at_end:
                    return
    finally:
        reader.close()


def follow_events(stop: threading.Event, bootstrap: str, topic: str, group: str, exit_at_end: bool) -> None:
    """Read audit.events with a group: print each event about a tier, and commit what was printed."""
    reader = consumer(bootstrap, group)
    unread: set[int] = set()
    is_dealt = False

    def on_assign(_: Consumer, partitions: list[TopicPartition]) -> None:
        nonlocal unread, is_dealt
        unread, is_dealt = {each.partition for each in partitions}, True

    try:
        partitions_of(reader, bootstrap, topic)
        reader.subscribe([topic], on_assign=on_assign)
        while not stop.is_set() and not (exit_at_end and is_dealt and not unread):
            message = reader.poll(POLL_SECONDS)
            if message is None:
                continue
            error = message.error()
            if error is None:
                value = message.value()
                if value is not None:
                    report_event(value)
                commit(reader)
            elif error.code() == KafkaError._PARTITION_EOF:
                unread.discard(message.partition() or 0)
            else:
                raise KafkaException(error)
    finally:
        reader.close()


def commit(reader: Consumer) -> None:
    """Commit what was printed. A service with more to do commits once for many events."""
    try:
        reader.commit(asynchronous=False)
    except KafkaException as error:
        if error.args[0].code() not in DEALT_ANEW:
            raise


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


def main(arguments: argparse.Namespace) -> str | None:
    """Follow both topics until SIGINT or SIGTERM, or until their ends with ``--exit-at-end``; return what went wrong, if anything."""
    stop = threading.Event()
    failures: list[str] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    bootstrap, prefix, at_end = arguments.bootstrap, arguments.topic_prefix, arguments.exit_at_end

    def guarded(follow: Any, *given: object) -> None:
        try:
            follow(stop, bootstrap, *given, at_end)
        except (Failed, KafkaException) as error:
            failures.append(str(error))
            stop.set()

    threads = [
        threading.Thread(target=guarded, args=(follow_tiers, f"{prefix}tier.current")),
        threading.Thread(target=guarded, args=(follow_events, f"{prefix}audit.events", arguments.group)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return f"tiers: {failures[0]}" if failures else None


def parse_arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description="Follow the tiers of all teams, and what changes them.")
    parser.add_argument("--bootstrap", required=True, metavar="HOST:PORT", help="Kafka's address; several are comma-separated")
    parser.add_argument("--topic-prefix", default="", metavar="P", help="what stands before every topic's name")
    parser.add_argument("--group", default="example.tiers", metavar="G", help="consumer group for audit.events; take one of your own")
    parser.add_argument("--exit-at-end", action="store_true", help="stop where the topics end now, instead of following them")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main(parse_arguments()))
