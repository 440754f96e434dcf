"""Records that are larger than their topic takes, for the topic was altered: who is told, with which advice, and what waits."""

import asyncio
import json
import secrets
from pathlib import Path

import pytest

from agents.classify.stage import ClassifyStage
from streams import topics
from streams.embedded.process import free_port
from streams.errors import RecordTooLarge
from streams.kafka import topic_admin
from streams.settings import Settings
from tests.integration.test_gateway import running as gateway
from tests.running_gateways import TOKEN, claim, receiving, says
from tests.topic_io import alter_topic, read_all, read_json
from tests.waiting import until
from tests.workers import running, table


@pytest.fixture
def settings(kafka_settings: Settings) -> Settings:
    return kafka_settings.model_copy(update={"admin_port": free_port()})


async def test_record_too_large_for_its_topic_is_413_with_advice_that_is_true(settings: Settings, tmp_path: Path) -> None:
    noise = secrets.token_hex(12_000)
    name = topics.TEAM_EVENTS.full_name(settings)
    spooling = receiving(settings, gateway_spool=tmp_path, admin_port=free_port())
    async with gateway(receiving(settings)) as plain, gateway(spooling) as with_spool:
        alter_topic(settings, "team.events", {"max.message.bytes": "4000"})
        for each, of in ((plain, settings), (with_spool, spooling)):
            await until(says(of, 200, f"{name} has max.message.bytes=4000 instead of 4194304"), "the gateway names it and is ready")
            answer = await each.http.post(f"{each.url}/v1/events", json=claim(noise), headers=TOKEN)
            assert answer.status_code == 413
            assert "retry-after" not in answer.headers
            assert f"larger than {name} takes, for its max.message.bytes is 4000 instead of 4194304" in answer.json()["error"]
            assert "`tierstream topics apply --alter`" in answer.json()["error"]
            answer = await each.http.post(f"{each.url}/v1/events", json=[claim(), claim(noise)], headers=TOKEN)
            assert (answer.status_code, "a record of" in answer.json()["error"].lower()) == (413, True)
            assert (await each.http.post(f"{each.url}/v1/events", json=claim(), headers=TOKEN)).status_code == 202

        assert [str(each) for each in topic_admin.alter(settings)] == [f"{name} has max.message.bytes=4000 instead of 4194304"]
        for each in (plain, with_spool):
            assert (await each.http.post(f"{each.url}/v1/events", json=claim(noise), headers=TOKEN)).status_code == 202

    assert sum(noise.encode() in (message.value() or b"") for message in read_all(settings, "team.events")) == 2


async def test_small_records_that_were_refused_with_others_in_one_batch_are_not_too_large(settings: Settings, tmp_path: Path) -> None:
    """librdkafka puts what comes at the same time into one batch, and the broker's limit is on the batch."""
    alter_topic(settings, "razorpay.webhooks", {"max.message.bytes": "2500"})
    bodies = [json.dumps({"event": "x", "noise": secrets.token_hex(500)}).encode() for _ in range(60)]
    spooling = receiving(settings, gateway_spool=tmp_path, admin_port=free_port())
    async with gateway(receiving(settings)) as plain, gateway(spooling) as with_spool:
        answers = await asyncio.gather(*(plain.webhook(body, f"p{number}") for number, body in enumerate(bodies)))
        assert {answer.status_code for answer in answers} <= {200, 503}
        refused = [answer.json()["error"] for answer in answers if answer.status_code == 503]
        assert all("together with others, for its max.message.bytes is 2500" in sentence for sentence in refused)
        answers = await asyncio.gather(*(with_spool.webhook(body, f"s{number}") for number, body in enumerate(bodies)))
        assert {answer.status_code for answer in answers} == {200}
        await until(lambda: events(settings) >= {f"s{number}".encode() for number in range(60)}, "all of the spool's are on the topic")


async def test_output_too_large_for_its_topic_ends_the_stage_with_advice_that_is_true(settings: Settings) -> None:
    async with gateway(receiving(settings)) as running_gateway:
        noise = secrets.token_hex(12_000)
        event = {**claim(noise), "kind": "near_quota_wall", "data": {"resource_type": "seats", "used": 9, "limit": 10, "note": noise}}
        assert (await running_gateway.http.post(f"{running_gateway.url}/v1/events", json=event, headers=TOKEN)).status_code == 202
    alter_topic(settings, "audit.events", {"max.message.bytes": "4000"})
    work_settings = settings.model_copy(update={"admin_port": 0})
    async with running(work_settings, table(settings, ClassifyStage(settings))) as classify:
        failure = await classify.failure()
    assert isinstance(failure, RecordTooLarge)
    assert topics.AUDIT_EVENTS.full_name(settings) in str(failure)
    assert "`tierstream topics apply --alter`" in str(failure)

    topic_admin.alter(settings)
    async with running(work_settings, table(settings, ClassifyStage(settings))) as classify:
        await classify.decided(settings, "classify", 1)
    assert [event["type"] for event in read_json(settings, "audit.events")] == ["near_quota_wall"]


def events(settings: Settings) -> set[bytes | str | None]:
    return {dict(message.headers() or ()).get("razorpay-event-id") for message in read_all(settings, "razorpay.webhooks")}
