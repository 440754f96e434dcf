"""The fast path gives what the general path gives: the same outcomes, bytes and rows."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import orjson
import pytest
from hypothesis import event as note
from hypothesis import given
from hypothesis import strategies as st

from agents.classify.history import KEPT_FACTS, MAX_FACTS
from agents.classify.stage import ClassifyStage, Team
from schemas.reasons import Reason
from streams.engine.table_stage import SMALL_BYTES, Run
from streams.engine.transactions import Output
from streams.kafka.records import Record
from streams.settings import Settings
from tests.factories import RECEIVED_AT, T0, TEAM, Event, billing, claim, imported, override, service
from tests.property.strategies import PLANS, logs, often
from tests.webhooks import record

STAGE = ClassifyStage(Settings(partitions=1))


class Way(NamedTuple):
    """Where a way through some records leads."""

    outcomes: Counter[Reason]
    outputs: list[Output]
    row: Team | None
    current: Output | None
    errors: list[str]


def one_by_one(records: Iterable[Record]) -> Way:
    way = Way(Counter(), [], None, None, [])
    for each in records:
        way = step(way, each)
    return way


def in_runs(records: Sequence[Record]) -> tuple[Way, list[Run]]:
    """Take the fast path wherever there is one."""
    way, at, runs = Way(Counter(), [], None, None, []), 0, list[Run]()
    while at < len(records):
        run = None if way.row is None else STAGE.run(records, at, way.row)
        if run is None:
            way = step(way, records[at])
            at += 1
            continue
        current = run.current() if run.current else way.current
        way = Way(way.outcomes + Counter(run.outcomes), [*way.outputs, *run.outputs], run.row, current, way.errors)
        at += run.records
        runs.append(run)
    return way, runs


def step(way: Way, one: Record) -> Way:
    effect = STAGE.effect(one, way.row)
    return Way(
        way.outcomes + Counter([effect.reason]),
        [*way.outputs, *effect.outputs],
        way.row if effect.row is None else effect.row,
        effect.current() if effect.current else way.current,
        way.errors if effect.error is None else [*way.errors, effect.error],
    )


def consumed(event: Event | bytes | None, received_at: int = RECEIVED_AT) -> Record:
    value = orjson.dumps(event) if isinstance(event, dict) else event
    return record(value, TEAM.encode(), topic="team.events", timestamp=received_at * 1000)


STARTS: list[list[Event]] = [
    [],
    [],
    [claim(0, user_id="u", name="Asha")],
    [imported(0, "team", "plan_pro", "sub_A", email="ravi@example.com")],
    [override(0, "team")],
    [override(3, "team")],
    [billing("charged", 0, subscription="sub_B")],
    [billing("cancelled", 0, subscription="sub_B", paid_count=0)],
]


@st.composite
def usual_scenarios(draw: st.DrawFn) -> list[Record]:
    """Return a team's charges and changes of plan, each newer than the last one, with something else in one place or two."""
    records = [consumed(event) for event in draw(st.sampled_from(STARTS))]
    length = draw(st.integers(2, 14))
    others = draw(st.sets(st.integers(2, 14), max_size=2))
    for at in range(1, length + 1):
        records += draw(_unusual(at) if at in others else _usual(at))
    return records


def _usual(at: int) -> st.SearchStrategy[list[Record]]:
    email = st.sampled_from([None, "payer@example.com", "käufer\u2028@example.com"])
    charged = st.builds(lambda plan, email: billing("charged", at, plan=plan, paid_count=at, email=email), PLANS, email)
    updated = st.builds(lambda plan, paid: billing("updated", at, plan=plan, paid_count=paid, status="active"), PLANS, st.integers(0, 1))
    renamed = st.builds(lambda tier: billing("charged", at, tier=tier), st.sampled_from(["hobby", "Pro_Yearly", "no tier", None]))
    return st.one_of(charged, charged, charged, updated, renamed).map(lambda event: [consumed(event)])


