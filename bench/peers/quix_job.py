"""Quix Streams: a stateful function (RocksDB, with a changelog), its results to two topics. Runs in a virtual environment of its own."""

from quixstreams import Application, State
from quixstreams.models import Topic

from bench.peers.assignment import assignment
from bench.peers.decision import decide, tier_current

TYPE_ENDS_BEFORE = 160
"""Bytes of an envelope within which its type stands."""


def main() -> None:
    """Work the input in; stopping commits what is left."""
    assigned = assignment()
    app = Application(
        broker_address=assigned.bootstrap_servers,
        consumer_group=assigned.group,
        auto_offset_reset="earliest",
        state_dir=assigned.state_directory,
        loglevel="ERROR",
        consumer_extra_config={"fetch.message.max.bytes": 4_194_304, "fetch.wait.max.ms": 100},
        producer_extra_config={
            "linger.ms": 20,
            "compression.type": "lz4",
            "enable.idempotence": True,
            "queue.buffering.max.messages": 1_000_000,
        },
    )
    team_events = app.topic(assigned.input, key_deserializer="bytes", value_deserializer="bytes")
    audit_events = app.topic(assigned.audit_events, key_serializer="bytes", value_serializer="bytes")
    current_tiers = app.topic(assigned.tier_current, key_serializer="bytes", value_serializer="bytes")
    left = assigned.events

    def classify(value: bytes, state: State) -> list[bytes]:
        nonlocal left
        after, audit, current = decide(state.get("team"), value)
        if after is not None:
            state.set("team", after)
        left -= 1
        if not left:
            app.stop()
        outputs = [] if audit is None else [audit]
        if current is not None:
            outputs.append(tier_current(*current))
        return outputs

    def target(value: bytes, _key: object, _timestamp: int, _headers: object) -> Topic:
        return current_tiers if value.find(b'"tier.current"', 0, TYPE_ENDS_BEFORE) > 0 else audit_events

    app.dataframe(team_events).apply(classify, stateful=True, expand=True).to_topic(target)
    app.run()


if __name__ == "__main__":
    main()
