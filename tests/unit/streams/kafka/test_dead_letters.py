"""Dead letters keep the record whole."""

from typing import Any

import pytest

from schemas.reasons import Reason
from streams.errors import KafkaUnavailable, RecordTooLarge
from streams.kafka.dead_letters import MAX_ERROR_CHARACTERS, Headers, KafkaDeadLetters, Origin, dead_letter_headers
from tests.stage_doubles import Record, impatient

RECORD = Record(b"value", topic="audit.events", partition=3, offset=41, key=b"team", headers=[("content-type", b"json"), ("trace", None)])


class Producer:
    """Keeps what is produced; raises ``errors`` first."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.produced: list[tuple[str, bytes, bytes | None, dict[str, Any]]] = []

    async def send(self, topic: str, value: bytes, key: bytes | None = None, headers: Headers = (), *, timeout_seconds: float) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.produced.append((topic, value, key, dict(headers)))


async def write(producer: Producer, record: Record = RECORD) -> tuple[str, bytes, bytes | None, dict[str, Any]]:
    await KafkaDeadLetters(producer, "x.dead.letters", "audit", impatient("kafka")).write(record, Reason.MALFORMED, "It is broken.")
    (produced,) = producer.produced
    return produced


async def test_dead_letter_keeps_key_value_and_headers_and_says_why() -> None:
    topic, value, key, headers = await write(Producer())

    assert (topic, value, key) == ("x.dead.letters", b"value", b"team")
    assert headers.pop("dlq-time").isdigit()
    assert headers == {
        "content-type": b"json",
        "trace": None,
        "dlq-reason": b"malformed",
        "dlq-stage": b"audit",
        "dlq-topic": b"audit.events",
        "dlq-partition": b"3",
        "dlq-offset": b"41",
        "dlq-error": b"It is broken.",
        "dlq-replays": b"0",
    }


async def test_dead_letter_kafka_away_is_waited_out() -> None:
    _, value, _, _ = await write(Producer(*[KafkaUnavailable("away")] * 5))

    assert value == b"value"


async def test_dead_letter_too_large_goes_without_its_value_and_says_so() -> None:
    _, value, key, headers = await write(Producer(RecordTooLarge("too large")))

    assert (value, key) == (b"", b"team")
    assert headers["dlq-error"] == b"It is broken. Its value of 5 bytes is left out here, for it is too large."


async def test_dead_letter_of_a_record_without_a_value_is_written() -> None:
    _, value, _, _ = await write(Producer(), Record(None))

    assert value == b""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("The plan plan_2019 is in no file.", "The plan plan_2019 is in no file."),
        ("Whose subscription is jane@example.com?", "Whose subscription is j***@example.com?"),
        ("The plan a\nb\u2028c\x07\u202e is in no file.", "The plan a b c   is in no file."),
        ("The plan é is in no file.", "The plan é is in no file."),
        ("x" * MAX_ERROR_CHARACTERS, "x" * MAX_ERROR_CHARACTERS),
        ("x" * (MAX_ERROR_CHARACTERS + 1), "x" * (MAX_ERROR_CHARACTERS - 1) + "…"),
    ],
)
def test_dead_letter_says_why_on_one_line_and_without_addresses_whatever_ids_it_repeats(error: str, said: str) -> None:
    headers = dict(dead_letter_headers((), Origin("normalise", "razorpay.webhooks"), Reason.UNKNOWN_PLAN, error))

    assert (headers["dlq-error"] or b"").decode() == said
