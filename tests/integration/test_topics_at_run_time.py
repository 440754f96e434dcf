"""Topics that are changed, or not there, while gateway and stages run: on a broker that makes topics by itself, which is Kafka's default."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from agents.classify.stage import ClassifyStage
from agents.normalise.decide import Rules
from agents.normalise.stage import NormaliseStage
from schemas.tiers import Tier
from streams import topics
from streams.embedded.kafka import EmbeddedKafka
from streams.embedded.process import free_port
from streams.errors import PositionError, TopologyError
from streams.kafka import topic_admin
from streams.kafka.client import client_config
from streams.kafka.partitioner import partition_of
from streams.kafka.producer import AcknowledgedProducer
from streams.publisher import Publisher
from streams.settings import Settings, load_settings
from streams.topics import TOPICS
from tests.integration.test_gateway import RunningGateway
from tests.integration.test_gateway import running as gateway
from tests.running_gateways import TOKEN, claim, receiving, says
from tests.topic_io import Json, alter_topic, read_all, read_json
from tests.waiting import until
from tests.workers import running, table

PARTITIONS = 2
RULES = Rules(plans={"plan_pro": Tier.PRO}, team_note="team_id")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a broker that makes every topic that somebody asks for in the usual way."""
    kafka = EmbeddedKafka(tmp_path_factory.mktemp("kafka"), properties={"auto.create.topics.enable": "true"})
    with asyncio.Runner() as runner:
        try:
            runner.run(kafka.start())
            yield kafka.bootstrap_servers
        finally:
            runner.run(kafka.stop())


@pytest.fixture
def bare(broker: str) -> Settings:
    """Settings whose topics do not exist."""
    return load_settings(
        kafka_bootstrap_servers=broker,
        topic_prefix=f"t{secrets.token_hex(4)}.",
        partitions=PARTITIONS,
        replication_factor=1,
        admin_port=free_port(),
    )


@pytest.fixture
def settings(bare: Settings) -> Settings:
    topic_admin.apply(bare)
    return bare


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=20) as client:
        yield client


def on_broker(settings: Settings) -> set[str]:
    return {name for name in AdminClient(client_config(settings)).list_topics(timeout=10).topics if name.startswith(settings.topic_prefix)}


def delete(settings: Settings, topic: topics.Topic) -> None:
    admin, name = AdminClient(client_config(settings)), topic.full_name(settings)
    admin.delete_topics([name])[name].result(30)


def add_partitions(settings: Settings, topic: topics.Topic, count: int) -> None:
    admin, name = AdminClient(client_config(settings)), topic.full_name(settings)
    admin.create_partitions([NewPartitions(name, count)])[name].result(30)


def charge(number: int) -> bytes:
    """A signed-for subscription's charge, of a team and a subscription of its own."""
    subscription = {
        "id": f"sub_{number}",
        "plan_id": "plan_pro",
        "status": "active",
        "notes": {"team_id": f"7b0c54c8-2f55-4c1b-9f59-{number:012x}"},
        "paid_count": 1,
        "created_at": 1_760_000_000,
        "current_start": 1_760_000_000,
        "current_end": 1_762_600_000,
    }
    payment = {"id": f"pay_{number}", "amount": 100, "currency": "INR", "created_at": 1_760_000_010}
    payload = {"subscription": {"entity": subscription}, "payment": {"entity": payment}}
    return json.dumps({"event": "subscription.charged", "created_at": 1_760_000_010, "payload": payload}).encode()


def normalise(settings: Settings) -> NormaliseStage:
    return NormaliseStage(settings, RULES)


async def test_gateway_before_the_topics_are_made_answers_503_and_makes_none(bare: Settings) -> None:
    async with gateway(receiving(bare)) as running_gateway:
        answers = [
            await running_gateway.webhook(charge(1)),
            await running_gateway.webhook(b"[]"),
            await running_gateway.http.post(f"{running_gateway.url}/v1/events", json=claim(), headers=TOKEN),
        ]
        assert [answer.status_code for answer in answers] == [503] * 3
        assert all("has no topic" in answer.json()["error"] and answer.headers["retry-after"] for answer in answers)
        await until(says(bare, 503, f"has no topic {bare.topic_prefix}razorpay.webhooks"), "readyz says so")
        assert on_broker(bare) == set()

        created = await asyncio.to_thread(topic_admin.apply, bare)
        assert len(created) == len(TOPICS)
        await until(says(bare, 200, "answers and has every topic"), "the gateway is ready")
        await until_accepted(running_gateway, charge(1))

    assert {message.partition() for message in read_all(bare, "razorpay.webhooks")} <= set(range(PARTITIONS))


