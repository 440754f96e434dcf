"""Records on retry topics: what their headers say, and how long they wait."""

from datetime import timedelta

import pytest

from agents.forward.retries import KafkaRetries, Original, Retry, Tier, read_retry, retry_headers, retry_tiers
from streams.errors import KafkaUnavailable
from streams.kafka.dead_letters import Headers
from streams.settings import Settings
from tests.stage_doubles import NOW, Record, impatient

RETRY = Retry(3, 2, 7, NOW, "answer 403", "no answer within 10 s", "answer 403")


def test_headers_read_again_give_the_record_as_it_was_and_what_it_waits_for() -> None:
    record = Record(b"{}", "prefix:audit.events", 3, 17, b"team", [("traceparent", b"00")])

    waiting = Record(record.value, "forward.retry.5m", 3, 4, record.key, retry_headers(record, RETRY))
    original, retry = read_retry(waiting)

    assert original == Original(record.topic, record.partition, record.offset, record.key, record.value, record.headers)
    assert retry == RETRY


@pytest.mark.parametrize("headers", [[], [("retry-due", b"soon")], [("retry-round", None)]])
def test_record_that_somebody_else_put_on_a_retry_topic_stands_for_itself(headers: Headers) -> None:
    original, retry = read_retry(Record(b"{}", "forward.retry.5m", 3, 4, b"team", headers))

    assert (original.topic, original.partition, original.offset, retry) == ("forward.retry.5m", 3, 4, None)


def test_errors_in_headers_are_cut() -> None:
    headers = dict(retry_headers(Record(b""), Retry(1, 1, 1, NOW, "answer 404", "x" * 5_000, "y" * 5_000)))

    assert len(headers["retry-first-error"] or b"") == len(headers["retry-last-error"] or b"") == 500


def test_due_times_are_spread_over_the_whole_tier_and_never_now() -> None:
    waits = [(Tier("topic", 30.0).due(NOW) - NOW).total_seconds() for _ in range(2_000)]

    assert 0.0 < min(waits) < 1.0
    assert 29.0 < max(waits) <= 30.0
    assert all(round(wait * 1_000_000) % 1_000 == 0 for wait in waits)


def test_tiers_are_the_retry_topics_the_shortest_first() -> None:
    tiers = retry_tiers(Settings(topic_prefix="p-"))

    assert [(tier.topic, tier.seconds) for tier in tiers] == [
        ("p-forward.retry.30s", 30.0),
        ("p-forward.retry.5m", 300.0),
        ("p-forward.retry.1h", 3600.0),
    ]


async def test_record_is_written_under_its_key_or_its_teams_once_kafka_is_there() -> None:
    sent: list[tuple[str, bytes, bytes | None]] = []
    failures = 2

    class Producer:
        async def send(self, topic: str, value: bytes, key: bytes | None = None, headers: Headers = (), *, timeout_seconds: float) -> None:
            nonlocal failures
            failures -= 1
            if failures >= 0:
                raise KafkaUnavailable("no")
            sent.append((topic, value, key))

    retries = KafkaRetries(Producer(), impatient("kafka"))
    await retries.write("forward.retry.30s", Record(b"value", key=b"key"), RETRY, b"team")
    await retries.write("forward.retry.30s", Record(b"value", key=None), RETRY, b"team")

    assert sent == [("forward.retry.30s", b"value", b"key"), ("forward.retry.30s", b"value", b"team")]


def test_due_time_survives_the_header() -> None:
    due = Tier("topic", 30.0).due(NOW + timedelta(microseconds=123_456))

    _, retry = read_retry(Record(b"", headers=retry_headers(Record(b""), Retry(1, 1, 1, due, ""))))
    assert retry is not None
    assert retry.due == due
