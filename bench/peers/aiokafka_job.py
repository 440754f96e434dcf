"""A bare aiokafka loop: no framework, no durable state, at least once (flush the outputs, then commit the offsets)."""

import gc
import time

import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from bench.peers.assignment import assignment
from bench.peers.decision import HEADERS, Current, State, decide, tier_current

COMMIT_SECONDS = 5.0
"""Kafka's own default for ``auto.commit.interval.ms``."""

BATCH = 32_768
"""Records worked in at once. Of a team's tiers in a batch only the newest is written."""


async def main() -> None:
    """Work the input in, commit, and end."""
    assigned = assignment()
    consumer = AIOKafkaConsumer(
        assigned.input,
        bootstrap_servers=assigned.bootstrap_servers,
        group_id=assigned.group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_partition_fetch_bytes=4_194_304,
        fetch_max_wait_ms=100,
    )
    producer = AIOKafkaProducer(
        bootstrap_servers=assigned.bootstrap_servers,
        enable_idempotence=True,
        compression_type="lz4",
        linger_ms=20,
        max_batch_size=262_144,
    )
    gc.freeze()
    gc.set_threshold(200_000, 50, 100)
    teams: dict[bytes, State] = {}
    done, committed_at = 0, time.monotonic()
    async with consumer, producer:
        while done < assigned.events:
            newest: dict[bytes, Current] = {}
            for records in (await consumer.getmany(timeout_ms=100, max_records=BATCH)).values():
                for record in records:
                    key = record.key
                    state, audit, current = decide(teams.get(key), record.value)
                    if state is not None:
                        teams[key] = state
                    if audit is not None:
                        await producer.send(assigned.audit_events, audit, key=key, headers=HEADERS)
                    if current is not None:
                        newest[key] = current
                done += len(records)
            for key, current in newest.items():
                await producer.send(assigned.tier_current, tier_current(*current), key=key, headers=HEADERS)
            if time.monotonic() - committed_at > COMMIT_SECONDS:
                await producer.flush()
                await consumer.commit()
                committed_at = time.monotonic()
        await producer.flush()
        await consumer.commit()


if __name__ == "__main__":
    uvloop.run(main())