async def test_gateway_with_a_spool_before_the_topics_are_made_keeps_what_it_accepts_and_sends_it_later(
    bare: Settings, tmp_path: Path
) -> None:
    async with gateway(receiving(bare, gateway_spool=tmp_path)) as running_gateway:
        assert [(await running_gateway.webhook(charge(number), f"e{number}")).status_code for number in range(3)] == [200] * 3
        assert on_broker(bare) == set()
        await asyncio.to_thread(topic_admin.apply, bare)
        await until(lambda: len(read_all(bare, "razorpay.webhooks")) == 3, "what was spooled is on its topic")


async def test_stages_before_the_topics_are_made_end_with_one_sentence_and_make_none(bare: Settings) -> None:
    async with running(bare, table(bare, ClassifyStage(bare))) as classify:
        failure = await classify.failure()

    assert isinstance(failure, TopologyError)
    assert "missing: " in str(failure)
    assert on_broker(bare) == set()


async def test_publisher_and_producer_make_no_topic(bare: Settings) -> None:
    with Publisher(source="test", settings=bare) as publisher:
        publisher.publish("near_quota_wall", f"7b0c54c8-2f55-4c1b-9f59-{0:012x}", {"resource_type": "seats", "used": 9, "limit": 10})
        publisher.close(1.0)
    async with AcknowledgedProducer(bare) as producer:
        with pytest.raises(Exception, match="has no topic"):
            await producer.send(topics.DEAD_LETTERS.full_name(bare), b"value", timeout_seconds=5)

    assert on_broker(bare) == set()


async def test_main_path_on_a_broker_that_makes_topics_by_itself_makes_only_those_of_the_topology(settings: Settings) -> None:
    stages = (table(settings, normalise(settings)), table(settings, ClassifyStage(settings)))
    with_port_of_its_own = settings.model_copy(update={"admin_port": 0})
    async with running(with_port_of_its_own, *stages) as work, gateway(receiving(settings)) as running_gateway:
        for number in range(20):
            assert (await running_gateway.webhook(charge(number), f"e{number}")).status_code == 200
        await work.until(lambda: len(upgraded(settings)) == 20, "every transition")

    assert on_broker(settings) == {topic.full_name(settings) for topic in TOPICS}


async def test_topic_deleted_under_gateway_and_stage_is_made_by_neither_and_the_stage_ends_once_it_is_made_anew(settings: Settings) -> None:
    impatient = settings.model_copy(update={"stall_seconds": 4.0})
    work_settings = impatient.model_copy(update={"admin_port": free_port()})
    async with running(work_settings, table(impatient, normalise(impatient))) as work, gateway(receiving(impatient)) as running_gateway:
        assert (await running_gateway.webhook(charge(1))).status_code == 200
        await work.decided(impatient, "normalise", 1)

        delete(settings, topics.RAZORPAY_WEBHOOKS)
        name = topics.RAZORPAY_WEBHOOKS.full_name(settings)
        await until(says(settings, 503, f"has no topic {name}"), "the gateway says that a topic is gone")
        await until(says(work_settings, 503, f"there is no topic {name}"), "the stage says so too")
        assert (await running_gateway.webhook(charge(2))).status_code == 503
        assert name not in on_broker(settings)

        await until(lambda: name in topic_admin.apply(settings), "the topic is made anew")
        failure = await work.failure()
        await until_accepted(running_gateway, charge(3))
        await until(says(settings, 200, f"{name} was deleted and made anew"), "readyz says so")

    assert isinstance(failure, PositionError)


