"""Fetch sessions: whatever happens on the way, the broker reads what the consumer asks for."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.fetch import FetchRequest, FetchRequest_v4, FetchRequest_v7, FetchRequest_v11, FetchRequestStruct
from hypothesis import given
from hypothesis import strategies as st

from streams.engine.fetch_sessions import MAX_EPOCH, FetchSession, SessionClient

NODE = 1
Wanted = dict[tuple[str, int], tuple[int, int]]

partitions = st.tuples(st.sampled_from(["team.events", "audit.events"]), st.integers(0, 3))
wishes = st.dictionaries(partitions, st.tuples(st.integers(0, 5), st.just(1_000)), min_size=1)
fates = st.sampled_from(["answered", "answered", "answered", "answer lost", "request lost", "cancelled", "session dropped", "no room"])


@dataclass
class Answer:
    session_id: int
    error_code: int = 0
    API_VERSION: int = 11


@dataclass
class Broker:
    """The broker's half of KIP-227: sessions by id, each with its epoch and what it reads."""

    version: type[FetchRequestStruct] = FetchRequest_v11
    fate: str = "answered"
    sessions: dict[int, tuple[int, Wanted]] = field(default_factory=dict)
    last: int = 0
    reads: Wanted = field(default_factory=dict)
    named: int = 0

    async def send(self, node_id: int, request: Any) -> Any:
        assert node_id == NODE
        if self.fate == "request lost":
            raise KafkaConnectionError
        if self.fate == "session dropped":
            self.sessions.clear()
        answer = self.answer(request.prepare({1: (0, self.version.API_VERSION)}))
        match self.fate:
            case "answer lost":
                raise KafkaConnectionError
            case "cancelled":
                raise asyncio.CancelledError
        return answer

    def answer(self, request: Any) -> Answer:
        named = {(topic, partition): (offset, most) for topic, parts in request.topics for partition, _, offset, _, most in parts}
        self.named = len(named)
        if request.session_epoch == 0:
            self.sessions.pop(request.session_id, None)
            self.reads = named
            if self.fate == "no room":
                return Answer(0)
            self.last += 1
            self.sessions[self.last] = 1, named
            return Answer(self.last)
        if request.session_id not in self.sessions:
            self.reads = {}
            return Answer(0, 70)
        epoch, known = self.sessions[request.session_id]
        if request.session_epoch != epoch:
            self.reads = {}
            return Answer(0, 71)
        gone = {(topic, partition) for topic, numbers in request.forgotten_topics_data for partition in numbers}
        self.reads = {partition: asked for partition, asked in {**known, **named}.items() if partition not in gone}
        self.sessions[request.session_id] = 1 if epoch == MAX_EPOCH else epoch + 1, self.reads
        return Answer(request.session_id)


def fetch(wanted: Wanted) -> FetchRequest:
    topics: dict[str, list[tuple[int, int, int]]] = {}
    for (topic, partition), asked in wanted.items():
        topics.setdefault(topic, []).append((partition, *asked))
    return FetchRequest(100, 1, 1_000_000, 1, list(topics.items()))


@given(st.lists(st.tuples(wishes, fates), max_size=30))
async def test_an_answered_fetch_is_of_just_what_was_asked_for(steps: list[tuple[Wanted, str]]) -> None:
    broker = Broker()
    client = SessionClient(broker)
    for wanted, broker.fate in steps:
        try:
            answer = await client.send(NODE, fetch(wanted))
        except (KafkaConnectionError, asyncio.CancelledError):
            continue
        if answer.error_code == 0:
            assert broker.reads == wanted
        else:
            assert broker.fate == "session dropped"


async def test_a_fetch_names_only_what_has_changed() -> None:
    broker = Broker()
    client = SessionClient(broker)
    wanted = {("team.events", number): (0, 1_000) for number in range(32)}
    await client.send(NODE, fetch(wanted))
    assert broker.named == 32

    await client.send(NODE, fetch(wanted))
    assert broker.named == 0

    await client.send(NODE, fetch({**wanted, ("team.events", 3): (7, 1_000)}))
    assert broker.named == 1


async def test_after_a_dropped_session_the_next_fetch_begins_one() -> None:
    broker = Broker()
    client = SessionClient(broker)
    wanted = {("team.events", 0): (0, 1_000)}
    await client.send(NODE, fetch(wanted))
    broker.fate = "session dropped"
    assert (await client.send(NODE, fetch(wanted))).error_code == 70

    broker.fate = "answered"
    assert (await client.send(NODE, fetch(wanted))).error_code == 0
    assert broker.reads == wanted


async def test_the_epoch_after_the_last_one_is_the_second() -> None:
    session = FetchSession()
    session.answered(session.next(fetch({})), Answer(5))
    session._epoch = MAX_EPOCH
    session.answered(session.next(fetch({})), Answer(5))

    assert session.next(fetch({})).build(FetchRequest_v11).session_epoch == 1


@pytest.mark.parametrize("version", [FetchRequest_v4, FetchRequest_v7, FetchRequest_v11])
def test_a_request_can_be_encoded_in_each_version(version: type[FetchRequestStruct]) -> None:
    session = FetchSession()
    session.answered(session.next(fetch({("team.events", 0): (1, 10)})), Answer(9))

    request = session.next(fetch({("team.events", 1): (1, 10)})).build(version)

    assert len(request.encode()) > 30


async def test_what_is_no_fetch_goes_through_as_it_is() -> None:
    class Client:
        cluster = "cluster"

        async def send(self, node_id: int, request: object, **options: object) -> object:
            return node_id, request, options

    client = SessionClient(Client())

    assert await client.send(2, "a request", group=1) == (2, "a request", {"group": 1})
    assert client.cluster == "cluster"
