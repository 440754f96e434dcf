"""What a publisher keeps on its disk while Kafka is away: in order, within the limit, over a restart."""

import errno
import os
from pathlib import Path

import pytest

from streams.kafka.producer import MAX_MESSAGE_BYTES, Record
from streams.publisher import Limits
from streams.publisher.delivery import Delivery
from streams.publisher.spool import Spool, open_private
from tests.publisher_doubles import FAST, FakeKafka, balanced, publish, publishing
from tests.waiting import blocked_until


@pytest.fixture
def kafka() -> FakeKafka:
    return FakeKafka()


def test_kafka_away_events_go_to_the_spool_and_are_sent_in_order_before_anything_newer(kafka: FakeKafka, tmp_path: Path) -> None:
    kafka.away = True
    limits = Limits(buffer_records=200, window_records=10, spill_after_seconds=0.02)
    with publishing(kafka, spool=tmp_path, limits=limits) as publisher:
        for number in range(1_000):
            publish(publisher, number)
            if number % 100 == 99:
                blocked_until(lambda wanted=number: publisher.stats().spooled == wanted + 1)  # type: ignore[misc]
        assert (publisher.stats().pending, publisher.stats().dropped) == (1_000, 0)

        kafka.away = False
        publish(publisher, *range(1_000, 1_100))

        assert publisher.close(10) == 0
        assert (publisher.stats().sent, publisher.stats().pending) == (1_100, 0)
    assert kafka.used == list(range(1_100))
    assert list(tmp_path.glob("*.spool")) == []


def test_what_close_can_not_deliver_is_in_the_spool_and_sent_first_by_the_next(kafka: FakeKafka, tmp_path: Path) -> None:
    kafka.away = True
    with publishing(kafka, spool=tmp_path, limits=Limits(spill_after_seconds=60)) as publisher:
        first = publish(publisher, *range(100))
        assert publisher.close(0) == 100
        assert publisher.stats().dropped == 0
        assert publish(publisher, 100) == [None]
        assert publisher.stats().dropped == 1

    kafka.away = False
    with publishing(kafka, spool=tmp_path) as publisher:
        publish(publisher, 200)
        assert publisher.close(10) == 0
        assert (publisher.stats().recovered, publisher.stats().sent) == (100, 101)
        assert balanced(publisher)
    assert kafka.used == [*range(100), 200]
    assert [record["id"] for record in kafka.records[:100]] == first


def test_what_close_can_neither_deliver_nor_spool_is_dropped_and_counted(kafka: FakeKafka) -> None:
    kafka.away = True
    with publishing(kafka) as publisher:
        publish(publisher, *range(10))
        assert publisher.close(0.05) == 10
        assert publisher.close(0.05) == 10
        assert (publisher.stats().dropped, publisher.stats().pending) == (10, 0)


def test_spool_at_its_limit_memory_fills_and_then_the_rest_is_dropped_exactly(kafka: FakeKafka, tmp_path: Path) -> None:
    kafka.away = True
    limits = Limits(buffer_records=50, window_records=10, spill_after_seconds=0.0)
    with publishing(kafka, spool=tmp_path, spool_max_bytes=20_000, limits=limits) as publisher:
        for number in range(300):
            publish(publisher, number)
            blocked_until(lambda: publisher._delivery is not None and publisher._delivery._queue.empty())
        stats = publisher.stats()
        assert 30 < stats.spooled < 60
        assert stats.dropped == 300 - stats.spooled - 50
        assert balanced(publisher)

        kafka.away = False
        kept = 300 - stats.dropped
        blocked_until(lambda: publisher.stats().sent == kept)
    assert kafka.used == list(range(kept))


def test_disk_full_is_reported_once_memory_goes_on_and_the_disk_is_used_again_once_it_has_room(
    kafka: FakeKafka, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kafka.away = full = True

    def opener(path: str, flags: int) -> int:
        if full and path.endswith(".spool"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return open_private(path, flags)

    limits = Limits(buffer_records=20, window_records=10, spill_after_seconds=0.0)
    with publishing(kafka, spool=tmp_path, opener=opener, limits=limits) as publisher:
        for number in range(50):
            publish(publisher, number)
            blocked_until(lambda: publisher._delivery is not None and publisher._delivery._queue.empty())
        blocked_until(lambda: len(publisher._delivery._window.entries) == 10)  # type: ignore[union-attr]
        publish(publisher, *range(50, 60))
        assert publisher.stats().spooled == 0
        assert publisher.stats().pending == 30
        assert publisher.stats().dropped == 30

        full = False
        blocked_until(lambda: publisher.stats().spooled == 30)
        kafka.away = False
        blocked_until(lambda: publisher.stats().sent == 30)
    assert kafka.used == sorted(kafka.used)
    assert caplog.text.count("No space left on device") == 1


def test_spool_that_can_not_be_opened_costs_no_event(kafka: FakeKafka, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with publishing(kafka, spool=tmp_path / "file" / "spool") as publisher:
        publish(publisher, 1)
        assert publisher.close(5) == 0
    assert kafka.used == [1]


def test_second_publisher_on_a_spool_uses_memory_and_each_delivers_its_own(kafka: FakeKafka, tmp_path: Path) -> None:
    kafka.away = True
    with publishing(kafka, spool=tmp_path) as first, publishing(kafka, spool=tmp_path) as second:
        blocked_until(lambda: first._delivery is not None and (first._delivery._spool or second._delivery._spool))  # type: ignore[union-attr]
        publish(first, *range(10))
        publish(second, *range(10, 20))
        blocked_until(lambda: first.stats().spooled + second.stats().spooled == 10)
        kafka.away = False
        blocked_until(lambda: len(kafka.records) == 20)
    assert sorted(kafka.used) == list(range(20))


def test_record_in_the_spool_that_is_none_of_ours_is_dropped_and_counted(kafka: FakeKafka, tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=10_000)
    spool.append([b"no record"])
    spool.abandon()

    with publishing(kafka, spool=tmp_path) as publisher:
        publish(publisher, 1)
        assert publisher.close(5) == 0
        assert (publisher.stats().recovered, publisher.stats().dropped, publisher.stats().sent) == (1, 1, 1)


def test_record_larger_than_any_topic_takes_is_dropped_also_where_there_is_a_spool(kafka: FakeKafka, tmp_path: Path) -> None:
    kafka.max_bytes = MAX_MESSAGE_BYTES
    delivery = Delivery(kafka, lambda: Spool(tmp_path, max_bytes=1_000_000, fsync=False), FAST)
    assert delivery.put(Record("t", bytes(MAX_MESSAGE_BYTES + 1)))
    assert delivery.put(Record("t", b"1"))

    blocked_until(lambda: [record.value for record in kafka.taken] == [b"1"])
    blocked_until(lambda: delivery.stats().pending == 0)
    assert (delivery.stats().sent, delivery.stats().dropped) == (1, 1)
    assert delivery.close(1.0) == 0
