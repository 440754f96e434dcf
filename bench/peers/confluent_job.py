"""A bare confluent-kafka loop: no framework, no durable state, at least once (flush the outputs, then commit the offsets)."""

import gc
import time

from confluent_kafka import Consumer, Producer

from bench.peers.assignment import assignment
from bench.peers.decision import HEADERS, Current, State, decide, tier_current

COMMIT_SECONDS = 5.0
"""Kafka's own default for ``auto.commit.interval.ms``."""

BATCH = 32_768
"""Records worked in at once. Of a team's tiers in a batch only the newest is written."""


def main() -> None:
    """Work the input in, commit, and end."""
    assigned = assignment()
    consumer = Consumer(
        {
            "bootstrap.servers": assigned.bootstrap_servers,
            "group.id": assigned.group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "fetch.message.max.bytes": 4_194_304,
            "fetch.wait.max.ms": 100,
            "fetch.queue.backoff.ms": 2,
        }
    )
    producer = Producer(
        {
            "bootstrap.servers": assigned.bootstrap_servers,
            "enable.idempotence": True,
            "partitioner": "murmur2_random",
            "compression.type": "lz4",
            "linger.ms": 20,
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    gc.freeze()
    gc.set_threshold(200_000, 50, 100)
    consumer.subscribe([assigned.input])
    teams: dict[bytes, State] = {}
    done, committed_at = 0, time.monotonic()

    def produce(topic: str, value: bytes, key: bytes) -> None:
        try:
            producer.produce(topic, value, key, headers=HEADERS)
        except BufferError:
            producer.flush()
            producer.produce(topic, value, key, headers=HEADERS)

    while done < assigned.events:
        newest: dict[bytes, Current] = {}
        for message in consumer.consume(BATCH, 0.1):
            key, value = message.key(), message.value()
            assert key is not None
            assert value is not None
            state, audit, current = decide(teams.get(key), value)
            if state is not None:
                teams[key] = state
            if audit is not None:
                produce(assigned.audit_events, audit, key)
            if current is not None:
                newest[key] = current
            done += 1
        for key, current in newest.items():
            produce(assigned.tier_current, tier_current(*current), key)
        producer.poll(0)
        if time.monotonic() - committed_at > COMMIT_SECONDS:
            producer.flush()
            consumer.commit(asynchronous=False)
            committed_at = time.monotonic()
    producer.flush()
    consumer.commit(asynchronous=False)
    consumer.close()


if __name__ == "__main__":
    main()
