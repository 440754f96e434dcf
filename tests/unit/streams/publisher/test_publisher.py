"""Publishing with a Kafka that is only a list: what is reported to the caller, what waits, and what is lost, to the record."""

import asyncio
import math
import signal
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from confluent_kafka import KafkaError

from streams.errors import ConfigurationError
from streams.gateway.ingest import accept
from streams.publisher import Limits, Publisher
from streams.settings import Settings
from tests.publisher_doubles import NOW, QUOTA, SETTINGS, TEAM, FakeKafka, balanced, publish, publishing
from tests.waiting import blocked_until


@pytest.fixture
def kafka() -> FakeKafka:
    return FakeKafka()


def test_event_is_the_envelope_that_the_gateway_makes_of_it_but_for_its_source(kafka: FakeKafka) -> None:
    data = {"email": "jane@example.com", "tier": " Pro ", "plan": None, "seats": [1, 2.5]}
    with publishing(kafka) as publisher:
        assert publisher.publish("onboarding.claimed", TEAM.upper(), data, id="e-1", occurred_at=1_760_000_000) == "e-1"
        assert publisher.close(5) == 0

    event = {"kind": "onboarding.claimed", "team_id": TEAM, "data": data, "id": "e-1", "occurred_at": 1_760_000_000}
    _, (expected,) = accept([event], "billing", NOW, "t.team.events")
    assert kafka.records == [{**orjson.loads(expected.value), "source": "billing"}]
    (record,) = kafka.taken
    assert (record.topic, record.key, record.headers) == (expected.topic, expected.key, expected.headers)


def test_event_without_an_id_gets_a_random_one_and_without_a_time_happened_now(kafka: FakeKafka) -> None:
    with publishing(kafka) as publisher:
        first, second = publish(publisher, 1, 2)
        publisher.close(5)

    assert first is not None
    assert second is not None
    assert UUID(first).version == UUID(second).version == 4
    assert first != second
    assert [(record["id"], record["time"]) for record in kafka.records] == [
        (first, "2025-10-09T08:53:20Z"),
        (second, "2025-10-09T08:53:20Z"),
    ]


def test_data_is_taken_as_it_was_when_it_was_published(kafka: FakeKafka) -> None:
    data = dict(QUOTA)
    kafka.away = True
    with publishing(kafka) as publisher:
        publisher.publish("near_quota_wall", UUID(TEAM), data, id=uuid4())
        data["used"] = 0
        kafka.away = False
        publisher.close(5)

    assert kafka.used == [9]


class Nasty:
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __hash__ = __str__  # type: ignore[assignment]


CYCLE: dict[str, Any] = {**QUOTA}
CYCLE["self"] = CYCLE
DEEP: list[Any] = []
for _ in range(100_000):
    DEEP = [DEEP]

INVALID: list[tuple[Any, ...]] = [
    ("subscription.upgraded", TEAM, {}),
    ("near_quota_wall", "no team", QUOTA),
    ("near_quota_wall", None, QUOTA),
    ("near_quota_wall", TEAM, None),
    ("near_quota_wall", TEAM, {"used": 1}),
    ("near_quota_wall", TEAM, QUOTA, ""),
    ("near_quota_wall", TEAM, QUOTA, "x" * 101),
    ("near_quota_wall", TEAM, QUOTA, None, "yesterday"),
    ("near_quota_wall", TEAM, QUOTA, None, NOW.replace(year=2030)),
    ("near_quota_wall", TEAM, QUOTA, None, NOW.replace(tzinfo=None)),
    ("near_quota_wall", TEAM, {**QUOTA, "note": "\ud800"}),
    ("near_quota_wall", TEAM, {**QUOTA, "note": 1 << 70}),
    ("near_quota_wall", TEAM, {**QUOTA, "note": object()}),
    ("near_quota_wall", TEAM, {**QUOTA, "note": "x" * 1_100_000}),
    ("near_quota_wall", TEAM, CYCLE),
    ("near_quota_wall", TEAM, {**QUOTA, "note": DEEP}),
    ("near_quota_wall", TEAM, {**QUOTA, "used": math.nan}),
    ("near_quota_wall", TEAM, {**QUOTA, "used": "inf"}),
    ("near_quota_wall", TEAM, {**QUOTA, "note": [math.inf]}),
    ("near_quota_wall", TEAM, QUOTA, None, math.nan),
    ("near_quota_wall", TEAM, QUOTA, None, math.inf),
    ("near_quota_wall", TEAM, QUOTA, None, 10**400),
    (Nasty(), Nasty(), Nasty(), Nasty(), Nasty()),
]