def unusual(at: int) -> dict[str, list[Record]]:
    """What may come among the charges, by what is unusual about it."""
    charge = billing("charged", at)
    events: dict[str, Event | bytes | None] = {
        "no value": None,
        "no JSON": b"{",
        "team id in capitals": {**charge, "subject": TEAM.upper()},
        "another team": {**charge, "subject": "3f1c1f0e-6a55-4c5c-9a39-0a4d3c1f7b02"},
        "no id": {**charge, "id": ""},
        "long id": {**charge, "id": "i" * 101},
        "no source": {**charge, "source": ""},
        "negative amount": {**charge, "data": {**charge["data"], "amount": -1}},
        "time as text": {**charge, "data": {**charge["data"], "occurred_at": "1750000000"}},
        "no plan": {**charge, "data": {**charge["data"], "plan_id": None}},
        "large": {**charge, "data": {**charge["data"], "plan_id": "p" * SMALL_BYTES}},
        "late": billing("charged", at - 1),
        "another subscription": billing("charged", at, subscription="sub_B"),
        "scheduled": billing("updated", at, status="active", has_scheduled_changes=True),
        "not active": billing("updated", at, status="halted"),
        "trial": billing("activated", at, paid_count=0),
        "activated": billing("activated", at, paid_count=1),
        "pending": billing("pending", at),
        "in grace": billing("pending", at, grace_ends_at=T0 + at + 9),
        "paused": billing("paused", at),
        "resumed": billing("resumed", at, status="active"),
        "moved": billing("moved", at),
        "due": billing("due", at),
        "halted": billing("halted", at),
        "cancelled": billing("cancelled", at),
        "ends later": billing("completed", at, current_end=T0 + at + 9),
        "adopted": billing("charged", at, adopt=True),
        "override": override(at, "free"),
        "claim": claim(at, name="Ravi"),
        "of a service": service("near_quota_wall", at, resource_type="disk", used=9, limit=10.5),
    }
    return {
        "in the future": [consumed(charge, received_at=T0 - 10_000)],
        "twice": [consumed(charge), consumed(charge)],
        **{name: [consumed(event)] for name, event in events.items()},
    }


LEAVES_NO_SHORT_WAY = {"another subscription", "cancelled", "override"}


def _unusual(at: int) -> st.SearchStrategy[list[Record]]:
    return st.sampled_from(list(unusual(at).values()))


def charges(*plans: str, at: int = 0) -> list[Record]:
    return [consumed(billing("charged", second, plan=plan, paid_count=second)) for second, plan in enumerate(plans, start=at)]


@pytest.mark.parametrize("kind", unusual(0))
def test_fast_path_is_left_and_found_again_where_something_unusual_comes(kind: str) -> None:
    before, after = charges("plan_hobby", "plan_pro", "plan_growth"), charges("plan_pro", "plan_growth", "plan_team", at=5)
    records = before + unusual(4)[kind] + after

    way, runs = in_runs(records)

    assert runs[0].records >= 2
    assert way == one_by_one(records)
    if kind not in LEAVES_NO_SHORT_WAY:
        assert sum(run.records for run in runs) >= 4, "before and after it"


@often
@given(usual_scenarios() | logs().map(lambda log: [consumed(event) for event in log]))
def test_fast_path_leads_where_the_long_one_does(records: list[Record]) -> None:
    way, runs = in_runs(records)

    note(f"{sum(run.records for run in runs)} of {len(records)} on the fast path")
    expected = one_by_one(records)
    assert way == expected
    assert way.row is None or expected.row is None or STAGE.pack(way.row) == STAGE.pack(expected.row)


@given(usual_scenarios())
def test_fast_path_leads_to_a_row_no_larger_than_what_may_have_made_it_larger(records: list[Record]) -> None:
    """A slice measures rows only once they may have become large, and counts on this."""
    row: Team | None = None
    for at, each in enumerate(records):
        run = None if row is None else STAGE.run(records, at, row)
        if row is not None and run is not None:
            last = records[at + run.records - 1].value or b""
            assert len(STAGE.pack(run.row)) <= len(STAGE.pack(row)) + run.growth_bytes + len(last)
        row = STAGE.effect(each, row).row or row


def test_fast_path_leaves_long_plans_and_ids_to_the_general_path() -> None:
    for long in (billing("charged", 2, plan="p" * 100), billing("charged", 2, event_id="e" * 100)):
        long["data"]["tier"] = "pro"
        _, runs = in_runs([*charges("plan_pro", "plan_growth"), consumed(long)])

        assert [run.records for run in runs] == [1]


def test_fast_path_row_grows_no_more_once_its_history_is_full() -> None:
    records = charges(*["plan_pro", "plan_growth"] * MAX_FACTS)

    way, (run,) = in_runs(records)

    assert run.records == len(records) - 1
    assert run.growth_bytes < SMALL_BYTES
    assert way.row is not None
    assert KEPT_FACTS <= way.row.row.live["sub_A"].count <= MAX_FACTS


def test_fast_path_takes_no_large_record() -> None:
    _, runs = in_runs(charges("plan_pro", "plan_hobby") + unusual(3)["large"])

    assert [run.records for run in runs] == [1]


def test_fast_path_takes_all_of_a_usual_scenario_but_its_first_charge() -> None:
    """The other laws would hold as well if it took nothing."""
    team_scenario = charges("plan_pro", "plan_growth", "plan_growth", "plan_pro", "plan_hobby", at=1)

    _, runs = in_runs([consumed(claim(0)), *team_scenario])

    assert [run.records for run in runs] == [4]
    assert runs[0].outcomes == {Reason.UPGRADED: 1, Reason.RENEWAL: 1, Reason.DOWNGRADED: 2}
    assert len(runs[0].outputs) == 3
