"""The settings of a peer, passed in its environment."""

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Assignment:
    """Where Kafka is, what to read and write, under which group, how many events there are, and where local state may go."""

    bootstrap_servers: str
    input: str
    audit_events: str
    tier_current: str
    group: str
    events: int
    partitions: int
    state_directory: str


def assignment() -> Assignment:
    """Read the environment that ``bench.jobs`` sets."""
    variables = os.environ
    return Assignment(
        variables["BENCH_BOOTSTRAP_SERVERS"],
        variables["BENCH_INPUT"],
        variables["BENCH_AUDIT_EVENTS"],
        variables["BENCH_TIER_CURRENT"],
        variables["BENCH_GROUP"],
        int(variables["BENCH_EVENTS"]),
        int(variables["BENCH_PARTITIONS"]),
        variables["BENCH_STATE_DIRECTORY"],
    )
