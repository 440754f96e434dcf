"""The gateway's process: the app on its public port, the admin port beside it, one producer between them and Kafka."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

import structlog

from streams.errors import KafkaUnavailable, StageFailed
from streams.gateway.app import create_app
from streams.gateway.spooling import SpoolingProducer
from streams.kafka.producer import AcknowledgedProducer
from streams.runtime.admin import Health, serve_admin
from streams.runtime.http_server import listen, serving
from streams.settings import Settings
from streams.topics import DEAD_LETTERS, LOOPS_WEBHOOKS, RAZORPAY_WEBHOOKS, TEAM_EVENTS

GRACE_SECONDS = 4.0
"""For requests in flight at the end. With the producer's 2 s and the admin port's 1 s the whole stop stays under 10 s."""

FLUSH_SECONDS = 2.0
CHECK_INTERVAL_SECONDS = 2.0
CHECK_SECONDS = 2.0

log = structlog.stdlib.get_logger(__name__)


async def run(settings: Settings, stop: asyncio.Event, *, on_ready: Callable[[str], None] | None = None) -> None:
    """Serve until ``stop`` is set; then let requests in flight finish, flush, and return, within 10 s.

    Kafka need not be there: until it is, requests are answered 503, or go to the spool if one is set. ``on_ready`` is called with the public URL once the port
    listens. Raises ConfigurationError for a missing secret or a taken port, StageFailed when the producer can not go on.
    """
    settings.require("gateway")
    health = Health()
    async with AsyncExitStack() as stack:
        producer = SpoolingProducer(settings) if settings.gateway_spool else AcknowledgedProducer(settings)
        stack.push_async_callback(producer.close, FLUSH_SECONDS)
        if isinstance(producer, SpoolingProducer):
            health.watch("spool", producer.state)
        app = create_app(settings, producer)
        listener = listen(settings.gateway_host, settings.gateway_port, "GATEWAY")
        stack.callback(listener.close)
        admin_url = await stack.enter_async_context(serve_admin(settings, health))
        url = await stack.enter_async_context(serving(app, listener, grace_seconds=GRACE_SECONDS))
        watch = asyncio.create_task(_watch_kafka(settings, producer, health))
        stack.callback(watch.cancel)
        log.info("gateway listens", url=url, admin=admin_url)
        if on_ready:
            on_ready(url)
        await _first(stop, producer.failed)
        if producer.failed.is_set():
            raise StageFailed(
                "The gateway's Kafka producer failed for good; start the gateway again, and see the broker's log if it recurs."
            )
        log.info("gateway stops")


async def _first(*events: asyncio.Event) -> None:
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


async def _watch_kafka(settings: Settings, producer: AcknowledgedProducer | SpoolingProducer, health: Health) -> None:
    topics = [topic.full_name(settings) for topic in (RAZORPAY_WEBHOOKS, LOOPS_WEBHOOKS, TEAM_EVENTS, DEAD_LETTERS)]
    health.set("kafka", False, "not asked yet")
    while True:
        try:
            await producer.check(topics, timeout_seconds=CHECK_SECONDS)
        except KafkaUnavailable as error:
            health.set("kafka", settings.gateway_spool is not None, str(error))  # with a spool requests are still taken
        else:
            health.set("kafka", True, f"{settings.kafka_bootstrap_servers} answers and has every topic")
        await asyncio.sleep(CHECK_INTERVAL_SECONDS)
