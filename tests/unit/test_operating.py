"""``docs/operating.md`` has a page for what an operator meets."""

import re
from pathlib import Path

import pytest
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase as Metric

from schemas.reasons import DEAD_LETTER_REASONS, Reason
from streams import metrics

PAGE = (Path(__file__).parents[2] / "docs" / "operating.md").read_text(encoding="utf-8")
CHAPTERS = {part.split("\n")[0]: part for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)}
SECTIONS = {part.split("\n")[0]: part for part in re.split(r"^### ", CHAPTERS["Dead letters"], flags=re.MULTILINE)[1:]}


@pytest.mark.parametrize("reason", sorted(DEAD_LETTER_REASONS))
def test_every_reason_of_a_dead_letter_has_its_section_that_says_what_to_run(reason: Reason) -> None:
    assert "**Means**" in SECTIONS[reason]
    assert re.search(r"\*\*Run:?\*\*", SECTIONS[reason])
    assert "**Changes**" in SECTIONS[reason]


def test_no_section_is_about_a_reason_that_there_is_none_of() -> None:
    assert SECTIONS.keys() == {reason.value for reason in DEAD_LETTER_REASONS}


ALARMS = [
    metrics.TOPIC_DIFFERENCES,
    metrics.STALLED,
    metrics.WAITING,
    metrics.BREAKER,
    metrics.PAUSED,
    metrics.HELD,
    metrics.FEEDBACK,
    metrics.RAZORPAY_LAST_WEBHOOK,
    metrics.RAZORPAY_FAILING_SINCE,
    metrics.RAZORPAY_FAILURES_IN_A_ROW,
]
FIGURES = [
    metrics.OUTCOMES,
    metrics.RECEIVED,
    metrics.POSITION,
    metrics.REQUESTS,
    metrics.REQUEST_SECONDS,
    metrics.GATEWAY_PENDING,
]


def name_of(metric: Metric) -> str:
    (described,) = metric.describe()
    return described.name


@pytest.mark.parametrize("metric", ALARMS, ids=name_of)
def test_every_metric_that_alarms_stands_in_the_page(metric: Metric) -> None:
    assert name_of(metric) in PAGE


def test_every_metric_is_an_alarm_or_a_figure() -> None:
    found = [value for value in vars(metrics).values() if isinstance(value, Counter | Gauge | Histogram)]

    assert {*map(name_of, found)} == {*map(name_of, (*ALARMS, *FIGURES))}
