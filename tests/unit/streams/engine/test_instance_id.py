"""Who may join a group under an instance id: a worker that came back late may, one whose place another has taken may not."""

import asyncio

import pytest
from aiokafka.errors import UnknownError

from streams.engine.instance_id import InstanceIdGuard
from streams.errors import InstanceIdTaken, KafkaUnavailable
from tests.waiting import eventually

FENCED = UnknownError()
"""What aiokafka makes of FENCED_INSTANCE_ID."""


class Coordinator:
    """A stand-in for aiokafka's, which joins as it is told."""

    _retry_backoff_ms = 1

    def __init__(self) -> None:
        self.member_id = ""
        self._closing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.joins = 0
        self.answers: list[str | Exception] = []
        self.under_way: asyncio.Event | None = None

    async def _do_rejoin_group(self, _subscription: object) -> bool:
        self.joins += 1
        if self.under_way is not None:
            await self.under_way.wait()
        answer = self.answers.pop(0) if self.answers else f"worker-{self.joins}"
        if isinstance(answer, Exception):
            raise answer
        self.member_id = answer
        return answer != ""


class Group:
    """Says who has the instance id, and counts how often it is asked."""

    def __init__(self) -> None:
        self.holder: str | Exception | None = None
        self.asked = 0

    def __call__(self) -> str | None:
        self.asked += 1
        if isinstance(self.holder, Exception):
            raise self.holder
        return self.holder


class Member:
    """A static member with its coordinator and its guard."""

    def __init__(self) -> None:
        self.coordinator, self.group = Coordinator(), Group()
        self.guard = InstanceIdGuard(self.coordinator, "classify-0", self.group)

    async def join(self) -> bool:
        """Join, as aiokafka does."""
        return await self.coordinator._do_rejoin_group(None)

    def forgotten(self) -> None:
        """Kafka says that it does not know the member id."""
        self.coordinator.member_id = ""

    async def ends(self) -> bool:
        """Whether the next join waits for the end instead."""
        joins = self.coordinator.joins
        task = asyncio.create_task(self.join())
        await eventually(lambda: self.guard.taken or task.done())
        self.coordinator._closing.set_result(None)
        return not await task and self.coordinator.joins == joins


async def test_the_first_join_asks_nobody_for_a_restart_takes_the_place_of_the_process_before_it() -> None:
    member = Member()
    member.group.holder = "worker-of-the-process-before"

    assert await member.join()

    assert member.group.asked == 0
    assert member.guard.taken is None


@pytest.mark.parametrize("holder", [pytest.param(None, id="nobody"), pytest.param("worker-1", id="itself")])
async def test_a_member_that_kafka_has_forgotten_joins_again_unless_another_has_its_id(holder: str | None) -> None:
    member = Member()
    await member.join()
    member.forgotten()
    member.group.holder = holder

    assert await member.join()

    assert (member.group.asked, member.coordinator.joins, member.guard.taken) == (1, 2, None)


async def test_a_member_whose_place_another_has_taken_does_not_join_and_says_why() -> None:
    member = Member()
    await member.join()
    member.forgotten()
    member.group.holder = "worker-of-the-other"

    assert await member.ends()

    assert isinstance(member.guard.taken, InstanceIdTaken)
    assert "TIERSTREAM_INSTANCE_ID, classify-0," in str(member.guard.taken)


async def test_an_ordinary_rebalance_asks_nobody() -> None:
    member = Member()
    await member.join()
    member.group.holder = "worker-of-the-other"

    assert await member.join()

    assert member.group.asked == 0


@pytest.mark.parametrize("holder", ["worker-of-the-other", "worker-1", None])
async def test_a_join_that_kafka_refuses_is_the_clients_error_unless_another_has_the_id(holder: str | None) -> None:
    member = Member()
    await member.join()
    member.coordinator.answers, member.group.holder = [FENCED], holder

    if holder == "worker-of-the-other":
        member.coordinator._closing.set_result(None)
        assert not await member.join()
        assert isinstance(member.guard.taken, InstanceIdTaken)
    else:
        with pytest.raises(UnknownError):
            await member.join()
        assert member.guard.taken is None


async def test_a_join_whose_answer_was_lost_is_taken_for_no_other_process() -> None:
    """Kafka may know this process by a member id that it never heard of."""
    member = Member()
    await member.join()
    member.forgotten()
    member.coordinator.answers = [""]
    assert not await member.join()
    member.group.holder = "worker-that-is-this-process-too"

    assert await member.join()

    assert (member.group.asked, member.guard.taken) == (1, None)


async def test_while_kafka_does_not_say_who_has_the_id_nobody_is_thrown_out() -> None:
    member = Member()
    await member.join()
    member.forgotten()
    member.group.holder = KafkaUnavailable("away")

    assert not await member.join()

    assert (member.coordinator.joins, member.guard.taken) == (1, None)


@pytest.mark.parametrize(
    ("holder", "expected"), [("worker-of-the-other", True), ("worker-1", False), (None, False), (KafkaUnavailable("away"), False)]
)
async def test_find_says_whether_another_process_has_the_id(holder: str | Exception | None, expected: bool) -> None:
    member = Member()
    await member.join()
    member.group.holder = holder

    assert (await member.guard.find() is not None) == expected


async def test_find_waits_for_the_join_that_is_under_way() -> None:
    member = Member()
    await member.join()
    member.forgotten()
    member.coordinator.under_way = asyncio.Event()
    joining = asyncio.create_task(member.join())
    await eventually(lambda: member.coordinator.joins == 2)
    member.group.holder = "worker-2"  # Kafka gives it out as soon as it has the request
    finding = asyncio.create_task(member.guard.find())
    await asyncio.sleep(0)
    member.coordinator.under_way.set()

    assert await finding is None
    assert await joining