async def test_partitions_added_under_a_running_stack_lose_nothing_and_everything_says_so(settings: Settings) -> None:
    work_settings = settings.model_copy(update={"admin_port": 0, "stall_seconds": 8.0})
    stages = (table(work_settings, normalise(settings)), table(work_settings, ClassifyStage(settings)))
    accepted, refused = 0, ""
    async with running(work_settings, *stages) as work, gateway(receiving(settings)) as running_gateway:
        for number in range(10):
            assert (await running_gateway.webhook(charge(number), f"e{number}")).status_code == 200
        await work.decided(settings, "normalise", 10)

        add_partitions(settings, topics.RAZORPAY_WEBHOOKS, 4)
        for number in range(10, 5_000):
            answer = await running_gateway.webhook(charge(number), f"e{number}")
            if answer.status_code != 200:
                refused = answer.json()["error"]
                break
            accepted = number + 1
        failure = await work.failure()
        await until(says(settings, 503, f"{topics.RAZORPAY_WEBHOOKS.full_name(settings)} has 4 partitions instead of 2"), "readyz says so")

    sentence = f"{topics.RAZORPAY_WEBHOOKS.full_name(settings)} has 4 partitions instead of 2"
    assert answer.status_code == 503
    assert sentence in refused
    assert isinstance(failure, TopologyError)
    assert sentence in str(failure)
    landed = read_all(settings, "razorpay.webhooks")
    assert len(landed) == accepted
    assert {message.partition() for message in landed} <= {0, 1}


async def test_way_out_after_partitions_were_added_leads_out(settings: Settings) -> None:
    """As docs/deployment.md has it: the larger number everywhere, and the tables decided again from the logs."""
    derived = (topics.NORMALISE_CHANGELOG, topics.CLASSIFY_CHANGELOG, topics.TIER_CURRENT)
    at_work = settings.model_copy(update={"admin_port": 0})
    stages = (table(at_work, normalise(settings)), table(at_work, ClassifyStage(settings)))
    async with running(at_work, *stages) as work, gateway(receiving(at_work)) as running_gateway:
        for number in range(20):
            assert (await running_gateway.webhook(charge(number), f"e{number}")).status_code == 200
        await work.until(lambda: len(upgraded(settings)) == 20, "every transition")
    add_partitions(settings, topics.RAZORPAY_WEBHOOKS, 4)

    grown = at_work.model_copy(update={"partitions": 4})
    for topic in set(TOPICS) - {*derived, topics.RAZORPAY_WEBHOOKS}:
        add_partitions(settings, topic, 4)
    for topic in derived:
        delete(settings, topic)
    groups = [topics.group_id(settings, stage) for stage in ("normalise", "classify")]
    admin = AdminClient(client_config(settings))
    for future in admin.delete_consumer_groups(groups).values():
        future.result(30)
    made: set[str] = set()

    def is_made_anew() -> bool:
        made.update(topic_admin.apply(grown))
        return len(made) == len(derived)

    await until(is_made_anew, "what was deleted is made anew")
    topic_admin.check(grown)

    stages = (table(grown, normalise(grown)), table(grown, ClassifyStage(grown)))
    async with running(grown, *stages) as work, gateway(receiving(grown)) as running_gateway:
        for number in range(10, 40):  # ten of them again
            assert (await running_gateway.webhook(charge(number), f"e{number}")).status_code == 200
        await work.until(lambda: len({event["subject"] for event in upgraded(settings)}) == 40, "every transition", 90)
        await work.until(lambda: len({event["subject"] for event in read_json(settings, "tier.current")}) == 40, "every tier")
    by_id = {event["id"]: event for event in upgraded(settings)}
    assert len(by_id) == 40
    assert all(message.partition() == partition_of(message.key() or b"", 4) for message in read_all(settings, "tier.current"))


async def test_changelog_that_is_made_anew_under_a_live_stage_ends_it(settings: Settings) -> None:
    impatient = settings.model_copy(update={"stall_seconds": 4.0})
    async with (
        running(impatient, table(impatient, normalise(impatient))) as work,
        gateway(receiving(settings, admin_port=0)) as running_gateway,
    ):
        assert (await running_gateway.webhook(charge(1))).status_code == 200
        await work.decided(impatient, "normalise", 1)
        delete(settings, topics.NORMALISE_CHANGELOG)
        name = topics.NORMALISE_CHANGELOG.full_name(settings)
        await until(lambda: name in topic_admin.apply(settings), "the changelog is made anew")
        failure = await work.failure()

    assert isinstance(failure, PositionError)
    assert f"{name} was deleted and made anew" in str(failure)


