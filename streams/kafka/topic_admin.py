"""The topics on the broker: created, altered, and compared with the topology of ``streams.topics``. Blocking."""

import logging
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from typing import NamedTuple, TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic

from streams.errors import KafkaUnavailable, TopologyError
from streams.kafka.refusals import DENIED, RefusalNotingAdmin, refusal
from streams.kafka.topic_state import Consequence, Difference, TopicState, differences, remedies
from streams.settings import Settings
from streams.topics import TOPICS, on_broker

REQUEST_SECONDS = 5.0
RETRY_SECONDS = 1.0
"""Between two tries to reach Kafka at the start."""
_SHOWN_SECONDS = 30.0

log = logging.getLogger(__name__)

T = TypeVar("T")


class Comparison(NamedTuple):
    """How the broker's topics differ from the topology: names of those that are missing, and each difference of the others."""

    missing: list[str]
    differing: list[Difference]

    def sentence(self) -> str:
        """Return what differs and what mends it, for an operator."""
        phrases = [str(difference) for difference in self.differing]
        if self.missing:
            phrases.append(f"missing: {', '.join(self.missing)}")
        return f"The topics differ from the topology: {'; '.join(phrases)}. {remedies(self.differing, missing=bool(self.missing))}"


def admin_client(settings: Settings) -> RefusalNotingAdmin:
    """Return a client that describes and changes topics. Kafka need not be there."""
    return RefusalNotingAdmin(settings)


def apply(settings: Settings) -> list[str]:
    """Create the topics that are missing and return their names once the broker shows them. Idempotent; two at once do no harm.

    Raises TopologyError when a topic that exists has another number of partitions or another cleanup policy (keys and state
    depend on both, so neither is changed), KafkaUnavailable.
    """
    admin = admin_client(settings)
    found = _compared(admin, settings)
    if _worst(found.differing) == Consequence.STOPS:
        raise TopologyError(found.sentence())
    wanted = dict(on_broker(settings))
    new = [NewTopic(name, settings.partitions, settings.replication_factor, config=wanted[name]) for name in found.missing]
    for name, future in (admin.create_topics(new, operation_timeout=30) if new else {}).items():
        try:
            future.result(30)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise TopologyError(f"The topic {name} can not be created: {error.args[0].str()}.") from error
    _until_shown(lambda: _compared(admin, settings).missing)
    return found.missing


def alter(settings: Settings) -> list[Difference]:
    """Give each property that differs the value that it should have, where that deletes nothing and can be taken back, and return what
    was altered once the broker shows it. Raises TopologyError when the broker refuses, KafkaUnavailable.

    So the sizes, the least number of in-sync copies and a longer retention are altered; partitions, copies, the cleanup policy and a
    shorter retention never are.
    """
    admin = admin_client(settings)
    altered = [difference for difference in _compared(admin, settings).differing if difference.obstacle is None]
    by_topic: dict[str, list[ConfigEntry]] = {}
    for difference in altered:
        entry = ConfigEntry(difference.name, difference.wanted, incremental_operation=AlterConfigOpType.SET)
        by_topic.setdefault(difference.topic, []).append(entry)
    resources = [ConfigResource(ConfigResource.Type.TOPIC, name, incremental_configs=entries) for name, entries in by_topic.items()]
    for resource, future in (admin.incremental_alter_configs(resources, request_timeout=REQUEST_SECONDS) if resources else {}).items():
        try:
            future.result(REQUEST_SECONDS)
        except KafkaException as error:
            raise TopologyError(f"The topic {resource.name} can not be altered: {error.args[0].str()}.") from error
    _until_shown(lambda: [str(each) for each in _compared(admin, settings).differing if each in altered])
    return altered


def compare(settings: Settings) -> Comparison:
    """Compare the broker's topics with all of ``TOPICS``. Raises KafkaUnavailable when it does not answer."""
    return _compared(admin_client(settings), settings)


def check(settings: Settings) -> None:
    """Raise TopologyError when the broker's topics are not those of ``TOPICS``, KafkaUnavailable when it does not answer."""
    found = compare(settings)
    if found.missing or found.differing:
        raise TopologyError(found.sentence())