@pytest.mark.parametrize("arguments", INVALID, ids=range(len(INVALID)))
def test_what_breaks_the_contract_is_refused_counted_and_reported_and_nothing_is_raised(
    kafka: FakeKafka, arguments: tuple[Any, ...]
) -> None:
    emitted: list[tuple[str, str]] = []
    with publishing(kafka, on_failure=lambda *failure: emitted.append(failure)) as publisher:
        assert publisher.publish(*arguments) is None

        assert publisher.close(5) == 0
        stats = publisher.stats()
    assert (stats.published, stats.invalid, stats.sent, stats.pending) == (1, 1, 0, 0)
    assert kafka.records == []
    assert [outcome for outcome, _ in emitted] == ["invalid"]


def test_without_strict_what_can_be_encoded_is_sent_as_it_is_and_the_rest_is_invalid(kafka: FakeKafka) -> None:
    with publishing(kafka, strict=False) as publisher:
        publisher.publish("near_quota_wall", TEAM, {"used": 1})
        publisher.publish("of my own", "no team", [1], "e-1", "yesterday")
        publisher.publish("near_quota_wall", TEAM.upper(), QUOTA)
        publisher.publish("near_quota_wall", TEAM, {"used": Decimal(1)})
        publisher.publish("near_quota_wall", TEAM, "x" * 1_100_000)
        publisher.publish(Nasty(), Nasty(), Nasty(), Nasty(), Nasty())  # type: ignore[arg-type]
        publisher.close(5)
        stats = publisher.stats()

    assert (stats.sent, stats.invalid) == (3, 3)
    short, strange, whole = kafka.records
    assert (short["data"], short["time"]) == ({"used": 1}, "2025-10-09T08:53:20+00:00")
    assert (strange["type"], strange["subject"], strange["id"], strange["time"]) == ("of my own", "no team", "e-1", "yesterday")
    assert whole["subject"] == TEAM


def test_callback_that_raises_stops_nothing(kafka: FakeKafka) -> None:
    def raises(_outcome: str, _sentence: str) -> None:
        raise RuntimeError("no")

    with publishing(kafka, on_failure=raises) as publisher:
        publisher.publish("near_quota_wall", "no team", QUOTA)
        publish(publisher, 1)
        blocked_until(lambda: kafka.used == [1])


def test_kafka_away_events_wait_in_memory_up_to_its_limit_and_the_rest_is_dropped_and_counted(kafka: FakeKafka) -> None:
    kafka.away = True
    emitted: list[str] = []
    limits = Limits(buffer_records=100, window_records=20, spill_after_seconds=0.02)
    with publishing(kafka, limits=limits, on_failure=lambda outcome, _: emitted.append(outcome)) as publisher:
        publish(publisher, *range(20))
        blocked_until(lambda: publisher._delivery is not None and publisher._delivery._taken == 20)
        ids = publish(publisher, *range(20, 150))

        assert ids.count(None) == 30
        assert balanced(publisher)
        kafka.away = False
        blocked_until(lambda: publisher.stats().sent == 120)
        assert publisher.stats().dropped == 30
        blocked_until(lambda: len(emitted) == 30)

    assert kafka.used == list(range(120))
    assert emitted == ["dropped"] * 30


def test_buffer_is_limited_in_bytes_too(kafka: FakeKafka) -> None:
    kafka.away = True
    with publishing(kafka, limits=Limits(buffer_bytes=100_000, window_bytes=1)) as publisher:
        for _ in range(30):
            publisher.publish("near_quota_wall", TEAM, {**QUOTA, "note": "x" * 10_000})

        assert 18 <= publisher.stats().dropped <= 21


def test_record_that_kafka_refuses_is_sent_again_before_those_behind_it(kafka: FakeKafka) -> None:
    kafka.away = True
    with publishing(kafka) as publisher:
        publish(publisher, *range(10))
        blocked_until(lambda: publisher._delivery is not None and publisher._delivery._taken == 10)
        kafka.refusal = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)
        kafka.away = False

        blocked_until(lambda: publisher.stats().sent == 10)
    assert kafka.used == list(range(10))


