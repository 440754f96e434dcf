"""What the demo prints: everything is there, in 80 columns, whole, without an address."""

import io
import re

import pytest
from rich.console import Console

from schemas.reasons import Reason
from streams.demo.accounting import balance
from streams.demo.scenario import build_scenario
from streams.demo.tables import show, totals
from tests.pretended_stack import pretend
from tests.unit.streams.demo.test_accounting import SETTINGS

NOW = 1_780_000_000.0
SCENARIO = build_scenario(NOW)
EVIDENCE = pretend(SCENARIO, SETTINGS, NOW)
ACCOUNTING = balance(SCENARIO, EVIDENCE, SETTINGS)


def printed(width: int) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    show(console, SCENARIO, EVIDENCE, ACCOUNTING)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_tables_fit_and_cut_nothing_off(width: int) -> None:
    text = printed(width)

    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    for delivery in SCENARIO.deliveries:
        assert delivery.event in text
        assert delivery.note in text
        for derived in delivery.derived:
            assert derived.note in text
    for row in EVIDENCE.rows:
        assert row.kind in text


def test_tables_show_every_reason_with_its_team_and_the_move() -> None:
    text = printed(80)

    assert re.search(r"ember +subscription\.charged +classify +stale +stays growth", text)
    assert re.search(r"fjord +admin\.tier_changed +classify +admin_changed +hobby -> team", text)
    assert re.search(r"- +subscription\.charged +gateway +bad_signature", text)
    assert re.search(r"kelp +subscription\.due +classify +paused +pro -> hobby", text)
    assert re.search(r"nettle +subscription\.moved +classify +moved +hobby_plus -> hobby", text)
    for reason in ACCOUNTING.total.outcomes:
        assert re.search(rf"\b{reason}\b", text)


def test_tables_say_what_followed_by_itself_and_who_said_so() -> None:
    text = printed(80)

    assert "What followed by itself: 4 times that came due, 1 subscription that moved" in text
    assert re.search(r"kelp +subscription\.due +the paid month is over +classify", text)
    assert re.search(r"nettle +subscription\.moved +the subscription is orchid's now +normalise", text)


def test_tables_mask_addresses() -> None:
    text = printed(80)

    assert "owner@" not in text
    assert "o***@aurora.example" in text


def test_totals_are_one_line_whose_summands_make_what_was_received() -> None:
    line = totals(ACCOUNTING.total)

    received, outcomes = line.removeprefix("received ").split(" = ")
    assert "\n" not in line
    beside = sum(len(delivery.derived) + (delivery.replayed is not None) for delivery in SCENARIO.deliveries)
    assert int(received) == len(SCENARIO.deliveries) + beside == sum(int(count) for count in re.findall(r"\d+", outcomes))
    assert f"1 {Reason.STALE}" in outcomes
