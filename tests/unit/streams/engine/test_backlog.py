"""When a partition's next records may be begun beside what is left."""

import pytest

from streams.engine.backlog import Backlog


class LetGo:
    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


def test_backlog_next_batch_may_begin_once_every_line_waits_or_has_ended() -> None:
    backlog, let_go = Backlog(most=10), LetGo()
    backlog.begin(let_go)
    first, second = backlog.open(3), backlog.open(1)

    first.waits()
    assert let_go.times == 0
    second.settled()
    second.close()
    assert let_go.times == 1

    first.settled()
    first.close()
    assert let_go.times == 1, "once for a batch"


def test_backlog_more_left_than_may_wait_holds_the_next_batch_until_there_is_room() -> None:
    backlog, let_go = Backlog(most=2), LetGo()
    backlog.begin(let_go)
    line = backlog.open(3)

    line.waits()
    assert (let_go.times, backlog.is_full) == (0, True)
    line.settled()
    assert (let_go.times, backlog.is_full) == (1, False)


def test_backlog_lines_of_earlier_batches_count_for_the_bound() -> None:
    backlog, second = Backlog(most=2), LetGo()
    backlog.begin(LetGo())
    former = backlog.open(2)
    former.waits()

    backlog.begin(second)
    backlog.open(1).waits()
    assert second.times == 0
    former.settled()
    assert second.times == 1


@pytest.mark.parametrize("waits", [True, False])
def test_backlog_line_that_is_given_up_leaves_nothing_behind(waits: bool) -> None:
    backlog, let_go = Backlog(most=0), LetGo()
    backlog.begin(let_go)
    line = backlog.open(5)
    line.settled()
    if waits:
        line.waits()

    line.close()
    line.close()

    assert (let_go.times, backlog.is_full) == (1, False)
    backlog.begin(let_go)
    again = backlog.open(1)
    again.settled()
    again.close()
    assert let_go.times == 2, "as if it had been new"
