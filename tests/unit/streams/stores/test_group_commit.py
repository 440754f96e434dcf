"""Group commit: who comes at once shares a statement, and gets only what is theirs."""

import asyncio
from collections.abc import Sequence

import pytest

from streams.stores import group_commit
from streams.stores.group_commit import GroupCommit


class Statements:
    """Doubles numbers, once it may: one gate for each statement."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []
        self.begun, self.may_end = asyncio.Event(), asyncio.Event()
        self.failure: Exception | None = None

    async def run(self, items: Sequence[int]) -> list[int]:
        self.seen.append(list(items))
        self.begun.set()
        await self.may_end.wait()
        if self.failure is not None:
            raise self.failure
        return [2 * item for item in items]


async def test_callers_of_one_moment_share_a_statement_and_each_gets_its_own() -> None:
    statements = Statements()
    statements.may_end.set()
    written = GroupCommit(statements.run, 10)

    results = await asyncio.gather(written([1, 2]), written([3]), written([4, 5]))

    assert list(results) == [[2, 4], [6], [8, 10]]
    assert statements.seen == [[1, 2, 3, 4, 5]]


async def test_callers_that_come_one_after_the_other_share_a_statement_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "GATHER_SECONDS", 0.2)
    statements = Statements()
    statements.may_end.set()
    written = GroupCommit(statements.run, 10)
    callers = []
    for number in (1, 2, 3):
        callers.append(asyncio.create_task(written([number])))
        await asyncio.sleep(0.001)

    assert await asyncio.gather(*callers) == [[2], [4], [6]]
    assert statements.seen == [[1, 2, 3]]


async def test_who_comes_while_a_statement_is_under_way_goes_into_the_next() -> None:
    statements = Statements()
    written = GroupCommit(statements.run, 10, at_once=1)
    first = asyncio.create_task(written([1]))
    await statements.begun.wait()
    later = [asyncio.create_task(written([number])) for number in (2, 3)]
    statements.may_end.set()

    assert await asyncio.gather(first, *later) == [[2], [4], [6]]
    assert statements.seen == [[1], [2, 3]]


async def test_a_full_statement_takes_no_more() -> None:
    statements = Statements()
    statements.may_end.set()
    written = GroupCommit(statements.run, 3)

    await asyncio.gather(written([1, 2]), written([3, 4]), written([5]))

    assert statements.seen == [[1, 2], [3, 4, 5]]


async def test_two_items_of_one_key_do_not_share_a_statement() -> None:
    statements = Statements()
    statements.may_end.set()
    written = GroupCommit(statements.run, 10, key=lambda item: item % 10)

    results = await asyncio.gather(written([1]), written([2]), written([11]))

    assert list(results) == [[2], [4], [22]]
    assert statements.seen == [[1, 2], [11]]


async def test_a_failure_is_that_of_all_who_share_the_statement_and_of_nobody_else() -> None:
    statements = Statements()
    statements.failure = ValueError("no")
    statements.may_end.set()
    written = GroupCommit(statements.run, 10)

    failed = await asyncio.gather(written([1]), written([2]), return_exceptions=True)
    statements.failure = None

    assert [type(failure) for failure in failed] == [ValueError, ValueError]
    assert await written([3]) == [6]


async def test_a_caller_that_is_cancelled_takes_no_others_items_with_it() -> None:
    statements = Statements()
    written = GroupCommit(statements.run, 10)
    cancelled, other = asyncio.create_task(written([1])), asyncio.create_task(written([2]))
    await statements.begun.wait()
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    statements.may_end.set()

    assert await other == [4]


async def test_nothing_needs_no_statement() -> None:
    statements = Statements()

    assert await GroupCommit(statements.run, 10)([]) == []
    assert statements.seen == []