def once_reachable(settings: Settings, call: Callable[[Settings], T], sleep: Callable[[float], object] = time.sleep) -> T:
    """Return ``call(settings)``, which is made again while Kafka is away, until TIERSTREAM_KAFKA_WAIT_SECONDS are over.

    Raises what the call raises; KafkaUnavailable only after that time.
    """
    until = time.monotonic() + settings.kafka_wait_seconds
    waits = False
    while True:
        try:
            return call(settings)
        except KafkaUnavailable as error:
            if time.monotonic() >= until:
                raise
            if not waits:
                log.warning("Waiting up to %g s for Kafka. %s", settings.kafka_wait_seconds, error)
            waits = True
        sleep(RETRY_SECONDS)


def require(settings: Settings) -> None:
    """Raise TopologyError when a topic is missing or is one that nothing right can be decided from; what else differs is logged.

    Raises KafkaUnavailable when the broker does not answer.
    """
    found = compare(settings)
    if found.missing or _worst(found.differing) == Consequence.STOPS:
        raise TopologyError(found.sentence())
    if found.differing:
        log.warning("%s", found.sentence())


def described(
    settings: Settings, admin: RefusalNotingAdmin, names: Collection[str], timeout_seconds: float = REQUEST_SECONDS
) -> dict[str, TopicState | None]:
    """Return each topic as it is on the broker, None for one that is not there. Raises KafkaUnavailable when it does not answer, or refuses.

    Where the properties may not be described, for there are ACLs, they are left out.
    """
    admin.forget()
    try:
        return _described(admin, names, timeout_seconds)
    except (KafkaException, TimeoutError) as error:
        denied = refusal(settings, error.args[0], "describe its topics") if isinstance(error, KafkaException) else None
        if refused := denied or admin.refusal():
            raise refused from error
        cause = error.args[0].str() if isinstance(error, KafkaException) else "timed out"
        raise KafkaUnavailable(
            f"Kafka does not answer at {settings.kafka_bootstrap_servers}: {cause}. Check TIERSTREAM_KAFKA_BOOTSTRAP_SERVERS."
        ) from error


def _described(admin: AdminClient, names: Collection[str], timeout_seconds: float) -> dict[str, TopicState | None]:
    states: dict[str, TopicState | None] = dict.fromkeys(names)
    admin.list_topics(next(iter(names)), timeout=timeout_seconds)  # without it, a broker that has died would be asked: see log_offsets.py
    topics = admin.describe_topics(TopicCollection(list(names)), request_timeout=timeout_seconds)
    resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in names]
    properties = {resource.name: future for resource, future in admin.describe_configs(resources, request_timeout=timeout_seconds).items()}
    for name, future in topics.items():
        try:
            topic = future.result(timeout_seconds)
            values = _values(properties[name], timeout_seconds)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise
            continue
        copies = min((len(partition.replicas) for partition in topic.partitions), default=0)
        states[name] = TopicState(str(topic.topic_id), len(topic.partitions), copies, values)
    return states


def _values(properties: "Future[dict[str, ConfigEntry]]", timeout_seconds: float) -> dict[str, str]:
    try:
        entries = properties.result(timeout_seconds)
    except KafkaException as error:
        if error.args[0].code() not in DENIED:
            raise
        return {}
    return {name: entry.value for name, entry in entries.items() if entry.value is not None}


def _until_shown(not_shown: Callable[[], list[str]]) -> None:
    """Return once the broker shows what was done, which it does a moment after it did it: a stage that starts must find it so."""
    deadline = time.monotonic() + _SHOWN_SECONDS
    while left := not_shown():
        if time.monotonic() > deadline:
            raise KafkaUnavailable(f"Kafka has changed what it does not show yet ({'; '.join(left)}); run `tierstream topics check` later.")
        time.sleep(0.05)


def _worst(found: Sequence[Difference]) -> int:
    return max((difference.consequence for difference in found), default=0)


def _compared(admin: RefusalNotingAdmin, settings: Settings) -> Comparison:
    states = described(settings, admin, [topic.full_name(settings) for topic in TOPICS])
    differing = [
        difference
        for topic in TOPICS
        if (state := states[topic.full_name(settings)]) is not None
        for difference in differences(topic, state, settings)
    ]
    return Comparison([name for name, state in states.items() if state is None], differing)