@pytest.mark.parametrize(
    ("topic", "property_name", "value"),
    [(topics.RAZORPAY_WEBHOOKS, "cleanup.policy", "compact"), (topics.NORMALISE_CHANGELOG, "cleanup.policy", "compact,delete")],
)
async def test_another_cleanup_policy_ends_the_stage(settings: Settings, topic: topics.Topic, property_name: str, value: str) -> None:
    impatient = settings.model_copy(update={"stall_seconds": 4.0})
    async with running(impatient, table(impatient, normalise(impatient))) as work:
        await work.until(lambda: len(work.partitions) == PARTITIONS, "the stage works")
        alter_topic(settings, topic.name, {property_name: value})
        failure = await work.failure()

    assert isinstance(failure, TopologyError)
    assert f"{topic.full_name(settings)} has {property_name}={value} instead of" in str(failure)


async def test_gateway_whose_topic_is_compacted_answers_503_and_with_a_spool_holds_back_until_it_is_not(
    settings: Settings, tmp_path: Path
) -> None:
    name = topics.RAZORPAY_WEBHOOKS.full_name(settings)
    spooling = receiving(settings, gateway_spool=tmp_path, admin_port=free_port())
    async with gateway(receiving(settings)) as plain, gateway(spooling) as with_spool:
        alter_topic(settings, "razorpay.webhooks", {"cleanup.policy": "compact"})
        await until(says(settings, 503, f"{name} has cleanup.policy=compact instead of delete"), "the gateway is not ready")
        await until(says(spooling, 200, f"{name} has cleanup.policy=compact instead of delete"), "the one with a spool says so")

        refused, kept = await plain.webhook(charge(1)), await with_spool.webhook(charge(2))
        assert (refused.status_code, kept.status_code) == (503, 200)
        assert "cleanup.policy=compact" in refused.json()["error"]
        assert read_all(settings, "razorpay.webhooks") == []

        alter_topic(settings, "razorpay.webhooks", {"cleanup.policy": "delete"})
        await until(lambda: [message.value() for message in read_all(settings, "razorpay.webhooks")] == [charge(2)], "it is sent")
        await until_accepted(plain, charge(1))


async def test_fewer_copies_than_set_stop_the_gateway_and_are_named_by_a_stage_that_goes_on(settings: Settings) -> None:
    """With one broker the topics have a minimum of 1: the settings ask for two."""
    strict = settings.model_copy(update={"min_insync_replicas": 2, "stall_seconds": 4.0})
    work_settings = strict.model_copy(update={"admin_port": free_port()})
    async with running(work_settings, table(strict, normalise(strict))) as work, gateway(receiving(strict)) as running_gateway:
        answer = await running_gateway.webhook(charge(1))
        assert answer.status_code == 503
        assert "min.insync.replicas=1 instead of 2" in answer.json()["error"]
        await work.until(says(work_settings, 200, "min.insync.replicas=1 instead of 2"), "the stage names it and is ready")


async def test_topic_made_by_somebody_else_with_one_partition_gets_nothing_from_gateway_or_publisher(bare: Settings) -> None:
    name = topics.RAZORPAY_WEBHOOKS.full_name(bare)
    admin = AdminClient(client_config(bare))
    admin.create_topics([NewTopic(name, 1, 1)])[name].result(30)
    async with gateway(receiving(bare)) as running_gateway:
        answer = await running_gateway.webhook(charge(1))
        assert answer.status_code == 503
        assert f"{name} has 1 partitions instead of 2" in answer.json()["error"]
    assert read_all(bare, "razorpay.webhooks") == []


def upgraded(settings: Settings) -> list[Json]:
    return [event for event in read_json(settings, "audit.events") if event["type"] == "subscription.upgraded"]


async def until_accepted(running_gateway: RunningGateway, body: bytes) -> None:
    """Return once a webhook is answered 200: the producer learns of a topic a moment after the gateway does."""
    async with asyncio.timeout(30):
        while (await running_gateway.webhook(body)).status_code != 200:
            pass
