"""The gateway's process: the app on its public port, the admin port beside it, one producer between them and Kafka."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

import structlog

from streams.errors import KafkaUnavailable, StageFailed
from streams.gateway.app import create_app
from streams.gateway.spooling import SpoolingProducer
from streams.kafka.producer import AcknowledgedProducer
from streams.kafka.topic_state import Consequence
from streams.kafka.topic_watch import Seen, TopicWatch, look_seconds
from streams.runtime.admin import Health, serve_admin
from streams.runtime.http_limits import ConnectionLimits, networks_of
from streams.runtime.http_server import listen, serving
from streams.settings import Settings
from streams.topics import topics_of

GRACE_SECONDS = 4.0
"""For requests in flight at the end. With the producer's 2 s and the admin port's 1 s the whole stop stays under 10 s."""

FLUSH_SECONDS = 2.0
CHECK_INTERVAL_SECONDS = 2.0
CHECK_SECONDS = 2.0

_NOT_SEEN = "The topics have not been looked at yet."

log = structlog.stdlib.get_logger(__name__)


async def run(settings: Settings, stop: asyncio.Event, *, on_ready: Callable[[str], None] | None = None) -> None:
    """Serve until ``stop`` is set; then let requests in flight finish, flush, and return, within 10 s.

    Kafka need not be there: until it is, requests are answered 503, or go to the spool if one is set; so are those of a time in which
    the topics are not what they should be (``Consequence``). ``on_ready`` is called with the public URL once requests are answered. Raises
    ConfigurationError for a missing secret or a taken port, StageFailed when the producer can not go on.
    """
    settings.require("gateway")
    health = Health()
    async with AsyncExitStack() as stack:
        producer = SpoolingProducer(settings, refusal=_NOT_SEEN) if settings.gateway_spool else AcknowledgedProducer(settings)
        stack.push_async_callback(producer.close, FLUSH_SECONDS)
        if isinstance(producer, SpoolingProducer):
            health.watch("spool", producer.state)
        app = create_app(settings, producer)
        listener = listen(settings.gateway_host, settings.gateway_port, "GATEWAY")
        stack.callback(listener.close)
        admin_url = await stack.enter_async_context(serve_admin(settings, health))
        watch = TopicWatch(settings, "gateway", topics_of("gateway"))
        await _look(settings, watch, producer, health)  # before the first request is answered
        proxies = networks_of(settings.gateway_proxies)
        limits = ConnectionLimits(settings.gateway_max_connections, settings.gateway_max_connections_per_peer, proxies)
        url = await stack.enter_async_context(serving(app, listener, grace_seconds=GRACE_SECONDS, limits=limits))
        looking = asyncio.create_task(_keep_looking(settings, watch, producer, health))
        stack.callback(looking.cancel)
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


async def _keep_looking(settings: Settings, watch: TopicWatch, producer: AcknowledgedProducer | SpoolingProducer, health: Health) -> None:
    while True:
        await asyncio.sleep(look_seconds(CHECK_INTERVAL_SECONDS, settings.partitions))
        await _look(settings, watch, producer, health)


async def _look(settings: Settings, watch: TopicWatch, producer: AcknowledgedProducer | SpoolingProducer, health: Health) -> None:
    """Look at Kafka and its topics, and let the producer send or not."""
    servers = settings.kafka_bootstrap_servers
    try:
        seen = await asyncio.to_thread(watch.look, CHECK_SECONDS)
    except KafkaUnavailable as error:
        health.set("kafka", settings.gateway_spool is not None, str(error))  # with a spool requests are still taken
        if not watch.has_seen:
            producer.note_topics(Seen(), str(error))
        return
    why = refusal(seen, servers)
    producer.note_topics(seen, why)
    if why is not None:
        health.set("kafka", settings.gateway_spool is not None, f"{why} In all: {seen.note()}.")
    elif seen.missing:
        missing = " or ".join(seen.missing)
        health.set(
            "kafka", settings.gateway_spool is not None, f"Kafka at {servers} has no topic {missing}; run `tierstream topics apply`."
        )
    else:
        note = seen.note()
        health.set("kafka", True, f"{servers} answers and has every topic" + (f", but {note}" if note else ""))


def refusal(seen: Seen, servers: str) -> str | None:
    """Return why the gateway accepts nothing with the topics as they are; None when it does. A topic that is missing is refused by Kafka.

    A topic that was made anew is one that takes records again: what was lost with the former one, normalise says.
    """
    wrong = seen.with_consequence(Consequence.REFUSES)
    if not wrong:
        return None
    return f"At {servers} {'; '.join(map(str, wrong))}; see `tierstream topics check`."