def test_record_that_is_too_large_for_kafka_is_dropped_and_holds_up_nothing(kafka: FakeKafka) -> None:
    reports: list[tuple[str, str]] = []
    kafka.max_bytes = 1_000
    with publishing(kafka, on_failure=lambda *report: reports.append(report)) as publisher:
        publish(publisher, *range(3))
        publisher.publish("near_quota_wall", TEAM, {**QUOTA, "note": "x" * 1_000})
        publish(publisher, *range(3, 6))
        assert publisher.close(5) == 0
        assert (publisher.stats().sent, publisher.stats().dropped) == (6, 1)
    assert kafka.used == [0, 1, 2, 3, 4, 5]
    assert [kind for kind, _ in reports] == ["dropped"]
    assert (
        "larger than t.team.events takes, for its max.message.bytes is less instead of 4194304; `tierstream topics apply --alter`"
        in reports[0][1]
    )


def test_record_too_large_for_its_topic_waits_aside_where_there_is_a_spool(kafka: FakeKafka, tmp_path: Path) -> None:
    kafka.max_bytes = 1_000
    limits = Limits(spill_after_seconds=0.02, aside_seconds=0.05)
    with publishing(kafka, spool=tmp_path, limits=limits) as publisher:
        publisher.publish("near_quota_wall", TEAM, {**QUOTA, "used": 0, "note": "x" * 1_000})
        publish(publisher, 1, 2)
        blocked_until(lambda: kafka.used == [1, 2])
        assert (publisher.stats().pending, publisher.stats().dropped) == (1, 0)
        assert balanced(publisher)

        kafka.max_bytes = None
        blocked_until(lambda: kafka.used == [1, 2, 0])
        blocked_until(lambda: publisher.stats().pending == 0)
        assert balanced(publisher)


def test_producer_that_failed_for_good_is_replaced_and_all_is_delivered(kafka: FakeKafka) -> None:
    with publishing(kafka) as publisher:
        kafka.fatal = True
        publish(publisher, *range(5))

        blocked_until(lambda: publisher.stats().sent == 5)
    assert kafka.used == list(range(5))
    assert kafka.producers == 2


def test_threads_publish_at_once_and_each_keeps_its_order(kafka: FakeKafka) -> None:
    with publishing(kafka) as publisher:
        threads = [threading.Thread(target=publish, args=(publisher, *range(first, first + 200))) for first in (0, 1_000, 2_000, 3_000)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert publisher.close(10) == 0
    for first in (0, 1_000, 2_000, 3_000):
        assert [number for number in kafka.used if first <= number < first + 200] == list(range(first, first + 200))


def test_signal_handler_may_publish_in_the_middle_of_a_publish(kafka: FakeKafka) -> None:
    with publishing(kafka) as publisher:
        former = signal.signal(signal.SIGALRM, lambda *_: publish(publisher, 1))
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        try:
            publish(publisher, *[0] * 2_000)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, former)
        assert publisher.close(10) == 0
        assert publisher.stats().sent == publisher.stats().published > 2_000


async def test_asyncio_code_publishes_directly_and_closes_without_blocking_the_loop(kafka: FakeKafka) -> None:
    kafka.away = True
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    async with Publisher(source="billing", settings=SETTINGS, new_transport=kafka) as publisher:
        publish(publisher, 1)
        assert await publisher.aclose(0.3) == 1
    ticking.cancel()
    assert ticks > 5


def test_missing_address_or_source_is_a_configuration_error(kafka: FakeKafka) -> None:
    with pytest.raises(ConfigurationError, match="bootstrap_servers"):
        Publisher(source="billing", settings=Settings(), new_transport=kafka)
    with pytest.raises(ConfigurationError, match="source"):
        Publisher(source="", settings=SETTINGS, new_transport=kafka)


def test_publisher_reads_the_addresses_it_is_given_as_any_setting(kafka: FakeKafka) -> None:
    with pytest.raises(ConfigurationError, match="TIERSTREAM_KAFKA_BOOTSTRAP_SERVERS: holds an address with a scheme"):
        Publisher("kafka://kafka:9092", source="billing", new_transport=kafka)


def test_publisher_in_a_pod_beside_a_service_of_our_name_starts(kafka: FakeKafka, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIERSTREAM_GATEWAY_PORT", "tcp://10.43.12.9:8080")

    with Publisher("kafka:9092", source="billing", new_transport=kafka) as publisher:
        assert publisher.publish("near_quota_wall", TEAM, QUOTA) is not None


def test_publisher_without_the_certificates_that_are_named_does_not_start(kafka: FakeKafka) -> None:
    settings = Settings(kafka_bootstrap_servers="kafka:9092", kafka_ssl_cafile="/no/such")

    with pytest.raises(ConfigurationError, match="TIERSTREAM_KAFKA_SSL_CAFILE: /no/such can not be read"):
        Publisher(source="billing", settings=settings, new_transport=kafka)
