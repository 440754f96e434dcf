"""Idiomatic Faust: one event at a time, a table, ``await topic.send``, as its documentation shows it.

Tuned where settings can: linger, batch size, fetch size, orjson, no web server, no leader topic. Raw bytes in and out, for
Faust's own models are slower than the decision that all peers share.
"""

import faust

from bench.peers.assignment import assignment
from bench.peers.decision import HEADERS, decide, tier_current

assigned = assignment()

app = faust.App(
    assigned.group,
    broker=f"kafka://{assigned.bootstrap_servers}",
    store="memory://",
    topic_partitions=assigned.partitions,
    topic_disable_leader=True,
    web_enabled=False,
    datadir=assigned.state_directory,
    producer_linger=0.02,
    producer_max_batch_size=262_144,
    producer_compression_type="lz4",
    consumer_max_fetch_size=4_194_304,
    consumer_auto_offset_reset="earliest",
    broker_commit_interval=0.25,
    stream_wait_empty=False,
)
team_events = app.topic(assigned.input, key_type=bytes, key_serializer="raw", value_type=bytes, value_serializer="raw")
audit_events = app.topic(assigned.audit_events, key_type=bytes, key_serializer="raw", value_type=bytes, value_serializer="raw")
current_tiers = app.topic(assigned.tier_current, key_type=bytes, key_serializer="raw", value_type=bytes, value_serializer="raw")
teams = app.Table("teams", partitions=assigned.partitions)


@app.agent(team_events)
async def classify(stream: faust.StreamT[bytes]) -> None:
    """Decide on each event of the stream."""
    headers: dict[str, bytes] = dict(HEADERS)
    async for event in stream.events():
        team = event.key.decode()
        state, audit, current = decide(teams.get(team), event.value)
        if state is not None:
            teams[team] = state
        if audit is not None:
            await audit_events.send(key=event.key, value=audit, headers=headers)
        if current is not None:
            await current_tiers.send(key=event.key, value=tier_current(*current), headers=headers)


if __name__ == "__main__":
    app.main()
