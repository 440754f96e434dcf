"""Carrying a plan out: order, cut-offs, what is not taken."""

import pytest

from streams.errors import KafkaUnavailable
from streams.operate.dead_letters.filters import Filters
from streams.operate.dead_letters.letters import Action
from streams.operate.dead_letters.open_letters import OpenLetters
from streams.operate.dead_letters.outcomes import Decree
from streams.operate.dead_letters.plan import make_plan
from streams.operate.dead_letters.run import Progress, carry_out
from tests.dead_letter_doubles import SETTINGS, MemoryLogs, MemoryWriter

DECREE = Decree(Action.REPLAYED, "a test", "kim", 1_700_000_000.0)


def parked(count: int, keys: int = 2) -> MemoryLogs:
    logs = MemoryLogs()
    for number in range(count):
        logs.park(number, key=b"key-%d" % (number % keys), value=b"%d" % number)
    return logs


def run(
    logs: MemoryLogs, writer: MemoryWriter, decree: Decree = DECREE, *, chunks: int | None = None, rate: float | None = None
) -> Progress:
    """Carry out what is open; stop after so many ``chunks``."""
    letters = OpenLetters(SETTINGS, logs)
    letters.catch_up()
    waits: list[float] = []

    def stopped(seconds: float) -> bool:
        waits.append(seconds)
        return chunks is not None and len(waits) > chunks

    return carry_out(SETTINGS, make_plan(letters, Filters().matches, decree.action), letters, writer, decree, rate=rate, stopped=stopped)


def test_run_all_is_produced_in_order_and_nothing_stays_open() -> None:
    logs = parked(500)

    assert run(logs, MemoryWriter(logs)).done == 500
    assert logs.values("razorpay.webhooks") == [b"%d" % number for number in range(500)]
    assert run(logs, MemoryWriter(logs)).done == 0


def test_run_that_was_stopped_is_finished_by_the_next_each_record_once() -> None:
    logs = parked(450)

    assert [run(logs, MemoryWriter(logs), chunks=1).done, run(logs, MemoryWriter(logs)).done] == [200, 250]
    assert logs.values("razorpay.webhooks") == [b"%d" % number for number in range(450)]


def test_run_a_chunk_that_kafka_does_not_take_changes_nothing_and_ends_it() -> None:
    class Away(MemoryWriter):
        def commit(self, records: object) -> None:
            raise KafkaUnavailable("away")

    logs = parked(3)
    with pytest.raises(KafkaUnavailable):
        run(logs, Away(logs))

    assert logs.values("razorpay.webhooks") == []
    assert run(logs, MemoryWriter(logs)).done == 3


def test_run_later_records_of_a_key_do_not_overtake_one_that_is_not_taken() -> None:
    logs = parked(6)

    progress = run(logs, MemoryWriter(logs, too_large={b"2"}))

    assert logs.values("razorpay.webhooks") == [b"0", b"1", b"3", b"5"]
    assert (progress.done, progress.left.total()) == (4, 2)
    assert run(logs, MemoryWriter(logs)).done == 2
    assert logs.values("razorpay.webhooks")[-2:] == [b"2", b"4"]


def test_run_at_a_rate_takes_so_many_a_second() -> None:
    logs = parked(5)
    writer = MemoryWriter(logs)
    waits: list[float] = []
    letters = OpenLetters(SETTINGS, logs)
    letters.catch_up()

    def stopped(seconds: float) -> bool:
        waits.append(seconds)
        return False

    carry_out(SETTINGS, make_plan(letters, Filters().matches, Action.REPLAYED), letters, writer, DECREE, rate=2.0, stopped=stopped)

    assert writer.commits == [6, 6, 3]  # each record with its mark and its audit event
    assert [round(seconds) for seconds in waits] == [0, 1, 2]


def test_run_what_another_command_has_closed_meanwhile_is_left_alone() -> None:
    logs = parked(3)
    letters = OpenLetters(SETTINGS, logs)
    letters.catch_up()
    plan = make_plan(letters, Filters().matches, Action.REPLAYED)
    run(logs, MemoryWriter(logs), Decree(Action.DISCARDED, "not needed", "lou", 1.0))
    letters.catch_up()

    progress = carry_out(SETTINGS, plan, letters, MemoryWriter(logs), DECREE, stopped=lambda seconds: False)

    assert (progress.done, progress.left.total()) == (0, 3)
    assert logs.values("razorpay.webhooks") == []
