"""The short form of ``make outages``: PostgreSQL, Loops and Kafka away for some seconds each; and what a broken promise looks like."""

import pytest
from rich.console import Console

from streams.publisher import Stats
from tests.faults.outages import Plan, run
from tests.faults.sender import Answered
from tests.faults.service import Call
from tests.faults.service import Report as ServiceReport
from tests.faults.windows import ANSWER_SECONDS, Sort, Window, broken_promises, quantile, ratios, table

SHORT = Plan(seconds=3.0, normal_seconds=1.0)

BUSY_P99_SECONDS = 0.02
"""The promise is 0.001 s; the factor is for a machine that does other things beside the test."""


@pytest.mark.alone
async def test_with_each_service_away_nothing_is_dropped_every_request_is_answered_in_time_and_all_is_on_its_topic() -> None:
    console = Console(width=180)

    report = await run(SHORT, console.print)

    console.print(table(report.windows))
    windows = {window.name: window for window in report.windows}
    away = [windows[name] for name in ("PostgreSQL killed", "Loops killed", "Kafka killed", "Kafka paused")]
    assert sum(window.counted.dropped for window in report.windows) == 0
    assert all(len(window.publish) > 100 and len(window.answers) > 50 for window in away)
    assert max(took for window in report.windows for took in window.answer_seconds) < ANSWER_SECONDS
    assert all(window.statuses.keys() == {"200"} for window in away[:2])
    assert windows["Kafka killed"].statuses["503"] > 50
    assert all(window.counted.spooled > 100 for window in away[2:])
    assert (report.left, report.spool_is_empty) == (0, True)
    assert report.published.lacking == report.published.repeated == report.accepted.lacking == 0
    assert quantile([took for window in report.windows for took in window.publish], 0.99) < BUSY_P99_SECONDS


def window(name: str, sort: Sort, *, kafka: bool = False, p99: float = 0.004, status: int = 200, dropped: int = 0) -> Window:
    """A window of 100 answers, of which two took ``p99``."""
    answers = [(200, 0.003)] * 98 + [(status, p99)] * 2
    return Window(name, sort, kafka, publish=[0.0001] * 100, answers=answers, counted=Stats(dropped=dropped))


def test_quantile_is_a_value_that_was_measured() -> None:
    assert [quantile([3.0, 1.0, 2.0, 4.0], part) for part in (0.25, 0.5, 0.51, 0.99, 1.0)] == [1.0, 2.0, 3.0, 4.0, 4.0]
    assert quantile([], 0.99) == 0.0


def test_ratio_is_that_to_the_normal_windows_on_both_sides() -> None:
    windows = [
        window("normal", Sort.NORMAL, p99=0.004),
        window("Loops killed", Sort.OUTAGE, p99=0.008),
        window("Loops back", Sort.BACK, p99=1.0),
        window("normal", Sort.NORMAL, p99=0.004),
    ]

    assert ratios(windows) == [None, 2.0, None, None]


def test_each_promise_that_is_broken_is_a_sentence() -> None:
    good = [window("normal", Sort.NORMAL), window("Loops killed", Sort.OUTAGE, p99=0.015), window("normal", Sort.NORMAL)]
    slow = window("Kafka killed", Sort.OUTAGE, kafka=True, status=503, p99=2.6)
    slow.publish[:2] = [0.001, 0.002]
    bad = [
        *good,
        window("PostgreSQL killed", Sort.OUTAGE, status=503, p99=0.05),
        slow,
        window("Kafka back", Sort.BACK, kafka=True, status=0, dropped=3),
        Window("normal", Sort.NORMAL),
    ]

    assert list(broken_promises(good)) == []
    assert list(broken_promises(bad)) == [
        "PostgreSQL killed: answers {503: 2}",
        "PostgreSQL killed: p99 of the gateway is 50.0 ms, and 4.0 ms normally",
        "Kafka killed: p99 of publish() is 1000 µs",
        "Kafka killed: 2 requests waited longer than 2.5 s, 2.6 s the longest",
        "Kafka back: 3 events were dropped",
        "Kafka back: answers {0: 2}",
        "normal: nothing was measured",
    ]


def test_what_the_sender_prints_is_read_as_it_was() -> None:
    answered = Answered(12.5, 0.25, 503, "Rp1")

    assert Answered.parse(answered.line()) == answered


def test_what_the_service_prints_is_read_as_it_was_and_a_line_of_its_log_is_none() -> None:
    report = ServiceReport([Call(12.5, 0.0001, "a"), Call(12.6, 0.0002, None)], Stats(published=2, sent=1, dropped=1), left=0)

    assert ServiceReport.parse(report.line()) == report
    assert ServiceReport.parse("Kafka does not acknowledge") is None
