"""Bytewax: a keyed stateful operator between its own Kafka source and sink. Runs in a virtual environment of its own.

Its recovery store keeps the state, with the default snapshot interval of 10 s. It commits no offsets to Kafka: they stand in
the recovery store as well.
"""

import gc
from datetime import timedelta
from pathlib import Path

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource, KafkaSourceMessage
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main

from bench.peers.assignment import assignment
from bench.peers.decision import HEADERS, State, decide, tier_current

assigned = assignment()


def keyed(message: KafkaSourceMessage[bytes, bytes]) -> tuple[str, bytes]:
    """Return team and value of one record."""
    return message.key.decode(), message.value


def classify(state: State | None, value: bytes) -> tuple[State | None, list[tuple[str, bytes]]]:
    """Return the team's state after one event, and what to write where."""
    after, audit, current = decide(state, value)
    outputs = []
    if audit is not None:
        outputs.append((assigned.audit_events, audit))
    if current is not None:
        outputs.append((assigned.tier_current, tier_current(*current)))
    return (state if after is None else after), outputs


def record(output: tuple[str, tuple[str, bytes]]) -> KafkaSinkMessage[bytes, bytes]:
    """Return the record to produce."""
    team, (topic, value) = output
    return KafkaSinkMessage(team.encode(), value, topic, HEADERS)


def dataflow() -> Dataflow:
    """Return the job."""
    flow = Dataflow("classify")
    source = KafkaSource(
        [assigned.bootstrap_servers],
        [assigned.input],
        tail=False,
        batch_size=5_000,
        add_config={"fetch.message.max.bytes": "4194304", "fetch.wait.max.ms": "100"},
    )
    sink = KafkaSink(
        [assigned.bootstrap_servers],
        None,
        add_config={
            "linger.ms": "20",
            "compression.type": "lz4",
            "enable.idempotence": "true",
            "partitioner": "murmur2_random",
            "queue.buffering.max.messages": "1000000",
        },
    )
    teams = op.map("key", op.input("team-events", flow, source), keyed)
    outputs = op.stateful_flat_map("classify", teams, classify)
    op.output("outputs", op.map("record", outputs, record), sink)
    return flow


def main() -> None:
    """Work the input in, to its end."""
    store = Path(assigned.state_directory)
    init_db_dir(store, 1)
    gc.freeze()
    gc.set_threshold(200_000, 50, 100)
    recovery = RecoveryConfig(store, backup_interval=timedelta(0))
    cli_main(dataflow(), epoch_interval=timedelta(seconds=10), recovery_config=recovery)


if __name__ == "__main__":
    main()
