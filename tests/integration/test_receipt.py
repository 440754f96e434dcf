"""When a record was received, on a real broker: the gateway's word, else the broker's, and never a foreign producer's."""

import time
import uuid
from collections import Counter
from typing import Any

import orjson
from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Producer

from agents.classify.stage import ClassifyStage
from agents.normalise.decide import Rules
from agents.normalise.stage import NormaliseStage
from schemas.tiers import Tier
from streams.kafka.client import producer_config
from streams.settings import Settings
from tests.accounting import outcomes
from tests.topic_io import read_all, read_json
from tests.webhooks import body
from tests.workers import running, table

RULES = Rules({"plan_pro": Tier.PRO})
SHORTLY_AFTER_1970 = 1_000
FAR_FUTURE = 4_102_444_800_000
"""2100-01-01, in milliseconds."""

Sent = tuple[str, bytes, bytes, int, dict[str, str | bytes | None]]
"""Topic, key, value, timestamp in milliseconds, headers."""


def produce(settings: Settings, records: list[Sent]) -> None:
    """Produce as a program does that sets the timestamps of its records itself."""
    producer = Producer(producer_config(settings))
    for topic, key, value, timestamp, headers in records:
        producer.produce(settings.topic_prefix + topic, value=value, key=key, timestamp=timestamp, headers=headers)
    assert producer.flush(30) == 0


def claim(at: float, timestamp: int) -> Sent:
    team = str(uuid.uuid4())
    head = {"specversion": "1.0", "id": "c1", "source": "crm", "type": "onboarding.claimed", "subject": team, "time": rfc3339(at)}
    return "team.events", team.encode(), orjson.dumps({**head, "data": {"email": "owner@example.com"}}), timestamp, {}


def rfc3339(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def webhook(subscription: str, at: float | None, timestamp: int, received_at: bytes | None = None, **more: Any) -> Sent:
    value = orjson.dumps(body(created_at=at and int(at), subscription={"id": subscription, **more}))
    return "razorpay.webhooks", subscription.encode(), value, timestamp, {"received-at": received_at} if received_at else {}


async def test_timestamp_that_a_producer_sets_itself_is_no_receipt(kafka_settings: Settings) -> None:
    now = time.time()
    produce(
        kafka_settings,
        [
            claim(now, SHORTLY_AFTER_1970),
            claim(now - 60, FAR_FUTURE),
            claim(now + 3_600, FAR_FUTURE),
            claim(now + 3_600, SHORTLY_AFTER_1970),
            webhook("sub_old_clock", now, SHORTLY_AFTER_1970),
            webhook("sub_no_time", None, SHORTLY_AFTER_1970),
            webhook("sub_ahead", now + 3_600, FAR_FUTURE),
            webhook("sub_gateway", now - 86_400, FAR_FUTURE, b"%d" % ((now - 86_400) * 1000)),
            webhook("sub_ahead_of_the_gateway", now, FAR_FUTURE, b"%d" % ((now - 3_600) * 1000)),
            webhook("sub_odd_header", now, SHORTLY_AFTER_1970, b"9" * 40),
        ],
    )

    normalise, classify = NormaliseStage(kafka_settings, RULES), ClassifyStage(kafka_settings)
    async with running(kafka_settings, table(kafka_settings, normalise), table(kafka_settings, classify)) as run:
        await run.decided(kafka_settings, "normalise", 6)
        await run.decided(kafka_settings, "classify", 8)

    assert outcomes(kafka_settings, "normalise") == Counter({"normalised": 4, "future_time": 2})
    assert outcomes(kafka_settings, "classify")["future_time"] == 2
    assert sum(outcomes(kafka_settings, "classify").values()) == 8
    facts = {
        fact["data"]["subscription_id"]: fact["data"]
        for fact in read_json(kafka_settings, "team.events")
        if "data" in fact and "subscription_id" in fact["data"]
    }
    assert facts["sub_no_time"]["time_source"] == "receipt"
    assert now - 5 <= facts["sub_no_time"]["occurred_at"] <= time.time() + 5


async def test_receipt_stands_in_the_log_for_whoever_reads_it_again(kafka_settings: Settings) -> None:
    produce(kafka_settings, [claim(time.time(), SHORTLY_AFTER_1970), webhook("sub_1", time.time(), SHORTLY_AFTER_1970)])

    for topic in ("team.events", "razorpay.webhooks"):
        (first,), (again,) = read_all(kafka_settings, topic), read_all(kafka_settings, topic)
        kind, milliseconds = first.timestamp()
        assert kind == TIMESTAMP_LOG_APPEND_TIME
        assert abs(milliseconds / 1000 - time.time()) < 60
        assert again.timestamp() == first.timestamp()
