"""Forwarders that share one account's limit, on one virtual clock: Loops never counts more than the limit in any second, and little is unused."""

import asyncio
import random
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.loops.rate_limit import RateLimiter
from streams.loops.slots import Grant, Limit, Return, SlotTable
from tests.virtual_time import run_virtually

CALLERS = 8


@dataclass
class Network:
    """Seconds of one way: always ``base``, and up to ``jitter`` more."""

    base: float
    jitter: float
    dice: random.Random

    async def way(self) -> None:
        await asyncio.sleep(self.base + self.dice.uniform(0, self.jitter))


class DistantSlots:
    """The slots somewhere else. Once its worker is dead nothing that it says arrives, and nothing is answered."""

    def __init__(self, table: SlotTable, network: Network) -> None:
        self._table, self._network = table, network
        self.is_dead = False
        self.stall = 0.0

    async def take(self, limit: Limit, lease: float) -> Grant | None:
        await self._arrive()
        grant = self._table.take(now(), limit, lease)
        await self._network.way()
        stall, self.stall = self.stall, 0.0
        await asyncio.sleep(stall)
        return grant

    async def give_back(self, limit: Limit, returns: Sequence[Return], stop: float) -> None:
        await self._arrive()
        self._table.give_back(now(), limit, returns, stop)
        await self._network.way()

    async def _arrive(self) -> None:
        await self._network.way()
        if self.is_dead:
            await asyncio.Event().wait()


def now() -> float:
    return asyncio.get_running_loop().time()


@dataclass
class Loops:
    """Counts each call when it arrives, in a window that slides, those of others too."""

    limit: int
    seconds: float
    network: Network
    counted: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    rejected: list[float] = field(default_factory=list)

    def count(self) -> float | None:
        """Count a call; return what is left of the limit, None when it is refused."""
        self.counted = self.counted[-self.limit * 2 :]
        used = len(self.counted) - bisect_right(self.counted, now() - self.seconds)
        if used >= self.limit:
            return None
        self.counted.append(now())
        return float(self.limit - used - 1)

    async def call(self, limiter: RateLimiter) -> None:
        started = await limiter.start()
        answered = False
        try:
            await self.network.way()
            left = self.count()
            (self.rejected if left is None else self.ours).append(now())
            await self.network.way()
            answered = True
        finally:
            limiter.finish(started, answered=answered)
        if left is None:
            limiter.reject(None)
        else:
            limiter.observe(self.limit if self.seconds == 1.0 else None, left)

    async def use_by_others(self, per_second: float) -> None:
        while True:
            await asyncio.sleep(1 / per_second)
            self.count()


@dataclass
class Account:
    """One account with a limit, and workers that come and go."""

    per_second: float
    network: Network
    table: SlotTable = field(default_factory=SlotTable)

    def __post_init__(self) -> None:
        whole = self.per_second >= 1
        self.loops = Loops(int(self.per_second) if whole else 1, 1.0 if whole else 1 / self.per_second, self.network)

    @asynccontextmanager
    async def worker(self, *, dies: bool = False, callers: int = CALLERS) -> AsyncIterator[DistantSlots]:
        """A worker with as much to send as it can, whose partitions are taken away at the end; one that ``dies`` has given nothing back."""
        slots = DistantSlots(self.table, Network(0.001, 0.004, self.network.dice))
        limiter = RateLimiter(self.per_second, slots, clock=now)

        async def send() -> None:
            while True:
                await self.loops.call(limiter)

        tasks = [asyncio.create_task(send()) for _ in range(callers)]
        try:
            yield slots
        finally:
            slots.is_dead = dies
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await limiter.close()

    def busiest(self) -> int:
        """The most of our calls that any second of Loops' clock holds."""
        times = sorted(self.loops.ours + self.loops.rejected)
        return max((index + 1 - bisect_right(times, at - self.loops.seconds) for index, at in enumerate(times)), default=0)

    def used(self, since: float, until: float) -> float:
        """The share of the limit that was used."""
        sent = sum(since < at <= until for at in self.loops.ours)
        return sent / (self.loops.limit * (until - since) / self.loops.seconds)


LIMITS = [0.5, 1, 3, 7, 10, 75, 400]


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("per_second", LIMITS)
def test_steady_workers_use_the_limit_and_never_more(per_second: float, workers: int) -> None:
    async def steady() -> tuple[Account, float]:
        account = Account(per_second, Network(0.010, 0.010, random.Random(workers)))
        seconds = 12.0 if per_second > 50 else 40.0 if per_second >= 3 else 110.0
        tasks = [asyncio.create_task(_work(account, seconds)) for _ in range(workers)]
        await asyncio.gather(*tasks)
        return account, account.used(2.0, seconds)

    account, used = run_virtually(steady())

    assert account.busiest() <= max(1, per_second)
    assert account.loops.rejected == []
    assert used >= 0.95


async def _work(account: Account, seconds: float) -> None:
    async with account.worker(callers=32 if account.per_second > 50 else CALLERS):
        await asyncio.sleep(seconds)


changes = st.lists(st.sampled_from(["joins", "leaves", "dies", "stalls", "rest"]), min_size=5, max_size=25)


@settings(max_examples=30, deadline=None)
@given(
    per_second=st.sampled_from(LIMITS),
    base=st.floats(0.001, 0.2),
    jitter=st.floats(0.0, 0.1),
    seed=st.integers(0, 2**32),
    changes=changes,
)
def test_workers_that_come_go_die_and_stall_never_exceed_the_limit(
    per_second: float, base: float, jitter: float, seed: int, changes: list[str]
) -> None:
    dice = random.Random(seed)

    async def busy() -> Account:
        account = Account(per_second, Network(base, jitter, dice))
        running: list[tuple[AbstractAsyncContextManager[DistantSlots], DistantSlots, bool]] = []
        for change in changes:
            if change == "joins" or not running:
                dies = dice.random() < 0.5
                worker = account.worker(dies=dies)
                running.append((worker, await worker.__aenter__(), dies))
            elif change == "stalls":
                dice.choice(running)[1].stall = dice.uniform(0.5, 20)
            elif change != "rest":
                matching = [entry for entry in running if entry[2] == (change == "dies")]
                for entry in matching[:1]:
                    running.remove(entry)
                    await entry[0].__aexit__(None, None, None)
            await asyncio.sleep(dice.choice([0.0, 0.3, 2.0]))
        for left, _, _ in running:
            await left.__aexit__(None, None, None)
        return account

    account = run_virtually(busy())

    assert account.busiest() <= max(1, per_second)
    assert account.loops.rejected == []


@pytest.fixture
def dice(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything falls in the same way each time: the limiter rolls the dice of ``random`` for itself."""
    state = random.getstate()
    random.seed(request.node.name)
    yield
    random.setstate(state)


@pytest.mark.usefixtures("dice")
@pytest.mark.parametrize("sample", range(5))
@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize(("others", "most"), [(3.0, 10), (6.0, 20), (9.5, 48)])
def test_workers_leave_others_of_the_account_their_part_without_storms(others: float, most: int, workers: int, sample: int) -> None:
    async def beside() -> Account:
        account = Account(10, Network(0.010, 0.020, random.Random(1)))
        foreign = asyncio.create_task(account.loops.use_by_others(others))
        await asyncio.gather(*(_work(account, 120.0) for _ in range(workers)))
        foreign.cancel()
        return account

    account = run_virtually(beside())

    assert len(account.loops.rejected) <= most  # with next to nothing left, most tries are refused
    assert account.used(10.0, 120.0) >= 0.9 * (1 - others / 10)
